package snapshot

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/chainfire/cfseed/internal/datadir"
	"github.com/chainfire/cfseed/internal/fault"
	"github.com/chainfire/cfseed/internal/ident"
	"github.com/chainfire/cfseed/snapshot/chunk"
)

// seedPrefix begins the name of every checkpoint in a library's directory;
// nothing else there is ever touched.
const seedPrefix = "seed-"

// Library holds the seeds that a member serves, one per position, each for as
// long as somebody uses it. It is safe for concurrent use.
type Library struct {
	fs      vfs.FS
	dir     string
	capture capturer
	turn    chan struct{} // held by the one capture under way
	left    []leftover    // guarded by turn

	mu      sync.Mutex
	closed  bool
	leaving bool   // see Leave
	next    uint64 // number of the last capture
	held    []*holding
}

type holding struct {
	seed  *Seed
	refs  int
	stays bool // its files outlive this process
}

// Want says which seeds will do. The zero value accepts any that is held.
type Want struct {
	// Root is the seed asked for, if it is still held; otherwise Min decides.
	Root [32]byte
	// Min is the least position that will do.
	Min ident.Position
}

// Holding is one seed of a library and the number of its users.
type Holding struct {
	Position ident.Position
	Root     [32]byte
	Bytes    uint64
	Users    int
}

// OpenLibrary opens the library in dir, creating it when absent. The newest
// checkpoints that a process left behind stay for Recall, until DropLeft.
func OpenLibrary(fs vfs.FS, dir string) (*Library, error) {
	l := &Library{
		fs: fs, dir: dir, turn: make(chan struct{}, 1),
		capture: capturer{fs: fs, chunkSize: chunk.Size, sums: &sumCache{}},
	}
	if err := datadir.MkdirAllSynced(fs, dir); err != nil {
		return nil, err
	}
	if err := l.findLeft(); err != nil {
		return nil, err
	}
	return l, nil
}

// remove deletes a checkpoint; a path that is not one of this library's is
// refused.
func (l *Library) remove(path string) error {
	if l.fs.PathDir(path) != l.dir || !strings.HasPrefix(l.fs.PathBase(path), seedPrefix) {
		return fault.Newf(fault.Refused, "remove seed", "not a seed of %s", l.dir).At(path)
	}
	return removeAll(l.fs, path)
}

// Acquire gives a seed that want accepts: one that is held, else a new capture
// of cp. Several callers share one capture. release must be called once when
// the seed is no longer used (more often is fine); the last one deletes it.
func (l *Library) Acquire(ctx context.Context, want Want, cp Checkpointer) (seed *Seed, release func() error, err error) {
	if h := l.share(want); h != nil {
		return h.seed, l.releaser(h), nil
	}
	select {
	case l.turn <- struct{}{}:
		defer func() { <-l.turn }()
	case <-ctx.Done():
		return nil, nil, failure("acquire seed", l.dir, ctx.Err())
	}
	if h := l.share(want); h != nil { // captured while this one waited
		return h.seed, l.releaser(h), nil
	}
	dir, err := l.name()
	if err != nil {
		return nil, nil, err
	}
	fresh, err := l.capture.capture(ctx, cp, dir)
	if err != nil {
		return nil, nil, err
	}
	if p := fresh.Position(); p.Index < want.Min.Index {
		err := fault.Newf(fault.Reseed, "acquire seed", "this member is at %s, want at least %s", p, want.Min)
		return nil, nil, errors.Join(err, l.remove(dir))
	}
	h, err := l.keep(fresh)
	if err != nil {
		return nil, nil, err
	}
	return h.seed, l.releaser(h), nil
}

func (l *Library) name() (string, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return "", fault.Newf(fault.Interrupted, "acquire seed", "the member is stopping")
	}
	l.next++
	return l.path(l.next), nil
}

// path is the directory of a capture.
func (l *Library) path(number uint64) string {
	return l.fs.PathJoin(l.dir, fmt.Sprintf("%s%06d", seedPrefix, number))
}

// share takes a reference to the newest held seed that want accepts, nil when
// there is none.
func (l *Library) share(want Want) *holding {
	l.mu.Lock()
	defer l.mu.Unlock()
	var best *holding
	for _, h := range l.held {
		if h.seed.doubted.Load() {
			continue // it can not be served to the end
		}
		if h.seed.root == want.Root {
			best = h
			break
		}
		if h.seed.Position().Index >= want.Min.Index &&
			(best == nil || h.seed.Position().Index > best.seed.Position().Index) {
			best = h
		}
	}
	if best != nil {
		best.refs++
	}
	return best
}

// keep adds a new seed, or drops it in favour of a held one at its position.
func (l *Library) keep(fresh *Seed) (*holding, error) {
	l.mu.Lock()
	if l.closed {
		l.mu.Unlock()
		err := fault.Newf(fault.Interrupted, "acquire seed", "the member is stopping")
		return nil, errors.Join(err, l.remove(fresh.dir))
	}
	for _, h := range l.held {
		if h.seed.Position() == fresh.Position() && !h.seed.doubted.Load() {
			h.refs++
			l.mu.Unlock()
			if err := l.remove(fresh.dir); err != nil {
				return nil, errors.Join(err, l.release(h))
			}
			return h, nil
		}
	}
	h := &holding{seed: fresh, refs: 1}
	l.held = append(l.held, h)
	l.mu.Unlock()
	return h, nil
}

func (l *Library) releaser(h *holding) func() error {
	return sync.OnceValue(func() error { return l.release(h) })
}

func (l *Library) release(h *holding) error {
	l.mu.Lock()
	h.refs--
	if h.refs > 0 {
		l.mu.Unlock()
		return nil
	}
	stays := h.stays
	for i, other := range l.held {
		if other == h {
			l.held = append(l.held[:i:i], l.held[i+1:]...)
			break
		}
	}
	l.mu.Unlock()
	if stays {
		return nil
	}
	return h.seed.Remove()
}

// Holdings lists the seeds held, oldest first.
func (l *Library) Holdings() []Holding {
	l.mu.Lock()
	defer l.mu.Unlock()
	out := make([]Holding, 0, len(l.held))
	for _, h := range l.held {
		out = append(out, Holding{
			Position: h.seed.Position(), Root: h.seed.root, Bytes: h.seed.m.TotalBytes(), Users: h.refs,
		})
	}
	return out
}

// Close waits for a capture under way and deletes all seeds but those that
// Leave named, whoever uses them: their readers get fault.LeaseLost. Acquire
// fails afterwards.
func (l *Library) Close() error {
	l.mu.Lock()
	l.closed = true
	l.mu.Unlock()
	l.turn <- struct{}{}
	defer func() { <-l.turn }()
	l.mu.Lock()
	held, left := l.held, l.left
	if l.leaving {
		held = slices.DeleteFunc(held, func(h *holding) bool { return h.stays })
		left = nil
	}
	l.held, l.left = nil, nil
	l.mu.Unlock()
	var errs []error
	for _, h := range held {
		errs = append(errs, h.seed.Remove())
	}
	for _, left := range left {
		errs = append(errs, l.remove(left.dir))
	}
	return errors.Join(errs...)
}
