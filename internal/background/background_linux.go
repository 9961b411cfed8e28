package background

import (
	"runtime"

	"golang.org/x/sys/unix"
)

// niceness of background threads, as of nice(1): they get about a tenth of a
// processor that others want.
const niceness = 10

// lower gives the calling goroutine a thread of its own, which ends with it: the
// way back to the usual priority takes a privilege. A system that refuses leaves
// it as it was.
func lower() {
	runtime.LockOSThread()
	if p, err := unix.Getpriority(unix.PRIO_PROCESS, 0); err == nil && 20-p < niceness {
		_ = unix.Setpriority(unix.PRIO_PROCESS, 0, niceness)
	}
}
