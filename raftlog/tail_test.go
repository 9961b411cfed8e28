package raftlog

import (
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"
	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"

	"github.com/chainfire/cfseed/internal/fault"
	"github.com/chainfire/cfseed/internal/ident"
)

func encoded(t testing.TB, entries ...*raftpb.Entry) [][]byte {
	t.Helper()
	var out [][]byte
	for _, e := range entries {
		b, err := proto.Marshal(e)
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, b)
	}
	return out
}

// seeded is the log of a node seeded at 5/100.
func seeded(t testing.TB, o Options) *Log {
	t.Helper()
	if err := Seed(testDir, o, SeedState{Position: ident.Position{Term: 5, Index: 100}, State: 1}); err != nil {
		t.Fatal(err)
	}
	return openTest(t, o)
}

// TestTail moves the end of one log into that of a seeded node, in rounds.
func TestTail(t *testing.T) {
	source := openTest(t, Options{FS: vfs.NewMem(), recentBytes: 100})
	mustAppend(t, source, Batch{Entries: append(run(5, 1, 103), run(7, 104, 130)...), HardState: hard(7, 2, 125)})
	if err := source.Truncate(90); err != nil {
		t.Fatal(err)
	}
	o := memOptions()
	target := seeded(t, o)
	const applied = 120
	rounds := 0
	for {
		tail, err := source.Tail(target.Last(), applied, 60)
		if err != nil {
			t.Fatal(err)
		}
		if len(tail) == 0 {
			break
		}
		if err := target.Import(target.Last(), tail); err != nil {
			t.Fatal(err)
		}
		rounds++
	}
	if rounds < 3 || target.Last() != (ident.Position{Term: 7, Index: applied}) {
		t.Errorf("at %s after %d rounds", target.Last(), rounds)
	}
	want := mustPrint(t, target)
	if err := target.Close(); err != nil {
		t.Fatal(err)
	}
	again := openTest(t, o)
	wantLog(t, again, want)
	if h := again.HardState(); h.GetTerm() != 7 || h.GetVote() != 0 || h.GetCommit() != applied {
		t.Errorf("HardState %v", h)
	}
	if err := again.Reconcile(ident.Position{Term: 5, Index: 100}); err != nil { // the node applies the tail
		t.Error(err)
	}
	for i := uint64(101); i <= applied; i++ {
		a, errA := source.Entries(i, i+1, 1)
		b, errB := again.Entries(i, i+1, 1)
		if errA != nil || errB != nil || !proto.Equal(a[0], b[0]) {
			t.Fatalf("entry %d: %v %v, %v %v", i, a, errA, b, errB)
		}
	}

	for name, c := range map[string]struct {
		after ident.Position
		code  fault.Code
	}{
		"truncated":    {ident.Position{Term: 5, Index: 80}, fault.Reseed},
		"another term": {ident.Position{Term: 6, Index: 100}, fault.Refused},
	} {
		_, err := source.Tail(c.after, applied, 1<<20)
		t.Run(name, func(t *testing.T) { wantCode(t, err, c.code) })
	}
	for name, after := range map[string]ident.Position{
		"beyond the end":     {Term: 7, Index: 500},
		"beyond the applied": {Term: 7, Index: 121},
	} {
		if tail, err := source.Tail(after, applied, 1<<20); err != nil || len(tail) != 0 {
			t.Errorf("%s: %d entries, %v", name, len(tail), err)
		}
	}
}

