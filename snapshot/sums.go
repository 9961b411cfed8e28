package snapshot

import (
	"sync"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/chainfire/cfseed/snapshot/manifest"
)

// sumKey names the bytes of a file that is never changed once written. The
// name alone does not: numbers start again in every state-<n>.
type sumKey struct {
	name      string
	size      uint64
	device    vfs.DeviceID
	inode     uint64
	writtenAt int64 // Unix nanoseconds
}

// sumKeyOf gives the key of a file; false when its sums must not be kept.
func sumKeyOf(entry *manifest.File, info vfs.FileInfo) (sumKey, bool) {
	if entry.Kind != manifest.KindTable && entry.Kind != manifest.KindBlob {
		return sumKey{}, false
	}
	inode, ok := inodeOf(info)
	return sumKey{
		name: entry.Name, size: entry.Size, device: info.DeviceID(), inode: inode,
		writtenAt: info.ModTime().UnixNano(),
	}, ok
}

type sumCacheEntries map[sumKey][]uint64

// sumCache keeps the chunk sums of the last capture, so that the next one reads
// only tables written since. Should it ever be wrong, ReadChunk finds out.
type sumCache struct {
	mu      sync.Mutex
	entries sumCacheEntries
	hits    uint64
}

func (c *sumCache) get(key sumKey) []uint64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	sums := c.entries[key]
	if sums != nil {
		c.hits++
	}
	return sums
}

// note adds to the entries of a capture under way.
func (c *sumCache) note(seen sumCacheEntries, key sumKey, sums []uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	seen[key] = sums
}

// replace forgets files that the last capture did not have.
func (c *sumCache) replace(seen sumCacheEntries) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.entries = seen
}
