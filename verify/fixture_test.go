package verify

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"
	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"

	"github.com/chainfire/cfseed/internal/datadir"
	"github.com/chainfire/cfseed/internal/ident"
	"github.com/chainfire/cfseed/internal/state"
	"github.com/chainfire/cfseed/internal/state/envelope"
	"github.com/chainfire/cfseed/internal/state/store"
	entryv1 "github.com/chainfire/cfseed/proto/chainfire/entry/v1"
	"github.com/chainfire/cfseed/raftlog"
	"github.com/chainfire/cfseed/snapshot"
)

var (
	genesis   = ident.Nonce(slices.Repeat([]byte{7}, 16))
	directory = ident.Nonce(slices.Repeat([]byte{9}, 16))
)

const selfID, clusterID = 0x11, 0x77

// fixture is a member's directory in the making, of a founding member.
type fixture struct {
	t   testing.TB
	fs  vfs.FS
	dir *datadir.Dir

	puts      int    // entries after the membership ones
	unlogged  int    // of these, applied but not in the log: a broken member
	unapplied int    // of these, in the log but not applied: a member that crashed
	commit    uint64 // HardState.Commit; 0: the last entry in the log
	truncate  uint64 // of the log; 0: not
	logTerm   uint64 // of the puts in the log, 2 unless set
}

func newFixture(t testing.TB) *fixture {
	fs := vfs.NewMem()
	return &fixture{t: t, fs: fs, dir: datadir.At(fs, "/data"), puts: 300, logTerm: 2}
}

func (f *fixture) must(err error) {
	f.t.Helper()
	if err != nil {
		f.t.Fatal(err)
	}
}

// build writes the directory as a member that stopped cleanly leaves it.
func (f *fixture) build() *fixture {
	f.t.Helper()
	lock, err := f.dir.Lock()
	f.must(err)
	entries := f.entries()
	f.buildState(entries[:len(entries)-f.unapplied])
	f.buildLog(entries)
	f.must(f.dir.CommitIdentity(datadir.Identity{Cluster: ident.Cluster{ID: clusterID, Genesis: genesis}, MemberID: selfID, Directory: directory, Name: "a"}))
	f.must(lock.Close())
	return f
}

func (f *fixture) entries() []state.Entry {
	rng := rand.New(rand.NewPCG(1, 2))
	out := []state.Entry{
		{Type: state.ConfChangeEntry, Conf: &state.ConfChange{Type: state.AddVoter, NodeID: selfID},
			Data: f.envelope(envelope.BootstrapVoter, &entryv1.BootstrapVoter{Id: selfID, Name: "a", PeerUrls: []string{"http://a"}})},
		{},
		{Data: f.envelope(envelope.ClusterInit, &entryv1.ClusterInit{ClusterId: clusterID, GenesisNonce: genesis.Bytes(), ClusterVersion: 1})},
		{Data: f.envelope(envelope.BindMember, &entryv1.BindMember{Id: selfID, DirectoryNonce: directory.Bytes()})},
	}
	for i := range f.puts {
		value := make([]byte, 200)
		for j := range value {
			value[j] = byte(rng.Uint32())
		}
		out = append(out, state.Entry{Data: f.envelope(envelope.Put, &etcdserverpb.PutRequest{Key: fmt.Appendf(nil, "key%04d", i), Value: value})})
	}
	for i := range out {
		out[i].Index, out[i].Term = uint64(i)+1, 2
	}
	out[0].Term = 1
	return out
}

func (f *fixture) envelope(kind envelope.Kind, body proto.Message) []byte {
	raw, err := proto.Marshal(body)
	f.must(err)
	return envelope.Envelope{Kind: kind, Body: raw}.Append(nil)
}

func (f *fixture) buildState(entries []state.Entry) {
	s, err := store.Open(f.dir.State(1), store.Options{FS: f.fs})
	f.must(err)
	m, err := state.Open(s)
	f.must(err)
	for _, e := range entries {
		_, err := m.Apply(e)
		f.must(err)
	}
	f.must(s.Close())
}

func (f *fixture) buildLog(entries []state.Entry) {
	var log []*raftpb.Entry
	for _, e := range entries[:len(entries)-f.unlogged] {
		term := e.Term
		if e.Index > 4 {
			term = f.logTerm
		}
		log = append(log, &raftpb.Entry{Index: &e.Index, Term: &term, Type: raftpb.EntryNormal.Enum(), Data: e.Data})
	}
	o := raftlog.Options{FS: f.fs}
	f.must(raftlog.Bootstrap(f.dir.Raft(), o, log[:1], 1))
	l, err := raftlog.Open(f.dir.Raft(), o)
	f.must(err)
	term, vote, commit := f.logTerm, uint64(selfID), f.commit
	if commit == 0 {
		commit = uint64(len(log))
	}
	f.must(l.Append(raftlog.Batch{Entries: log[1:], HardState: &raftpb.HardState{Term: &term, Vote: &vote, Commit: &commit}}, true))
	if f.truncate > 0 {
		f.must(l.Truncate(f.truncate))
	}
	f.must(l.Close())
	f.withStore(f.dir.Raft(), pebble.DefaultComparer, raftlog.FormatMajorVersion, func(db *pebble.DB) error { return db.Flush() })
}

