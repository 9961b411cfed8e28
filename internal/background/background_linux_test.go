package background

import (
	"testing"

	"golang.org/x/sys/unix"
)

// priority is the nice value of the calling thread; the system call gives 20
// less it.
func priority(t *testing.T) int {
	t.Helper()
	p, err := unix.Getpriority(unix.PRIO_PROCESS, 0)
	if err != nil {
		t.Fatal(err)
	}
	return 20 - p
}

// Work in the background has a thread of low priority, and nobody else gets it.
func TestDo(t *testing.T) {
	before := priority(t)
	var during, thread int
	Do(func() { during, thread = priority(t), unix.Gettid() })
	if want := max(before, niceness); during != want {
		t.Errorf("nice %d in the background, want %d", during, want)
	}
	for range 100 {
		done := make(chan struct{})
		go func() {
			defer close(done)
			if unix.Gettid() == thread {
				t.Error("a goroutine runs on the background's thread")
			}
		}()
		<-done
	}
	if after := priority(t); after != before {
		t.Errorf("nice %d afterwards, was %d", after, before)
	}
}
