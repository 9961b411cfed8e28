package state_test

import (
	"fmt"
	"io"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/protobuf/proto"

	"github.com/chainfire/cfseed/internal/ident"
	"github.com/chainfire/cfseed/internal/state"
	"github.com/chainfire/cfseed/internal/state/envelope"
	"github.com/chainfire/cfseed/internal/state/store"
	entryv1 "github.com/chainfire/cfseed/proto/chainfire/entry/v1"
)

// crashFS keeps CrashClone apart from the operations that it deadlocks with.
type crashFS struct {
	*vfs.MemFS
	mu sync.RWMutex
}

func (c *crashFS) crash(percent int, seed uint64) *vfs.MemFS {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: percent, RNG: rand.New(rand.NewPCG(seed, 7))})
}

func (c *crashFS) Link(from, to string) error {
	c.mu.RLock()
	defer c.mu.RUnlock()
	return c.MemFS.Link(from, to)
}

func (c *crashFS) Lock(name string) (io.Closer, error) {
	c.mu.RLock()
	defer c.mu.RUnlock()
	return c.MemFS.Lock(name)
}

func (c *crashFS) ReuseForWrite(from, to string, category vfs.DiskWriteCategory) (vfs.File, error) {
	c.mu.RLock()
	defer c.mu.RUnlock()
	return c.MemFS.ReuseForWrite(from, to, category)
}

func (c *crashFS) Unwrap() vfs.FS { return c.MemFS }

// moment is what a store must be at an index.
type moment struct {
	pos      ident.Position
	digest   [16]byte
	revision int64
	conf     *entryv1.ConfState
	durable  uint64 // flushed by then
}

func momentOf(m *state.Machine, durable uint64) moment {
	return moment{pos: m.Applied(), digest: m.Digest(), revision: m.Revision(), conf: m.ConfState(), durable: durable}
}

// crashLog is a log with every sort of entry: puts, deletions, transactions,
// configuration changes, refusals, empty ones, compactions.
func crashLog(rng *rand.Rand, n int) []state.Entry {
	log := []state.Entry{confEntry(1, 5), confEntry(2, 6)}
	pad := strings.Repeat("p", 400)
	for i := uint64(3); len(log) < n; i++ {
		var e state.Entry
		key := fmt.Sprintf("k%d", rng.IntN(50))
		switch rng.IntN(12) {
		case 0:
			e = state.Entry{Index: i, Term: 1}
		case 1:
			e = entry(i, envelope.Put, put("", "refused"))
		case 2:
			e = entry(i, envelope.DeleteRange, &etcdserverpb.DeleteRangeRequest{Key: []byte(key), RangeEnd: []byte(key + "9")})
		case 3:
			e = entry(i, envelope.Compact, &etcdserverpb.CompactionRequest{Revision: rng.Int64N(int64(i))})
		case 4:
			e = entry(i, envelope.ReserveMember, &entryv1.ReserveMember{Name: key, PeerUrls: []string{"http://" + key + ":1"}})
		case 5:
			e = confEntry(i, i)
		default:
			e = entry(i, envelope.Put, put(key, pad[:rng.IntN(400)]))
		}
		log = append(log, e)
	}
	return log
}

func confEntry(index, id uint64) state.Entry {
	e := entry(index, envelope.BootstrapVoter, &entryv1.BootstrapVoter{Id: id, Name: fmt.Sprint("v", id), PeerUrls: []string{fmt.Sprintf("http://v%d:1", id)}})
	e.Type, e.Conf = state.ConfChangeEntry, &state.ConfChange{Type: state.AddVoter, NodeID: id}
	return e
}

// TestCrashLeavesAWholeState: whatever part of the unsynced data survives, the
// store reopens as it was after one of the entries, in every table, and the
// rest of the log brings it to where the others are.
func TestCrashLeavesAWholeState(t *testing.T) {
	const entries = 600
	crashes := 40
	if testing.Short() {
		crashes = 15
	}
	rng := rand.New(rand.NewPCG(3, 9))
	log := crashLog(rng, entries)
	fs := &crashFS{MemFS: vfs.NewCrashableMem()}
	s, err := store.Open("state-1", store.Options{FS: fs, MemTableBytes: 256 << 10})
	if err != nil {
		t.Fatal(err)
	}
	m, err := state.Open(s)
	if err != nil {
		t.Fatal(err)
	}
	durable := uint64(0)
	want := []moment{momentOf(m, 0)}
	type crash struct {
		fs      *vfs.MemFS
		name    string
		applied uint64
		durable uint64
	}
	var all []crash
	for i, e := range log {
		if _, err := m.Apply(e); err != nil {
			t.Fatal(err)
		}
		want = append(want, momentOf(m, durable))
		if rng.IntN(50) == 0 {
			if _, err := m.Purge(20); err != nil {
				t.Fatal(err)
			}
		}
		if rng.IntN(100) == 0 {
			if err := s.Flush(); err != nil {
				t.Fatal(err)
			}
			durable = e.Index
		}
		if i%(entries/crashes) == 0 {
			for _, percent := range []int{0, 50, 100} {
				all = append(all, crash{fs.crash(percent, e.Index), fmt.Sprintf("%d%% at %d", percent, e.Index), e.Index, durable})
			}
		}
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	lost := map[uint64]bool{}
	for _, c := range all {
		t.Run(c.name, func(t *testing.T) {
			got := reopen(t, c.fs, want, log, c.durable, c.applied)
			lost[c.applied-got] = true
		})
	}
	if len(lost) < 3 {
		t.Errorf("the crashes lost %v entries: too uniform to say much", lost)
	}
}

// reopen checks the store after a crash, then replays the rest of the log.
func reopen(t *testing.T, fs *vfs.MemFS, want []moment, log []state.Entry, durable, applied uint64) (index uint64) {
	f := open(t, fs)
	index = f.m.Applied().Index
	if index < durable || index > applied {
		t.Fatalf("reopened at %d, flushed at %d, applied %d", index, durable, applied)
	}
	checkMoment(t, f, want[index])
	if d := f.scanDigest(); d != want[index].digest {
		t.Fatalf("the records at %d are not those of the digest", index)
	}
	for _, e := range log[index:] {
		if _, err := f.m.Apply(e); err != nil {
			t.Fatal(err)
		}
	}
	checkMoment(t, f, want[len(want)-1])
	return index
}

func checkMoment(t *testing.T, f *fixture, want moment) {
	t.Helper()
	got := momentOf(f.m, want.durable)
	if got.pos != want.pos || got.digest != want.digest || got.revision != want.revision || !proto.Equal(got.conf, want.conf) {
		t.Fatalf("at %s:\n%+v\nwant\n%+v", got.pos, got, want)
	}
}
