package fault

import (
	"errors"
	"fmt"
	"io"
	"testing"
)

// TestTable is the contract of the codes: their texts and exit statuses.
func TestTable(t *testing.T) {
	want := map[Code]int{
		"usage": 2, "refused": 1, "in_use": 1, "not_empty": 1, "corrupt": 4, "different": 4, "not_leader": 1, "lease_lost": 1,
		"reseed": 1, "no_space": 1, "permission": 1, "unreachable": 3, "timeout": 3, "interrupted": 130, "failed": 1,
	}
	for _, c := range Codes() {
		status, listed := want[c]
		if !listed || c.Exit() != status {
			t.Errorf("%s exits with %d, want %d (listed: %v)", c, c.Exit(), status, listed)
		}
		delete(want, c)
	}
	if len(want) != 0 {
		t.Errorf("codes not in Codes(): %v", want)
	}
}

func TestChain(t *testing.T) {
	inner := New(NoSpace, "write", io.ErrShortWrite).At("/d/f").WithHint("free %d bytes", 7)
	outer := fmt.Errorf("pull: %w", Newf(Refused, "stage", "no: %w", inner))
	if got := CodeOf(outer); got != Refused {
		t.Errorf("code %s: the outermost class counts", got)
	}
	if got := HintOf(outer); got != "free 7 bytes" {
		t.Errorf("hint %q: the first hint of the chain counts", got)
	}
	if !errors.Is(outer, io.ErrShortWrite) {
		t.Error("the cause is lost")
	}
	if got, want := outer.Error(), "pull: stage: no: write: /d/f: short write"; got != want {
		t.Errorf("text %q, want %q", got, want)
	}
	if !Is(outer, Refused) || Is(outer, NoSpace) {
		t.Error("Is looks at the outermost class alone")
	}
}

func TestNoFault(t *testing.T) {
	if CodeOf(nil) != "" || HintOf(nil) != "" {
		t.Error("nil has a class or a hint")
	}
	if CodeOf(io.EOF) != Internal || HintOf(io.EOF) != "" {
		t.Error("another error is failed, without a hint")
	}
	if got := (&Error{Code: Timeout}).Error(); got != "timeout" {
		t.Errorf("an error that says nothing: %q", got)
	}
}
