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

// file names the file, whatever has been written to it since.
func (k sumKey) file() sumKey {
	k.size, k.writtenAt = 0, 0
	return k
}

type sumCacheEntries map[sumKey][]uint64

// sumCache keeps the chunk sums of the last capture and those made ahead of the
// next one, so that it reads only tables written since.
//
// When ReadChunk finds that a table's bytes and sums differ, either may be wrong:
// the disk, or what was read when the sums were made. The table is then in
// doubt. Its sums are not used again, and new ones are made only after its own
// checksums were found to be right: else damaged bytes would get sums that fit.
type sumCache struct {
	mu      sync.Mutex
	entries sumCacheEntries // of the last capture
	ahead   sumCacheEntries // made by SumAhead
	doubted map[sumKey]bool // by sumKey.file
	hits    uint64
}

// get gives the sums for a capture, nil when they are not known.
func (c *sumCache) get(key sumKey) []uint64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	sums := c.find(key)
	if sums != nil {
		c.hits++
	}
	return sums
}

// peek is get for one that only looks.
func (c *sumCache) peek(key sumKey) []uint64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.find(key)
}

func (c *sumCache) find(key sumKey) []uint64 {
	if c.doubted[key.file()] {
		return nil
	}
	if sums := c.entries[key]; sums != nil {
		return sums
	}
	return c.ahead[key]
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

// setAhead forgets what was summed ahead but for these.
func (c *sumCache) setAhead(known sumCacheEntries) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.ahead = known
}

// noteAhead adds a table that was summed ahead.
func (c *sumCache) noteAhead(key sumKey, sums []uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.ahead[key] = sums
}

// doubt says that a table's bytes are not those that were summed.
func (c *sumCache) doubt(key sumKey) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.doubted == nil {
		c.doubted = map[sumKey]bool{}
	}
	c.doubted[key.file()] = true
}

// trust ends the doubt about a table that was found to be whole: it may be
// summed again.
func (c *sumCache) trust(key sumKey) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.entries, key)
	delete(c.ahead, key)
	delete(c.doubted, key.file())
}

func (c *sumCache) inDoubt(key sumKey) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.doubted[key.file()]
}
