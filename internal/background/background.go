// Package background lets work give way to what others wait for.
//
// A thread of low priority that is kept off the processor keeps what it holds:
// no lock that a request needs may be taken in the background for longer than a
// moment.
package background

import "sync"

// Lower makes the calling goroutine give way, for the rest of its life, to the
// other goroutines of this process and to other processes: on Linux it gets a
// thread of its own with a low priority. Call it first in a goroutine that is
// started for the work and ends with it.
func Lower() { lower() }

// Do runs fn in a goroutine that has called Lower, and waits for it.
func Do(fn func()) {
	var done sync.WaitGroup
	done.Go(func() {
		lower()
		fn()
	})
	done.Wait()
}
