package raftlog

import (
	"errors"
	"fmt"
	"math"
	"sync"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"
	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"

	"github.com/chainfire/cfseed/internal/fault"
	"github.com/chainfire/cfseed/internal/ident"
)

func wantCode(t *testing.T, err error, code fault.Code) {
	t.Helper()
	if !fault.Is(err, code) {
		t.Fatalf("%v: code %q, want %q", err, fault.CodeOf(err), code)
	}
}

func wantLog(t *testing.T, l *Log, want string) {
	t.Helper()
	if got := mustPrint(t, l); got != want {
		t.Errorf("log\n%s, want\n%s", got, want)
	}
}

func TestNewLog(t *testing.T) {
	o := memOptions()
	for range 2 { // the second time it exists
		l := openTest(t, o)
		if l.HardState() != nil {
			t.Error("a new log has a HardState")
		}
		wantLog(t, l, "state-0 truncated 0/0 hard 0/0/0:")
		if err := errors.Join(l.Close(), l.Close()); err != nil {
			t.Fatal(err)
		}
		if err := l.Append(Batch{}, true); !errors.Is(err, ErrClosed) {
			t.Errorf("append to a closed log: %v", err)
		}
	}
}

func TestFormatIsNewestStable(t *testing.T) {
	if FormatMajorVersion != pebble.FormatNewest {
		t.Errorf("pinned format %d, newest is %d: decide whether to follow", FormatMajorVersion, pebble.FormatNewest)
	}
}

// Each batch on a log of entries 1/1..1/3, 2/4, 2/5, committed to 3, in term 2.
func TestAppendRefuses(t *testing.T) {
	for name, b := range map[string]Batch{
		"a gap":                             {Entries: run(2, 7, 7)},
		"a gap inside":                      {Entries: append(run(2, 6, 6), run(2, 8, 8)...)},
		"a falling term":                    {Entries: run(1, 6, 6)},
		"a falling term inside":             {Entries: append(run(2, 6, 6), run(1, 7, 7)...)},
		"term 0":                            {Entries: run(0, 6, 6)},
		"another term at a committed index": {Entries: run(2, 3, 6)},
		"a committed end cut off":           {Entries: run(1, 2, 2)},
		"a HardState behind the entries":    {Entries: run(3, 6, 6)},
		"a term going back":                 {HardState: hard(1, 1, 3)},
		"a commit going back":               {HardState: hard(2, 7, 2)},
		"a changed vote":                    {HardState: hard(2, 8, 3)},
		"a withdrawn vote":                  {HardState: hard(2, 0, 3)},
		"a commit beyond the log":           {HardState: hard(2, 7, 6)},
		"a reset behind the commit":         {Reset: &Reset{Position: ident.Position{Term: 1, Index: 2}}},
		"a reset to nothing":                {Reset: &Reset{}},
		"a reset to a term of the future":   {Reset: &Reset{Position: ident.Position{Term: 3, Index: 9}}},
		"entries before a reset": {Reset: &Reset{Position: ident.Position{Term: 2, Index: 9}},
			Entries: run(2, 11, 11)},
	} {
		t.Run(name, func(t *testing.T) {
			o := memOptions()
			l := openTest(t, o)
			mustAppend(t, l, Batch{Entries: append(run(1, 1, 3), run(2, 4, 5)...), HardState: hard(2, 7, 3)})
			before := mustPrint(t, l)
			err := l.Append(b, true)
			wantCode(t, err, fault.Refused)
			if !errors.Is(err, ErrBroken) {
				t.Errorf("%v is not ErrBroken", err)
			}
			if again := l.Append(Batch{Entries: run(2, 6, 6)}, true); again == nil || again.Error() != err.Error() {
				t.Errorf("the log went on: %v", again)
			}
			if err := l.Truncate(1); !errors.Is(err, ErrBroken) {
				t.Errorf("truncate: %v", err)
			}
			wantLog(t, l, before) // what was there can still be read
			if err := l.Close(); !errors.Is(err, ErrBroken) {
				t.Errorf("close: %v", err)
			}
			wantLog(t, openTest(t, o), before)
		})
	}
}

func TestAppendReplacesSuffix(t *testing.T) {
	o := memOptions()
	o.recentBytes = 20 // three entries
	l := openTest(t, o)
	mustAppend(t, l, Batch{Entries: run(1, 1, 9), HardState: hard(1, 1, 2)})
	mustAppend(t, l, Batch{Entries: run(3, 4, 5), HardState: hard(3, 0, 2)})
	want := "state-0 truncated 0/0 hard 3/0/2: 1/1=1/1 1/2=1/2 1/3=1/3 3/4=3/4 3/5=3/5"
	wantLog(t, l, want)
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	l = openTest(t, o)
	wantLog(t, l, want)
	if _, err := l.Entries(4, 7, math.MaxUint64); !errors.Is(err, raft.ErrUnavailable) {
		t.Errorf("beyond the end: %v", err)
	}
}