// withStore opens a store below what it means and closes it.
func (f *fixture) withStore(dir string, cmp *pebble.Comparer, format pebble.FormatMajorVersion, fn func(*pebble.DB) error) {
	f.t.Helper()
	db, err := pebble.Open(dir, &pebble.Options{FS: f.fs, Comparer: cmp, FormatMajorVersion: format, Logger: quiet{}})
	f.must(err)
	f.must(errors.Join(fn(db), db.Close()))
}

type quiet struct{}

func (quiet) Infof(string, ...any)           {}
func (quiet) Errorf(string, ...any)          {}
func (quiet) Fatalf(format string, a ...any) { panic(fmt.Sprintf(format, a...)) }

// editState writes below the store's digest.
func (f *fixture) editState(fn func(*pebble.DB) error) {
	f.t.Helper()
	f.withStore(f.dir.State(1), store.Comparer(), store.FormatMajorVersion, fn)
}

// seeded makes a second directory, installed from a seed of f, and gives its
// fixture.
func (f *fixture) seeded(name string) *fixture {
	f.t.Helper()
	ctx := context.Background()
	s, err := store.Open(f.dir.State(1), store.Options{FS: f.fs})
	f.must(err)
	seed, err := snapshot.Capture(ctx, f.fs, s, "/seed-"+name)
	f.must(errors.Join(err, s.Close()))
	to := &fixture{t: f.t, fs: f.fs, dir: datadir.At(f.fs, "/"+name)}
	lock, err := to.dir.Lock()
	f.must(err)
	stage, err := snapshot.OpenStage(ctx, to.dir, seed.ManifestBytes())
	f.must(err)
	for i, file := range seed.Manifest().Files {
		for c := range file.Chunks {
			b, err := seed.ReadChunk(ctx, i, c, nil)
			f.must(err)
			f.must(stage.Put(i, c, b))
		}
	}
	f.must(stage.Install(ctx, datadir.Identity{Cluster: ident.Cluster{ID: clusterID}, MemberID: 0x22, Directory: ident.Nonce{5}}, snapshot.InstallOptions{}))
	f.must(lock.Close())
	return to
}

// rewrite changes the bytes of a file.
func (f *fixture) rewrite(path string, change func([]byte) []byte) {
	f.t.Helper()
	b, err := readFile(f.fs, path, 1<<30)
	f.must(err)
	w, err := f.fs.Create(path, vfs.WriteCategoryUnspecified)
	f.must(err)
	_, err = w.Write(change(b))
	f.must(errors.Join(err, w.Close()))
}

// flip inverts a byte at a fraction of the file.
func (f *fixture) flip(path string, at func(size int) int) {
	f.t.Helper()
	f.rewrite(path, func(b []byte) []byte { b[at(len(b))] ^= 0x40; return b })
}

// file gives the first file of a directory with the suffix.
func (f *fixture) file(dir, suffix string) string {
	f.t.Helper()
	names, err := f.fs.List(dir)
	f.must(err)
	slices.Sort(names)
	for _, n := range names {
		if strings.HasSuffix(n, suffix) || strings.HasPrefix(n, suffix) {
			return f.fs.PathJoin(dir, n)
		}
	}
	f.t.Fatalf("no %s in %s", suffix, dir)
	return ""
}

func (f *fixture) verify(o Options) *Report {
	f.t.Helper()
	r, err := Dir(context.Background(), f.fs, f.dir.Path(), o)
	f.must(err)
	return r
}

// treeSum hashes names and bytes of a directory.
func treeSum(t testing.TB, fs vfs.FS, dir string) string {
	h := sha256.New()
	var walk func(string)
	walk = func(path string) {
		names, err := fs.List(path)
		if err != nil {
			t.Fatal(err)
		}
		slices.Sort(names)
		for _, n := range names {
			p := fs.PathJoin(path, n)
			info, err := fs.Stat(p)
			if err != nil {
				t.Fatal(err)
			}
			fmt.Fprintf(h, "%s %t %d\n", p, info.IsDir(), info.Size())
			if info.IsDir() {
				walk(p)
				continue
			}
			if n == lockName {
				continue // reading it would end a lock on it
			}
			f, err := fs.Open(p)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := io.Copy(h, f); err != nil {
				t.Fatal(err)
			}
			if err := f.Close(); err != nil {
				t.Fatal(err)
			}
		}
	}
	walk(dir)
	return fmt.Sprintf("%x", h.Sum(nil))
}
