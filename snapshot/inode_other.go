//go:build !unix

package snapshot

import "github.com/cockroachdb/pebble/v2/vfs"

// inodeOf knows no inodes here.
func inodeOf(vfs.FileInfo) (uint64, bool) { return 0, false }
