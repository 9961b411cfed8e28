package raftlog

import (
	"errors"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"

	"github.com/chainfire/cfseed/internal/ident"
)

// TestSeedCrash cuts the power at every operation of Seed: seeding again
// always gives the whole log, and before that there is nothing or all of it.
func TestSeedCrash(t *testing.T) {
	seed := SeedState{Position: ident.Position{Term: 5, Index: 100}, State: 1, Tail: run(6, 101, 103)}
	const want = "state-1 truncated 5/100 hard 6/0/103: 6/101=6/101 6/102=6/102 6/103=6/103"
	mem := vfs.NewCrashableMem()
	var mu sync.RWMutex
	var ops atomic.Int64
	fs := errorfs.Wrap(steadyFS{FS: mem, mu: &mu}, errorfs.InjectorFunc(func(op errorfs.Op) error {
		if op.Kind.ReadOrWrite() != errorfs.OpIsWrite {
			return nil
		}
		k := ops.Add(1)
		for _, c := range crashes {
			mu.Lock()
			clone := mem.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: c.percent, RNG: rand.New(rand.NewPCG(c.seed, uint64(k)))})
			mu.Unlock()
			o := crashOptions(clone)
			if err := Seed(testDir, o, seed); err != nil {
				t.Errorf("before operation %d, %+v: seeding again: %v", k, c, err)
			} else if got, err := openAndClose(o); err != nil || got != want {
				t.Errorf("before operation %d, %+v: %s, %v", k, c, got, err)
			}
		}
		return nil
	}))
	if err := Seed(testDir, crashOptions(fs), seed); err != nil {
		t.Fatal(err)
	}
	t.Logf("crashes at %d operations", ops.Load())
	clone := mem.CrashClone(vfs.CrashCloneCfg{})
	if got, err := openAndClose(crashOptions(clone)); err != nil || got != want {
		t.Errorf("after it: %s, %v", got, err)
	}
}

// TestSeedFailure makes every operation of Seed fail: it says so, and never
// leaves less than it says.
func TestSeedFailure(t *testing.T) {
	seed := SeedState{Position: ident.Position{Term: 5, Index: 100}, State: 1}
	for k := int64(1); ; k++ {
		mem := vfs.NewCrashableMem()
		f := &failing{at: k, cause: syscall.EIO}
		err := Seed(testDir, crashOptions(errorfs.Wrap(mem, f)), seed)
		if f.path == "" {
			if err != nil || k < 20 {
				t.Errorf("%d operations, %v", k-1, err)
			}
			return
		}
		if err != nil {
			if !errors.Is(err, syscall.EIO) {
				t.Errorf("operation %d: the cause is lost: %v", k, err)
			}
			continue
		}
		clone := mem.CrashClone(vfs.CrashCloneCfg{})
		if got, err := openAndClose(crashOptions(clone)); err != nil || got != "state-1 truncated 5/100 hard 5/0/100:" {
			t.Errorf("operation %d failed and was not reported: %s, %v", k, got, err)
		}
	}
}
