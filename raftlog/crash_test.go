package raftlog

import (
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"
	"go.etcd.io/raft/v3/raftpb"

	"github.com/chainfire/cfseed/internal/ident"
)

// step is one call on a log in the scripted workload.
type step struct {
	name    string
	batch   Batch
	sync    bool
	trunc   uint64 // when not zero: Truncate
	restart bool   // close and open again
}

// workload exercises every kind of change, with enough data for Pebble to
// rotate and recycle its write-ahead log, flush and compact.
func workload() []step {
	var steps []step
	do := func(s step) { steps = append(steps, s) }
	term, commit, last := uint64(1), uint64(0), uint64(0)
	hs := func() *raftpb.HardState { return hard(term, term%3, commit) }
	add := func(n, size int, sync bool) {
		var ents []*raftpb.Entry
		for range n {
			last++
			data := strings.Repeat("x", size)
			ents = append(ents, entry(term, last, fmt.Sprintf("%d/%d%s", term, last, data)))
		}
		do(step{name: "append", batch: Batch{Entries: ents, HardState: hs()}, sync: sync})
	}
	add(1, 0, true)
	for round := range 5 {
		add(2, 1000, true)
		add(1, 20, false)
		add(3, 3000, round%2 == 0)
		commit = last - 3
		do(step{name: "hard", batch: Batch{HardState: hs()}, sync: true})
		do(step{name: "truncate", trunc: commit - 1})
		// A new leader replaces what was not committed.
		term++
		last = commit
		add(1+round%2, 500, true)
		add(1, 20_000, false)
		if round%2 == 1 {
			do(step{name: "restart", restart: true})
		}
	}
	commit, last = last+50, last+50
	do(step{name: "reset", sync: true, batch: Batch{
		Reset: &Reset{Position: ident.Position{Term: term, Index: last}, State: 2}, HardState: hs()}})
	add(2, 100, true)
	commit = last
	add(1, 0, true)
	do(step{name: "truncate", trunc: commit})
	add(1, 0, true)
	do(step{name: "restart", restart: true})
	return steps
}

func crashOptions(fs vfs.FS) Options {
	return Options{FS: fs, MemTableBytes: 24 << 10, recentBytes: 3000}
}

// player runs a workload and keeps what a crash may and may not lose. Index 0
// of the states is the empty log.
type player struct {
	o      Options
	log    *Log
	issued atomic.Int64 // the last state that may be on disk
	acked  atomic.Int64 // the last state that must be
}

func (p *player) play(steps []step, after func(n int)) (err error) {
	p.acked.Store(-1)
	if p.log, err = Open(testDir, p.o); err != nil {
		return err
	}
	p.acked.Store(0)
	for n, s := range steps {
		p.issued.Store(int64(n + 1))
		if err := p.step(s); err != nil {
			return fmt.Errorf("%s: %w", s.name, err)
		}
		if s.sync || s.restart {
			p.acked.Store(int64(n + 1))
		}
		if after != nil {
			after(n + 1)
		}
	}
	return nil
}

func (p *player) step(s step) (err error) {
	switch {
	case s.trunc != 0:
		return p.log.Truncate(s.trunc)
	case s.restart:
		if err := p.log.Close(); err != nil {
			return err
		}
		l, err := Open(testDir, p.o)
		if err == nil {
			p.log = l
		}
		return err
	}
	return p.log.Append(s.batch, s.sync)
}

func (p *player) close() error {
	if p.log == nil {
		return nil
	}
	return p.log.Close()
}

// states gives the log's content after each step.
func states(t *testing.T, steps []step) []string {
	p := &player{o: crashOptions(vfs.NewMem())}
	out := make([]string, len(steps)+1)
	empty := openTest(t, memOptions())
	out[0] = mustPrint(t, empty)
	err := p.play(steps, func(n int) { out[n] = mustPrint(t, p.log) })
	if err := errors.Join(err, p.close()); err != nil {
		t.Fatal(err)
	}
	return out
}

