//go:build !linux

package snapshot

import "github.com/cockroachdb/pebble/v2/vfs"

// setDirect does nothing: elsewhere the flag is another or there is none.
func setDirect(vfs.File, bool) bool { return false }
