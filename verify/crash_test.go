package verify

import (
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"go.etcd.io/raft/v3/raftpb"

	"github.com/chainfire/cfseed/internal/datadir"
	"github.com/chainfire/cfseed/internal/ident"
	"github.com/chainfire/cfseed/internal/state"
	"github.com/chainfire/cfseed/internal/state/store"
	"github.com/chainfire/cfseed/raftlog"
)

// TestKilledMember: what a power failure leaves of a member that synced its log
// before it applied is no damage, however much of the unsynced rest is lost.
func TestKilledMember(t *testing.T) {
	mem := vfs.NewCrashableMem()
	f := &fixture{t: t, fs: mem, dir: datadir.At(mem, "/data"), puts: 200, logTerm: 2}
	lock, err := f.dir.Lock()
	f.must(err)
	f.must(f.dir.CommitIdentity(datadir.Identity{Cluster: ident.Cluster{ID: clusterID}, MemberID: selfID, Directory: directory}))
	entries := f.entries()
	var log []*raftpb.Entry
	for _, e := range entries {
		log = append(log, &raftpb.Entry{Index: &e.Index, Term: &e.Term, Data: e.Data})
	}
	f.must(raftlog.Bootstrap(f.dir.Raft(), raftlog.Options{FS: mem}, log[:1], 1))
	l, err := raftlog.Open(f.dir.Raft(), raftlog.Options{FS: mem})
	f.must(err)
	s, err := store.Open(f.dir.State(1), store.Options{FS: mem})
	f.must(err)
	m, err := state.Open(s)
	f.must(err)
	crashed := map[string]*vfs.MemFS{}
	for i, e := range entries {
		if i > 0 {
			term, vote, commit := uint64(2), uint64(selfID), e.Index
			f.must(l.Append(raftlog.Batch{Entries: log[i : i+1], HardState: &raftpb.HardState{Term: &term, Vote: &vote, Commit: &commit}}, true))
		}
		_, err := m.Apply(e)
		f.must(err)
		if i == 120 {
			f.must(s.Flush())
		}
		if i%40 == 0 {
			for _, kept := range []int{0, 50, 100} {
				crashed[fmt.Sprintf("after %d, %d %% kept", i, kept)] = mem.CrashClone(vfs.CrashCloneCfg{
					UnsyncedDataPercent: kept, RNG: rand.New(rand.NewPCG(uint64(i), uint64(kept))),
				})
			}
		}
	}
	f.must(l.Close())
	f.must(s.Close())
	f.must(lock.Close())
	for name, fs := range crashed {
		t.Run(name, func(t *testing.T) {
			before := treeSum(t, fs, "/data")
			left := &fixture{t: t, fs: fs, dir: datadir.At(fs, "/data")}
			healthy(t, left.verify(Options{}), "seed_manifest")
			if treeSum(t, fs, "/data") != before {
				t.Error("the directory changed")
			}
		})
	}
}
