package output

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"testing"

	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.uber.org/goleak"

	"github.com/chainfire/cfseed/internal/fault"
	entryv1 "github.com/chainfire/cfseed/proto/chainfire/entry/v1"
	chainfirev1 "github.com/chainfire/cfseed/proto/chainfire/v1"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestResult(t *testing.T) {
	var out bytes.Buffer
	text := func(w io.Writer) { fmt.Fprintln(w, "hello") }
	if err := NewPrinter(&out, false).Result(nil, text); err != nil || out.String() != "hello\n" {
		t.Errorf("%q, %v", out.String(), err)
	}
	out.Reset()
	if err := NewPrinter(&out, true).Result(map[string]string{"a": "<b>"}, text); err != nil || out.String() != "{\"a\":\"<b>\"}\n" {
		t.Errorf("%q, %v", out.String(), err)
	}
	out.Reset()
	if err := NewPrinter(&out, true).Result(func() {}, text); err == nil || out.Len() != 0 {
		t.Errorf("what can not be JSON: %q, %v", out.String(), err)
	}
	if err := NewPrinter(broken{}, false).Result(nil, text); err == nil {
		t.Error("a broken stdout is no failure")
	}
}

type broken struct{}

func (broken) Write([]byte) (int, error) { return 0, errors.New("broken") }

func TestSize(t *testing.T) {
	for bytes, want := range map[uint64]string{
		0: "0 B", 1023: "1023 B", 1024: "1.0 KiB", 1536: "1.5 KiB", 1 << 20: "1.0 MiB", 5 << 30: "5.0 GiB", 1<<64 - 1: "16.0 EiB",
	} {
		if got := Size(bytes); got != want {
			t.Errorf("Size(%d) = %q, want %q", bytes, got, want)
		}
	}
}

func TestShapes(t *testing.T) {
	text := &mvccpb.KeyValue{Key: []byte("k"), Value: []byte("<v>"), CreateRevision: 2, ModRevision: 3, Version: 1}
	raw := &mvccpb.KeyValue{Key: []byte("k"), Value: []byte{0xff, 0}}
	tests := []struct {
		name  string
		value any
		want  string
	}{
		{"id", ID(0xab), `"00000000000000ab"`},
		{"no id", ID(0).Optional(), `null`},
		{"hex", Hex{1, 0xfe}, `"01fe"`},
		{"position", PositionOf(&entryv1.Position{Term: 2, Index: 7}), `{"term":2,"index":7}`},
		{"no position", PositionOf(nil), `null`},
		{"no members", MembersOf(nil), `[]`},
		{"member", MembersOf([]*chainfirev1.Member{{Id: 1, Name: "a", Role: "voter", State: "member"}}),
			`[{"id":"0000000000000001","name":"a","role":"voter","state":"member","peer_urls":[],"client_urls":[]}]`},
		{"pair", KeyValueOf(text, false, false), `{"key":"k","value":"<v>","create_revision":2,"mod_revision":3,"version":1,"lease":0}`},
		{"key only", KeyValueOf(text, true, false), `{"key":"k","create_revision":2,"mod_revision":3,"version":1,"lease":0}`},
		{"hex pair", KeyValueOf(text, false, true), `{"key_hex":"6b","value_hex":"3c763e","create_revision":2,"mod_revision":3,"version":1,"lease":0}`},
		{"not text", KeyValueOf(raw, false, false), `{"key":"k","value_hex":"ff00","create_revision":0,"mod_revision":0,"version":0,"lease":0}`},
		{"empty report", NewReport(), `{"ok":true,"checks":[],"findings":[],"digest":"","revision":0,"position":null}`},
	}
	for _, tc := range tests {
		var out bytes.Buffer
		if err := encode(&out, tc.value); err != nil || strings.TrimSpace(out.String()) != tc.want {
			t.Errorf("%s: %s, want %s, %v", tc.name, out.String(), tc.want, err)
		}
	}
}