// TestImportRefuses gives a seeded node entries that are not its tail: it stays
// as it was, and usable.
func TestImportRefuses(t *testing.T) {
	at := ident.Position{Term: 5, Index: 100}
	const before = "state-1 truncated 5/100 hard 5/0/100:"
	for name, c := range map[string]struct {
		after ident.Position
		tail  [][]byte
		code  fault.Code
	}{
		"a gap":                  {at, encoded(t, run(5, 102, 103)...), fault.Refused},
		"what is there":          {at, encoded(t, run(5, 100, 101)...), fault.Refused},
		"of an earlier term":     {at, encoded(t, run(4, 101, 102)...), fault.Refused},
		"after another position": {ident.Position{Term: 5, Index: 99}, encoded(t, run(5, 100, 101)...), fault.Refused},
		"after another term":     {ident.Position{Term: 4, Index: 100}, encoded(t, run(5, 101, 101)...), fault.Refused},
		"a gap inside":           {at, encoded(t, entry(5, 101, ""), entry(5, 103, "")), fault.Corrupt},
		"a term that falls":      {at, encoded(t, entry(6, 101, ""), entry(5, 102, "")), fault.Corrupt},
		"an entry twice":         {at, encoded(t, entry(5, 101, ""), entry(5, 101, "")), fault.Corrupt},
		"no entries":             {at, [][]byte{[]byte("nonsense")}, fault.Corrupt},
		"empty entries":          {at, [][]byte{{}}, fault.Corrupt},
	} {
		t.Run(name, func(t *testing.T) {
			l := seeded(t, memOptions())
			wantCode(t, l.Import(c.after, c.tail), c.code)
			wantLog(t, l, before)
			if err := l.Import(at, encoded(t, run(5, 101, 101)...)); err != nil {
				t.Errorf("the log is of no use any more: %v", err)
			}
		})
	}
	t.Run("a node that has voted", func(t *testing.T) {
		l := seeded(t, memOptions())
		mustAppend(t, l, Batch{HardState: hard(6, 3, 100)})
		wantCode(t, l.Import(at, encoded(t, run(6, 101, 101)...)), fault.Refused)
	})
	t.Run("nothing", func(t *testing.T) {
		l := seeded(t, memOptions())
		if err := l.Import(at, nil); err != nil {
			t.Error(err)
		}
		wantLog(t, l, before)
	})
}

// TestImportCrash cuts the power at every operation of an import: all of a round
// is there or nothing of it.
func TestImportCrash(t *testing.T) {
	mem := vfs.NewCrashableMem()
	var mu sync.RWMutex
	var ops atomic.Int64
	var watch atomic.Bool
	rounds := [][]*raftpb.Entry{run(5, 101, 103), run(6, 104, 110)}
	allowed := map[string]bool{}
	plain := seeded(t, memOptions())
	allowed[mustPrint(t, plain)] = true
	for _, r := range rounds {
		if err := plain.Import(plain.Last(), encoded(t, r...)); err != nil {
			t.Fatal(err)
		}
		allowed[mustPrint(t, plain)] = true
	}
	fs := errorfs.Wrap(steadyFS{FS: mem, mu: &mu}, errorfs.InjectorFunc(func(op errorfs.Op) error {
		if !watch.Load() || op.Kind.ReadOrWrite() != errorfs.OpIsWrite {
			return nil
		}
		k := ops.Add(1)
		for _, c := range crashes {
			mu.Lock()
			clone := mem.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: c.percent, RNG: rand.New(rand.NewPCG(c.seed, uint64(k)))})
			mu.Unlock()
			if got, err := openAndClose(crashOptions(clone)); err != nil || !allowed[got] {
				t.Errorf("before operation %d, %+v: %s, %v", k, c, got, err)
			}
		}
		return nil
	}))
	l := seeded(t, crashOptions(fs))
	watch.Store(true)
	for _, r := range rounds {
		if err := l.Import(l.Last(), encoded(t, r...)); err != nil {
			t.Fatal(err)
		}
		want := mustPrint(t, l)
		mu.Lock()
		clone := mem.CrashClone(vfs.CrashCloneCfg{})
		mu.Unlock()
		if got, err := openAndClose(crashOptions(clone)); err != nil || got != want {
			t.Errorf("an import that returned is lost: %s, %v", got, err)
		}
	}
	watch.Store(false)
	if ops.Load() == 0 {
		t.Error("no operation was seen")
	}
}

// FuzzDecodeTail: bytes off the wire are entries in a row, or an error.
func FuzzDecodeTail(f *testing.F) {
	for _, e := range encoded(f, append(run(5, 101, 102), run(7, 103, 103)...)...) {
		f.Add(e, e)
	}
	f.Add([]byte{}, []byte("nonsense"))
	f.Fuzz(func(t *testing.T, a, b []byte) {
		entries, err := decodeTail([][]byte{a, b})
		if err != nil {
			return
		}
		if len(entries) != 2 || entries[0].GetTerm() == 0 || entries[1].GetIndex() != entries[0].GetIndex()+1 ||
			entries[1].GetTerm() < entries[0].GetTerm() {
			t.Errorf("taken for a tail: %v", entries)
		}
	})
}
