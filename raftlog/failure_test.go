package raftlog

import (
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"
)

// TestFailure makes every operation that changes the disk fail, one per run:
// the failure is fatal, is never retried, and nothing acknowledged is lost.
func TestFailure(t *testing.T) {
	steps := workload()
	want := states(t, steps)
	var syncs, reported int
	for k := int64(1); ; k++ {
		f := &failing{at: k, cause: syscall.EIO}
		if k%2 == 0 {
			f.cause = syscall.ENOSPC
		}
		if !f.run(t, steps, want) {
			t.Logf("%d operations failed one by one, %d of them fsyncs; %d stopped the log", k-1, syncs, reported)
			break
		}
		if f.kind == errorfs.OpFileSync || f.kind == errorfs.OpFileSyncData || f.kind == errorfs.OpFileSyncTo {
			syncs++
		}
		if f.reported {
			reported++
		}
	}
	if syncs < 40 || reported < 150 {
		t.Errorf("%d fsyncs, %d reported: the workload no longer exercises the store", syncs, reported)
	}
}

// failing fails one operation of a run.
type failing struct {
	at    int64
	cause error

	ops      atomic.Int64
	mu       sync.Mutex
	kind     errorfs.OpKind
	path     string // of the failed operation
	retried  []string
	reported bool
}

func (f *failing) MaybeError(op errorfs.Op) error {
	if op.Kind.ReadOrWrite() != errorfs.OpIsWrite || op.Kind == errorfs.OpLock {
		return nil
	}
	n := f.ops.Add(1)
	f.mu.Lock()
	defer f.mu.Unlock()
	switch {
	case n == f.at:
		f.kind, f.path = op.Kind, op.Path
		return fmt.Errorf("injected: %w", f.cause)
	case f.path != "" && op.Path == f.path:
		f.retried = append(f.retried, fmt.Sprint(op.Kind))
	}
	return nil
}

func (*failing) String() string { return "one failure" }

// run reports whether the operation to fail was reached.
func (f *failing) run(t *testing.T, steps []step, want []string) bool {
	mem := vfs.NewCrashableMem()
	p := &player{o: crashOptions(errorfs.Wrap(mem, f))}
	err := p.play(steps, nil)
	opened := p.log != nil
	closing := p.close()
	if f.path == "" {
		if err := errors.Join(err, closing); err != nil {
			t.Fatal(err)
		}
		return false
	}
	f.reported = err != nil || closing != nil
	name := fmt.Sprintf("operation %d, kind %d of %s", f.at, f.kind, f.path)
	if err != nil && !errors.Is(err, f.cause) {
		t.Errorf("%s: the cause is lost: %v", name, err)
	}
	if opened && f.reported {
		f.checkBroken(t, name, p, errors.Join(err, closing))
	}
	clone := mem.CrashClone(vfs.CrashCloneCfg{})
	if err := recovered(clone, want, p.acked.Load(), p.issued.Load()); err != nil {
		t.Errorf("%s, power cut after it: %v", name, err)
	}
	return true
}

func (f *failing) checkBroken(t *testing.T, name string, p *player, err error) {
	if p.log.Err() == nil {
		return // the log was closed and failed to open again
	}
	if !errors.Is(err, ErrBroken) {
		t.Errorf("%s: %v is not ErrBroken", name, err)
	}
	if f.kind == errorfs.OpFileSync || f.kind == errorfs.OpFileSyncData {
		if f.path != "/data/raft" && len(f.retried) > 0 {
			t.Errorf("%s: the file was touched again: %v", name, f.retried)
		}
	}
}