func TestTruncate(t *testing.T) {
	l := openTest(t, memOptions())
	mustAppend(t, l, Batch{Entries: append(run(1, 1, 3), run(2, 4, 6)...), HardState: hard(2, 0, 5)})
	wantCode(t, l.Truncate(6), fault.Refused)
	wantCode(t, l.Truncate(7), fault.Refused)
	for _, index := range []uint64{4, 4, 2, 0} {
		if err := l.Truncate(index); err != nil {
			t.Fatal(err)
		}
	}
	wantLog(t, l, "state-0 truncated 2/4 hard 2/0/5: 2/5=2/5 2/6=2/6")
	if _, err := l.Term(3); !errors.Is(err, raft.ErrCompacted) {
		t.Errorf("Term(3): %v", err)
	}
	if _, err := l.Entries(4, 6, 0); !errors.Is(err, raft.ErrCompacted) {
		t.Errorf("Entries(4): %v", err)
	}
	if got := l.TruncatedTo(); got != (ident.Position{Term: 2, Index: 4}) {
		t.Errorf("truncated to %v", got)
	}
	mustAppend(t, l, Batch{HardState: hard(2, 0, 6)})
	if err := l.Truncate(6); err != nil {
		t.Fatal(err)
	}
	mustAppend(t, l, Batch{Entries: run(2, 7, 7)})
	wantLog(t, l, "state-0 truncated 2/6 hard 2/0/6: 2/7=2/7")
}

func TestReset(t *testing.T) {
	o := memOptions()
	l := openTest(t, o)
	mustAppend(t, l, Batch{Entries: run(1, 1, 9), HardState: hard(3, 7, 4)})
	mustAppend(t, l, Batch{
		Reset:   &Reset{Position: ident.Position{Term: 2, Index: 6}, State: 5},
		Entries: run(3, 7, 8), // in the same batch, after it
	})
	want := "state-5 truncated 2/6 hard 3/7/6: 3/7=3/7 3/8=3/8"
	wantLog(t, l, want)
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	wantLog(t, openTest(t, o), want)
}

func TestReconcile(t *testing.T) {
	// Entries 1/3 (truncated), 1/4, 2/5, 2/6; committed to 4.
	for _, c := range []struct {
		name    string
		applied ident.Position
		commit  uint64 // after; 0: refused
	}{
		{"behind the commit", ident.Position{Term: 1, Index: 4}, 4},
		{"at the truncation point", ident.Position{Term: 1, Index: 3}, 4},
		{"ahead of the commit", ident.Position{Term: 2, Index: 6}, 6},
		{"ahead, another term", ident.Position{Term: 1, Index: 6}, 0},
		{"at the commit, another term", ident.Position{Term: 2, Index: 4}, 0},
		{"log too short", ident.Position{Term: 2, Index: 7}, 0},
		{"truncated past it", ident.Position{Term: 1, Index: 2}, 0},
		{"a new state on an old log", ident.Position{}, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			mem := vfs.NewCrashableMem()
			l := openTest(t, Options{FS: mem})
			mustAppend(t, l, Batch{Entries: append(run(1, 1, 4), run(2, 5, 6)...), HardState: hard(2, 7, 4)})
			if err := l.Truncate(3); err != nil {
				t.Fatal(err)
			}
			mustAppend(t, l, Batch{})
			err := l.Reconcile(c.applied)
			if c.commit == 0 {
				wantCode(t, err, fault.Corrupt)
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			after := openTest(t, Options{FS: mem.CrashClone(vfs.CrashCloneCfg{})})
			if hs := hardOf(after.HardState()); hs != (hardState{2, 7, c.commit}) {
				t.Errorf("HardState after a crash: %+v", hs)
			}
		})
	}
	empty := openTest(t, memOptions())
	if err := empty.Reconcile(ident.Position{}); err != nil {
		t.Errorf("nothing applied, nothing logged: %v", err)
	}
	wantCode(t, empty.Reconcile(ident.Position{Term: 1, Index: 1}), fault.Corrupt)
}