func TestReport(t *testing.T) {
	r := NewReport()
	r.Pass("one", 0.5, "%d rows", 3)
	r.Skip("two", "not asked")
	if err := r.Err(); err != nil || !r.OK {
		t.Errorf("OK report: %v", err)
	}
	r.Fail("three", 1, Finding{Code: fault.Unreachable, Path: "a", Detail: "silent"})
	if err := r.Err(); !fault.Is(err, fault.Unreachable) || r.OK {
		t.Errorf("%v", err)
	}
	r.Fail("four", 1, Finding{Code: fault.Different, Path: "b", Detail: "other bytes"})
	if err := r.Err(); !fault.Is(err, fault.Different) {
		t.Errorf("difference does not go first: %v", err)
	}
	var text bytes.Buffer
	r.Write(&text)
	for _, want := range []string{"one    ok       0.50     3 rows", "different: b: other bytes", "NOT OK"} {
		if !strings.Contains(text.String(), want) {
			t.Errorf("lacks %q:\n%s", want, text.String())
		}
	}
	unsure := NewReport()
	unsure.OK = false // by a judge that found nothing and saw too little
	if err := unsure.Err(); !fault.Is(err, fault.Refused) {
		t.Errorf("%v", err)
	}
}

// plainLog drops the time.
func plainLog(w io.Writer) *slog.Logger {
	return slog.New(slog.NewTextHandler(w, &slog.HandlerOptions{ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
		if a.Key == slog.TimeKey {
			return slog.Attr{}
		}
		return a
	}}))
}

func TestProgressLines(t *testing.T) {
	var out bytes.Buffer
	p := NewProgress(&out, false, plainLog(&out))
	p.Phase("reserve")
	p.Phase("reserve")
	p.Transfer(0, 0, 0, 0)
	p.Phase("seed")
	for done := uint64(0); done <= 1000; done += 125 {
		p.Transfer(done, 1000, done/2, 2048)
		p.Transfer(done, 1000, done/2, 2048)
	}
	p.Phase("verify")
	p.Close(true)
	p.Close(true)
	p.Phase("late")
	p.Transfer(1, 1, 1, 1)
	want := `level=INFO msg=phase name=reserve
level=INFO msg=phase name=seed
`
	for _, percent := range []int{10, 20, 30, 50, 60, 70, 80, 100} {
		done := map[int]uint64{10: 125, 20: 250, 30: 375, 50: 500, 60: 625, 70: 750, 80: 875, 100: 1000}[percent]
		want += fmt.Sprintf("level=INFO msg=transfer percent=%d done=%q total=\"1000 B\" wire=%q rate=\"2.0 KiB/s\"\n",
			percent, Size(done), Size(done/2))
	}
	want += "level=INFO msg=phase name=verify\n"
	if out.String() != want {
		t.Errorf("got\n%s\nwant\n%s", out.String(), want)
	}
}

// TestProgressBars: any order of calls ends, and goroutines with it (TestMain).
func TestProgressBars(t *testing.T) {
	runs := map[string]func(Progress){
		"nothing": func(p Progress) { p.Close(true) },
		"all phases": func(p Progress) {
			p.Phase("reserve")
			p.Phase("seed")
			p.Transfer(5, 10, 1, 1)
			p.Phase("admit")
			p.Close(true)
		},
		"failed":      func(p Progress) { p.Phase("seed"); p.Transfer(5, 10, 1, 1); p.Close(false); p.Close(true) },
		"no phase":    func(p Progress) { p.Transfer(10, 10, 1, 1); p.Transfer(11, 10, 1, 1); p.Close(true) },
		"late events": func(p Progress) { p.Phase("seed"); p.Close(false); p.Phase("late"); p.Transfer(1, 2, 3, 4) },
	}
	for name, run := range runs {
		t.Run(name, func(*testing.T) { run(NewProgress(io.Discard, true, nil)) })
	}
}

func TestStatusWithoutLeaderIsJSON(t *testing.T) {
	out, err := json.Marshal(StatusOf(&chainfirev1.StatusResponse{ClusterId: 1}))
	if err != nil || !strings.Contains(string(out), `"leader":null`) || !strings.Contains(string(out), `"members":[]`) {
		t.Errorf("%s, %v", out, err)
	}
}
