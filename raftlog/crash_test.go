package raftlog

import (
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
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
// the disk.
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
