package snapshot

import (
	"cmp"
	"context"
	"io"
	"slices"
	"time"

	"golang.org/x/time/rate"

	"github.com/chainfire/cfseed/snapshot/manifest"
)

// How tables are summed ahead of a capture.
const (
	aheadEvery   = 5 * time.Second  // between two looks at the directory
	aheadSettled = 10 * time.Second // a younger table may soon be merged into others
	aheadRate    = 32 << 20         // bytes per second
)

// SumAhead sums the tables in a state's directory before a seed is asked for,
// so that a capture reads those alone that were written since. dir names the
// directory that is current. It reads slowly, in small pieces, one table at a
// time: mostly from memory, for what was just written is still there. It keeps 8
// bytes for each chunk, and nothing on disk, since a sum is made again sooner
// than an old one is worth trusting. It returns nil when ctx ends.
//
// A sum is never more than a prediction: ReadChunk compares every chunk with it,
// and a table that differs is in doubt (sumCache). What can not be read is left
// for the capture to report.
func (l *Library) SumAhead(ctx context.Context, dir func() string) error {
	a := ahead{capture: &l.capture, settled: aheadSettled, limit: rate.NewLimiter(aheadRate, int(l.capture.chunkSize))}
	tick := time.NewTicker(aheadEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case now := <-tick.C:
			a.pass(ctx, dir(), now)
		}
	}
}

// ahead sums tables for captures to come.
type ahead struct {
	capture *capturer
	settled time.Duration
	limit   *rate.Limiter
}

// unsummed is a table that no sums are known of.
type unsummed struct {
	path string
	key  sumKey
}

// pass sums what of dir has settled by now and forgets what is gone.
func (a *ahead) pass(ctx context.Context, dir string, now time.Time) {
	names, err := list(a.capture.fs, dir)
	if err != nil {
		return
	}
	known := make(sumCacheEntries, len(names))
	var todo []unsummed
	for _, name := range names {
		path := a.capture.fs.PathJoin(dir, name)
		key, ok := a.keyOf(path, name)
		if !ok || a.capture.sums.inDoubt(key) { // a capture looks into that
			continue
		}
		if sums := a.capture.sums.peek(key); sums != nil {
			known[key] = sums
		} else if now.Sub(time.Unix(0, key.writtenAt)) >= a.settled {
			todo = append(todo, unsummed{path, key})
		}
	}
	a.capture.sums.setAhead(known)
	// The oldest first: they lie deepest and are merged last.
	slices.SortFunc(todo, func(x, y unsummed) int { return cmp.Compare(x.key.writtenAt, y.key.writtenAt) })
	bufs := newBuffers(a.capture.chunkSize)
	for _, t := range todo {
		if sums := a.sum(ctx, t, bufs); sums != nil {
			a.capture.sums.noteAhead(t.key, sums)
		}
	}
}

// keyOf names a table that is to be summed.
func (a *ahead) keyOf(path, name string) (sumKey, bool) {
	kind, ok := manifest.KindOf(name)
	if !ok {
		return sumKey{}, false
	}
	info, err := a.capture.fs.Stat(path)
	if err != nil {
		return sumKey{}, false // merged meanwhile
	}
	return sumKeyOf(&manifest.File{Kind: kind, Name: name, Size: uint64(info.Size())}, info)
}

// sum gives nil when the table is gone, can not be read, or is no longer wanted.
func (a *ahead) sum(ctx context.Context, t unsummed, bufs buffers) []uint64 {
	f, err := openToRead(a.capture.fs, t.path)
	if err != nil {
		return nil
	}
	defer func() { _ = f.Close() }() // only read
	slow := &slowReader{ctx: ctx, f: f, limit: a.limit}
	sums, err := sumChunks(ctx, slow, t.key.size, a.capture.chunkSize, bufs)
	if err != nil {
		return nil
	}
	return sums
}

// slowReader reads at the rate that limit allows, and little at a time.
type slowReader struct {
	ctx   context.Context
	f     io.ReaderAt
	limit *rate.Limiter
}

func (r *slowReader) ReadAt(p []byte, off int64) (n int, err error) {
	// One wait for all of p: to wake up costs more than to read.
	if err := r.limit.WaitN(r.ctx, min(len(p), r.limit.Burst())); err != nil {
		return 0, err
	}
	for n < len(p) && err == nil {
		var k int
		k, err = r.f.ReadAt(p[n:min(len(p), n+atOnce)], off+int64(n))
		n += k
	}
	return n, err
}
