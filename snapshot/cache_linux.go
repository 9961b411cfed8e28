package snapshot

import (
	"github.com/cockroachdb/pebble/v2/vfs"
	"golang.org/x/sys/unix"
)

// forgetCached asks the kernel to drop its copy of a synced file, so that what
// is read next comes from the disk. It is advice: where it is not taken, the
// copy in memory is what is checked.
func forgetCached(f vfs.File) {
	if fd := f.Fd(); fd != vfs.InvalidFd {
		_ = unix.Fadvise(int(fd), 0, 0, unix.FADV_DONTNEED)
	}
}
