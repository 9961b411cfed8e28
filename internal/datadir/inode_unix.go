//go:build unix

package datadir

import (
	"os"
	"syscall"
)

// inodeOf gives 0 for a file that is not of the operating system.
func inodeOf(info os.FileInfo) uint64 {
	if st, ok := info.Sys().(*syscall.Stat_t); ok {
		return uint64(st.Ino)
	}
	return 0
}
