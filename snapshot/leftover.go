package snapshot

import (
	"context"
	"errors"
	"slices"
	"strconv"
	"strings"

	"github.com/chainfire/cfseed/internal/fault"
)

// keepLeft is how many checkpoints of earlier processes are kept, the newest,
// until DropLeft: one for a target that was being served when the process
// ended, and one more.
const keepLeft = 2

// leftover is a checkpoint that an earlier process did not delete: it was
// killed, or left it (Leave). Its seed is
// nil until somebody asked what it is.
type leftover struct {
	dir  string
	seed *Seed
}

// Leave is called before Close while leases live: the seeds with these roots,
// and what earlier processes left and nobody has asked for yet, stay where they
// are, so that the next process can serve them again.
func (l *Library) Leave(roots ...[32]byte) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.leaving = true
	for _, h := range l.held {
		h.stays = h.refs == 0 || slices.Contains(roots, h.seed.root) // 0: recalled, not used
	}
}

// findLeft notes what earlier processes left, and deletes all but the newest.
func (l *Library) findLeft() error {
	names, err := list(l.fs, l.dir)
	if err != nil {
		return err
	}
	var numbers []uint64
	for _, name := range names {
		number, ok := strings.CutPrefix(name, seedPrefix)
		if !ok {
			continue
		}
		n, err := strconv.ParseUint(number, 10, 32)
		if err != nil || l.path(n) != l.fs.PathJoin(l.dir, name) {
			if err := l.remove(l.fs.PathJoin(l.dir, name)); err != nil {
				return err
			}
			continue
		}
		numbers = append(numbers, n)
		l.next = max(l.next, n)
	}
	slices.Sort(numbers)
	for i, n := range numbers {
		if i < len(numbers)-keepLeft {
			if err := l.remove(l.path(n)); err != nil {
				return err
			}
			continue
		}
		l.left = append(l.left, leftover{dir: l.path(n)})
	}
	return nil
}

// Recall makes the seed with this root available to Acquire if an earlier
// process captured it and left it, so that a target can go on where it was.
// All that was left is read for that, once. A checkpoint that is not whole is
// deleted.
func (l *Library) Recall(ctx context.Context, root [32]byte) error {
	select {
	case l.turn <- struct{}{}:
		defer func() { <-l.turn }()
	case <-ctx.Done():
		return failure("recall seed", l.dir, ctx.Err())
	}
	var keep []leftover
	var errs []error
	for _, left := range l.left {
		if left.seed == nil {
			seed, err := l.reopen(ctx, left.dir)
			switch {
			case ctx.Err() != nil: // it may be whole
			case err != nil:
				errs = append(errs, l.remove(left.dir))
				continue
			}
			left.seed = seed
		}
		if left.seed == nil || left.seed.root != root || !l.adopt(left.seed) {
			keep = append(keep, left)
		}
	}
	l.left = keep
	if err := ctx.Err(); err != nil {
		errs = append(errs, failure("recall seed", l.dir, err))
	}
	return errors.Join(errs...)
}

// reopen describes a checkpoint as its capture did.
func (l *Library) reopen(ctx context.Context, dir string) (*Seed, error) {
	info, err := inspect(l.fs, dir)
	if err != nil {
		return nil, err
	}
	m, err := describe(info, l.capture.chunkSize)
	if err != nil {
		return nil, err
	}
	if m.Files, err = l.capture.files(ctx, dir); err != nil {
		return nil, err
	}
	if err := m.Validate(); err != nil {
		return nil, fault.New(fault.Corrupt, "recall seed", err).At(dir)
	}
	return newSeed(l.fs, dir, m)
}

// adopt holds a seed that nobody uses yet, unless its position is held or the
// library is closed.
func (l *Library) adopt(seed *Seed) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return false
	}
	for _, h := range l.held {
		if h.seed.Position() == seed.Position() {
			return false
		}
	}
	l.held = append(l.held, &holding{seed: seed})
	return true
}

// DropLeft deletes what earlier processes left and nobody has asked for.
func (l *Library) DropLeft() error {
	l.turn <- struct{}{}
	defer func() { <-l.turn }()
	var errs []error
	for _, left := range l.left {
		errs = append(errs, l.remove(left.dir))
	}
	l.left = nil
	l.mu.Lock()
	var unused []*Seed
	l.held = slices.DeleteFunc(l.held, func(h *holding) bool {
		if h.refs == 0 {
			unused = append(unused, h.seed)
		}
		return h.refs == 0
	})
	l.mu.Unlock()
	for _, seed := range unused {
		errs = append(errs, seed.Remove())
	}
	return errors.Join(errs...)
}