func TestStorage(t *testing.T) {
	l := openTest(t, memOptions())
	mustAppend(t, l, Batch{Entries: run(1, 1, 1), HardState: hard(1, 9, 1)})
	boom := errors.New("boom")
	s := l.Storage(
		func() (*raftpb.ConfState, error) { return &raftpb.ConfState{Voters: []uint64{9}}, nil },
		func() (*raftpb.Snapshot, error) { return nil, raft.ErrSnapshotTemporarilyUnavailable })
	hs, cs, err := s.InitialState()
	if err != nil || hardOf(hs) != (hardState{1, 9, 1}) || len(cs.GetVoters()) != 1 {
		t.Errorf("InitialState() = %v, %v, %v", hs, cs, err)
	}
	if _, err := s.Snapshot(); !errors.Is(err, raft.ErrSnapshotTemporarilyUnavailable) {
		t.Errorf("Snapshot(): %v", err)
	}
	s = l.Storage(func() (*raftpb.ConfState, error) { return nil, boom }, nil)
	if _, _, err := s.InitialState(); !errors.Is(err, boom) {
		t.Errorf("InitialState(): %v", err)
	}
}

func TestFsyncIsReported(t *testing.T) {
	o := memOptions()
	var n int
	o.OnFsync = func(time.Duration) { n++ }
	l := openTest(t, o)
	mustAppend(t, l, Batch{Entries: run(1, 1, 1), HardState: hard(1, 0, 0)})
	if err := l.Append(Batch{Entries: run(1, 2, 2)}, false); err != nil {
		t.Fatal(err)
	}
	if n != 1 {
		t.Errorf("%d fsyncs reported, want 1", n)
	}
}

// TestForeignEntries puts other entries into the store than the log wrote.
func TestForeignEntries(t *testing.T) {
	for name, spoil := range map[string]func(*pebble.DB) error{
		"another index": func(db *pebble.DB) error { return setEntry(db, 3, entry(1, 4, "")) },
		"another term":  func(db *pebble.DB) error { return setEntry(db, 3, entry(2, 3, "")) },
		"no protobuf":   func(db *pebble.DB) error { return db.Set(appendEntryKey(nil, 3), []byte{0xff}, nil) },
		"missing":       func(db *pebble.DB) error { return db.Delete(appendEntryKey(nil, 3), nil) },
		"missing end":   func(db *pebble.DB) error { return db.Delete(appendEntryKey(nil, 5), nil) },
	} {
		t.Run(name, func(t *testing.T) {
			o := memOptions()
			o.recentBytes = 1 // read everything from the store
			var seen []error
			o.OnCorruption = func(err error) { seen = append(seen, err) }
			l := openTest(t, o)
			mustAppend(t, l, Batch{Entries: run(1, 1, 5), HardState: hard(1, 0, 0)})
			if err := spoil(l.db); err != nil {
				t.Fatal(err)
			}
			_, err := l.Entries(1, 6, math.MaxUint64)
			wantCode(t, err, fault.Corrupt)
			if len(seen) != 1 || !fault.Is(seen[0], fault.Corrupt) {
				t.Errorf("reported: %v", seen)
			}
			wantCode(t, l.Append(Batch{Entries: run(1, 6, 6)}, true), fault.Corrupt)
		})
	}
}

func setEntry(db *pebble.DB, key uint64, e *raftpb.Entry) error {
	value, err := proto.Marshal(e)
	if err != nil {
		return err
	}
	return db.Set(appendEntryKey(nil, key), value, nil)
}

// TestConcurrentReads reads while the end of the log is replaced and its front
// truncated: every answer must be one that some moment of the log explains.
func TestConcurrentReads(t *testing.T) {
	o := memOptions()
	o.recentBytes = 100
	l := openTest(t, o)
	var wg sync.WaitGroup
	done := make(chan struct{})
	for range 3 {
		wg.Go(func() {
			for {
				select {
				case <-done:
					return
				default:
				}
				first, _ := l.FirstIndex()
				last, _ := l.LastIndex()
				ents, err := l.Entries(first, last+1, 200)
				if err != nil && !errors.Is(err, raft.ErrCompacted) && !errors.Is(err, raft.ErrUnavailable) {
					t.Error(err)
					return
				}
				for i, e := range ents {
					if e.GetIndex() != first+uint64(i) || string(e.GetData()) != fmt.Sprintf("%d/%d", e.GetTerm(), e.GetIndex()) {
						t.Errorf("entry %v at %d", e, first+uint64(i))
					}
				}
				l.BytesAfter(first)
			}
		})
	}
	last := uint64(0)
	for term := uint64(1); term <= 300; term++ {
		commit := last - min(last, 2)
		mustAppend(t, l, Batch{Entries: run(term, commit+1, last+4), HardState: hard(term, 0, commit)})
		last += 4
		if commit > 20 {
			if err := l.Truncate(commit - 10); err != nil {
				t.Fatal(err)
			}
		}
	}
	close(done)
	wg.Wait()
}
