package main

import (
	"os"
	"runtime"
)

// spareThreads lets more goroutines run at a time than there are processors.
// While those of a seed keep every one of Go's processors busy, a request waits
// until the scheduler next looks at the network or takes a processor away, up
// to 10 ms at each step of its way; between threads the kernel decides, and it
// prefers those that have used little. Where goroutines wait for a disk and a
// line in system calls, none to spare has the runtime look every 20 microseconds
// whether one of them is to be taken away, a tenth of what a pull costs.
// GOMAXPROCS, when set, has the last word.
func spareThreads() {
	if os.Getenv("GOMAXPROCS") == "" {
		runtime.GOMAXPROCS(runtime.GOMAXPROCS(0) + 4)
	}
}
