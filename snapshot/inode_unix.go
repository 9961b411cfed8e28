//go:build unix

package snapshot

import (
	"syscall"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// inodeOf gives the inode of a file; false where there is none, as in memory.
func inodeOf(info vfs.FileInfo) (uint64, bool) {
	stat, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return 0, false
	}
	return stat.Ino, true
}
