//go:build !linux

package snapshot

import "github.com/cockroachdb/pebble/v2/vfs"

// forgetCached does nothing where the kernel takes no such advice.
func forgetCached(vfs.File) {}