// recovered opens what a crash left and says which is wrong with it, if
// anything: it must be one of the states between acked and issued.
func recovered(fs vfs.FS, states []string, acked, issued int64) error {
	l, err := Open(testDir, crashOptions(fs))
	if err != nil {
		return err
	}
	got, err := print(l)
	if err := errors.Join(err, l.Close()); err != nil {
		return err
	}
	for n := max(acked, 0); n <= issued; n++ {
		if got == states[n] {
			return nil
		}
	}
	return fmt.Errorf("none of the states %d to %d:\n%s\nacknowledged:\n%s", acked, issued, got, states[max(acked, 0)])
}

// steadyFS keeps the operations that lock MemFS's clone mutex twice apart
// from CrashClone, which would deadlock with them.
type steadyFS struct {
	vfs.FS
	mu *sync.RWMutex
}

func (s steadyFS) Link(oldname, newname string) error {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.FS.Link(oldname, newname)
}

func (s steadyFS) Lock(name string) (io.Closer, error) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.FS.Lock(name)
}

func (s steadyFS) ReuseForWrite(oldname, newname string, c vfs.DiskWriteCategory) (vfs.File, error) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.FS.ReuseForWrite(oldname, newname, c)
}

// crash is a power cut with a share of the unsynced data on disk.
type crash struct {
	percent int
	seed    uint64
}

var crashes = []crash{{0, 0}, {50, 1}, {50, 2}, {50, 3}, {100, 0}}

// TestCrash cuts the power before every operation of the workload that changes
// the disk (every 10th under the race detector, which is slow).
func TestCrash(t *testing.T) {
	steps := workload()
	want := states(t, steps)
	mem := vfs.NewCrashableMem()
	var mu sync.RWMutex
	var ops, clones atomic.Int64
	var p *player
	fs := errorfs.Wrap(steadyFS{FS: mem, mu: &mu}, errorfs.InjectorFunc(func(op errorfs.Op) error {
		if op.Kind.ReadOrWrite() != errorfs.OpIsWrite {
			return nil
		}
		k := ops.Add(1)
		if k%crashEvery != 0 {
			return nil
		}
		for _, c := range crashes {
			acked := p.acked.Load()
			mu.Lock()
			clone := mem.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: c.percent, RNG: rand.New(rand.NewPCG(c.seed, uint64(k)))})
			mu.Unlock()
			if err := recovered(clone, want, acked, p.issued.Load()); err != nil {
				t.Errorf("before operation %d, %v of %s, %+v: %v", k, op.Kind, op.Path, c, err)
			}
			clones.Add(1)
		}
		return nil
	}))
	p = &player{o: crashOptions(fs)}
	if err := errors.Join(p.play(steps, nil), p.close()); err != nil {
		t.Fatal(err)
	}
	t.Logf("%d crashes at %d operations", clones.Load(), ops.Load())
	if ops.Load() < 200 {
		t.Errorf("only %d operations: the workload no longer exercises the store", ops.Load())
	}
}

// TestCrashOracleCatchesLoss is the proof that TestCrash can fail: a file
// system whose fsync does nothing loses acknowledged batches.
func TestCrashOracleCatchesLoss(t *testing.T) {
	steps := workload()
	want := states(t, steps)
	mem := vfs.NewCrashableMem()
	p := &player{o: crashOptions(lazyFS{mem})}
	if err := p.play(steps[:4], nil); err != nil {
		t.Fatal(err)
	}
	clone := mem.CrashClone(vfs.CrashCloneCfg{})
	if err := recovered(clone, want, p.acked.Load(), p.issued.Load()); err == nil {
		t.Error("lost batches were not noticed")
	}
	if err := p.close(); err != nil {
		t.Fatal(err)
	}
}

// lazyFS syncs directories but not the data of files.
type lazyFS struct{ vfs.FS }

type lazyFile struct{ vfs.File }

func (lazyFile) Sync() error                { return nil }
func (lazyFile) SyncData() error            { return nil }
func (lazyFile) SyncTo(int64) (bool, error) { return true, nil }

func (l lazyFS) Create(name string, c vfs.DiskWriteCategory) (vfs.File, error) {
	f, err := l.FS.Create(name, c)
	if err != nil || !strings.HasSuffix(name, ".log") {
		return f, err
	}
	return lazyFile{f}, nil
}
