package verify

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"
	"go.etcd.io/etcd/api/v3/etcdserverpb"

	"github.com/chainfire/cfseed/internal/datadir"
	"github.com/chainfire/cfseed/internal/fault"
	"github.com/chainfire/cfseed/internal/ident"
	"github.com/chainfire/cfseed/internal/state/lease"
	"github.com/chainfire/cfseed/internal/state/store"
	"github.com/chainfire/cfseed/raftlog"
)

var checkNames = []string{"identity", "seed_manifest", "raft_log", "state", "applied", "members", "leases", "users", "alarms", "block_checksums", "levels", "digest"}

func (r *Report) check(name string) Check {
	for _, c := range r.Checks {
		if c.Name == name {
			return c
		}
	}
	return Check{}
}

func describe(r *Report) string {
	var b strings.Builder
	for _, c := range r.Checks {
		fmt.Fprintf(&b, "%s %s: %s\n", c.Name, c.Status, c.Detail)
	}
	for _, f := range r.Findings {
		fmt.Fprintf(&b, "  [%s] %s: %s\n", f.Code, f.Path, f.Detail)
	}
	return b.String()
}

func healthy(t *testing.T, r *Report, skipped ...string) {
	t.Helper()
	if !r.OK || len(r.Findings) != 0 || len(r.Checks) != len(checkNames) {
		t.Fatalf("not healthy:\n%s", describe(r))
	}
	for i, name := range checkNames {
		want := OK
		for _, s := range skipped {
			if s == name {
				want = Skipped
			}
		}
		if c := r.Checks[i]; c.Name != name || c.Status != want {
			t.Errorf("check %d is %s %s, want %s %s", i, c.Name, c.Status, name, want)
		}
	}
}

func TestHealthyMember(t *testing.T) {
	f := newFixture(t).build()
	r := f.verify(Options{})
	healthy(t, r, "seed_manifest")
	if r.Position != (ident.Position{Term: 2, Index: 304}) || r.Revision != 301 || r.Digest == [16]byte{} {
		t.Errorf("position %s, revision %d, digest %x", r.Position, r.Revision, r.Digest)
	}
	if d := r.check("block_checksums").Detail; d == "0 tables" {
		t.Error("no table was read")
	}
	if d := r.check("levels").Detail; d == "0 records" {
		t.Error("no record was read")
	}
	healthy(t, f.verify(Options{Quick: true}), "seed_manifest", "block_checksums", "levels", "digest")
}

func TestHealthySeed(t *testing.T) {
	f := newFixture(t).build()
	want := f.verify(Options{})
	seeded := f.seeded("b")
	r := seeded.verify(Options{})
	healthy(t, r)
	if r.Digest != want.Digest || r.Position != want.Position || r.Revision != want.Revision {
		t.Errorf("the seed is at %s with %x, its source at %s with %x", r.Position, r.Digest, want.Position, want.Digest)
	}
	healthy(t, seeded.verify(Options{Quick: true}), "block_checksums", "levels", "digest")
	// The state moves on and its tables are rewritten: that is no damage.
	seeded.editState(func(db *pebble.DB) error {
		if err := db.Flush(); err != nil {
			return err
		}
		return db.Compact(context.Background(), []byte{0}, []byte{0xff}, false)
	})
	healthy(t, seeded.verify(Options{}))
}

// TestChangesNothing, in memory and on a disk, for a healthy directory and for
// one where every check has something to say.
func TestChangesNothing(t *testing.T) {
	for _, damaged := range []bool{false, true} {
		for _, fs := range []vfs.FS{vfs.NewMem(), vfs.Default} {
			path := "/data"
			if fs == vfs.Default {
				path = t.TempDir() + "/data"
			}
			f := newFixture(t)
			f.fs, f.dir, f.commit = fs, datadir.At(fs, path), 100
			f.build()
			if damaged {
				f.flip(f.file(f.dir.State(1), ".sst"), func(int) int { return 20 })
				f.flip(f.dir.Identity(), func(n int) int { return n / 2 })
			}
			before := treeSum(t, fs, path)
			r := f.verify(Options{})
			if r.OK == damaged {
				t.Fatalf("damaged %t:\n%s", damaged, describe(r))
			}
			if treeSum(t, fs, path) != before {
				t.Error("the directory changed")
			}
		}
	}
}

// TestDamage plants one fault each and wants it found by the check that is for
// it, with the file named.
func TestDamage(t *testing.T) {
	early := func(int) int { return 20 }
	middle := func(n int) int { return n / 2 }
	for _, tc := range []struct {
		name   string
		shape  func(*fixture) // before the directory is built
		seeded bool
		plant  func(*fixture)
		check  string
		path   func(*fixture) string // suffix of the path, "" is the check's own
		code   fault.Code
		quick  bool // found without reading everything
	}{
		{name: "identity flipped", check: "identity", quick: true,
			plant: func(f *fixture) { f.flip(f.dir.Identity(), middle) }, path: func(f *fixture) string { return f.dir.Identity() }},
		{name: "identity cut", check: "identity", quick: true,
			plant: func(f *fixture) { f.rewrite(f.dir.Identity(), func(b []byte) []byte { return b[:len(b)-1] }) }, path: func(f *fixture) string { return f.dir.Identity() }},
		{name: "identity of another cluster", check: "state", code: fault.Different, quick: true,
			plant: func(f *fixture) {
				f.editIdentity(func(id *datadir.Identity) { id.Cluster.Genesis = ident.Nonce{1} })
			},
			path: func(f *fixture) string { return f.dir.State(1) }},
		{name: "identity of another directory", check: "members", code: fault.Different, quick: true,
			plant: func(f *fixture) { f.editIdentity(func(id *datadir.Identity) { id.Directory = ident.Nonce{1} }) }, path: func(f *fixture) string { return f.dir.Identity() }},
		{name: "identity of an unknown member", check: "members", quick: true,
			plant: func(f *fixture) { f.editIdentity(func(id *datadir.Identity) { id.MemberID = 99 }) }, path: func(f *fixture) string { return f.dir.State(1) }},

		{name: "manifest flipped", seeded: true, check: "seed_manifest", quick: true,
			plant: func(f *fixture) { f.flip(f.dir.Manifest(), middle) }, path: func(f *fixture) string { return f.dir.Manifest() }},
		{name: "manifest cut", seeded: true, check: "seed_manifest", quick: true,
			plant: func(f *fixture) { f.rewrite(f.dir.Manifest(), func(b []byte) []byte { return b[:50] }) }, path: func(f *fixture) string { return f.dir.Manifest() }},
		{name: "manifest of another seed", seeded: true, check: "seed_manifest", code: fault.Different, quick: true,
			plant: func(f *fixture) {
				f.editIdentity(func(id *datadir.Identity) { id.Seed.ManifestRoot[0]++ })
			}, path: func(f *fixture) string { return f.dir.Manifest() }},
		{name: "table of the seed flipped", seeded: true, check: "seed_manifest",
			plant: func(f *fixture) { f.flip(f.file(f.dir.State(1), ".sst"), early) }, path: func(*fixture) string { return ".sst" }},
		{name: "table of the seed cut", seeded: true, check: "seed_manifest", quick: true,
			plant: func(f *fixture) {
				f.rewrite(f.file(f.dir.State(1), ".sst"), func(b []byte) []byte { return b[:len(b)/2] })
			}, path: func(*fixture) string { return ".sst" }},
		{name: "state differs from the seed", seeded: true, check: "state", code: fault.Different, quick: true,
			plant: func(f *fixture) {
				f.editState(func(db *pebble.DB) error { return flipDigest(db) })
			}, path: func(f *fixture) string { return f.dir.State(1) }},

		{name: "gap in the log", check: "raft_log", quick: true,
			plant: func(f *fixture) {
				f.editRaft(func(db *pebble.DB) error { return db.Delete(raftKey(100), pebble.Sync) })
			}, path: func(f *fixture) string { return f.dir.Raft() }},
		{name: "HardState gone", check: "raft_log", quick: true,
			plant: func(f *fixture) {
				f.editRaft(func(db *pebble.DB) error { return db.Delete([]byte{1}, pebble.Sync) })
			}, path: func(f *fixture) string { return f.dir.Raft() }},
		{name: "log table flipped", check: "raft_log", quick: true,
			plant: func(f *fixture) { f.flip(f.file(f.dir.Raft(), ".sst"), early) }, path: func(*fixture) string { return ".sst" }},

		{name: "state's list of tables flipped", check: "state", quick: true,
			plant: func(f *fixture) { f.flip(f.file(f.dir.State(1), "MANIFEST-"), early) }, path: func(f *fixture) string { return f.dir.State(1) }},
		{name: "state table missing", check: "state", quick: true,
			plant: func(f *fixture) { f.must(f.fs.Remove(f.file(f.dir.State(1), ".sst"))) }, path: func(f *fixture) string { return f.dir.State(1) }},
		{name: "state gone", check: "state", quick: true,
			plant: func(f *fixture) { f.must(f.fs.RemoveAll(f.dir.State(1))) }, path: func(f *fixture) string { return f.dir.State(1) }},

		{name: "log shorter than the state", check: "applied", quick: true,
			shape: func(f *fixture) { f.unlogged = 5 }, path: func(f *fixture) string { return f.dir.Raft() }},
		{name: "other term in the log", check: "applied", quick: true,
			shape: func(f *fixture) { f.logTerm = 3 }, path: func(f *fixture) string { return f.dir.Raft() }},
		{name: "state before the log's beginning", check: "applied", quick: true,
			shape: func(f *fixture) { f.truncate, f.unapplied = 200, 200 }, path: func(f *fixture) string { return f.dir.State(1) }},

		{name: "voter missing in the member table", check: "members", quick: true, shape: func(f *fixture) { f.unapplied = 1 },
			plant: func(f *fixture) {
				f.inBatch(func(b *store.Batch) error { return b.Delete(store.Members, []byte{0, 0, 0, 0, 0, 0, 0, selfID}) })
			}, path: func(f *fixture) string { return f.dir.State(1) }},
		{name: "unreadable member record", check: "members", quick: true, shape: func(f *fixture) { f.unapplied = 1 },
			plant: func(f *fixture) {
				f.inBatch(func(b *store.Batch) error { return b.Set(store.Members, []byte{1}, []byte{0xff}) })
			}, path: func(f *fixture) string { return f.dir.State(1) }},

		{name: "key of a lease that is gone", check: "leases", quick: true, shape: func(f *fixture) { f.unapplied = 1 },
			plant: func(f *fixture) { f.leased(false, "key0001") }, path: func(f *fixture) string { return f.dir.State(1) }},
		{name: "leased key that is gone", check: "leases", quick: true, shape: func(f *fixture) { f.unapplied = 1 },
			plant: func(f *fixture) { f.leased(true, "absent") }, path: func(f *fixture) string { return f.dir.State(1) }},
		{name: "leased key that names no lease", check: "leases", quick: true, shape: func(f *fixture) { f.unapplied = 1 },
			plant: func(f *fixture) { f.leased(true, "key0001") }, path: func(f *fixture) string { return f.dir.State(1) }},
		{name: "unreadable lease", check: "leases", quick: true, shape: func(f *fixture) { f.unapplied = 1 },
			plant: func(f *fixture) {
				f.inBatch(func(b *store.Batch) error { return b.Set(store.Lease, []byte{1}, nil) })
			}, path: func(f *fixture) string { return f.dir.State(1) }},
		{name: "unreadable alarm", check: "alarms", quick: true, shape: func(f *fixture) { f.unapplied = 1 },
			plant: func(f *fixture) {
				f.inBatch(func(b *store.Batch) error { return b.Set(store.Alarms, []byte{1}, nil) })
			}, path: func(f *fixture) string { return f.dir.State(1) }},

		{name: "permissions that nobody manages", check: "users", quick: true, shape: func(f *fixture) { f.unapplied = 1 },
			plant: func(f *fixture) {
				f.inBatch(func(b *store.Batch) error { return b.Set(store.AuthMeta, []byte("enabled"), []byte{1}) })
			}, path: func(f *fixture) string { return f.dir.State(1) }},
		{name: "unreadable user", check: "users", quick: true, shape: func(f *fixture) { f.unapplied = 1 },
			plant: func(f *fixture) {
				f.inBatch(func(b *store.Batch) error { return b.Set(store.AuthUsers, []byte("ada"), []byte{0xff}) })
			}, path: func(f *fixture) string { return f.dir.State(1) }},

		{name: "state table flipped", check: "block_checksums",
			plant: func(f *fixture) { f.flip(f.lastTable(f.dir.State(1)), middle) }, path: func(*fixture) string { return ".sst" }},
		{name: "tables of two levels exchanged", check: "levels",
			plant: func(f *fixture) { f.exchangeTables() }, path: func(f *fixture) string { return f.dir.State(1) }},
		{name: "record changed below the digest", check: "digest",
			plant: func(f *fixture) {
				f.editState(func(db *pebble.DB) error { return db.Set([]byte("\x0amember 1\x00\x00\x00\x01\x00"), nil, pebble.Sync) })
			}, path: func(f *fixture) string { return f.dir.State(1) }},
	} {
		t.Run(tc.name, func(t *testing.T) {
			f := newFixture(t)
			if tc.shape != nil {
				tc.shape(f)
			}
			f.build()
			if tc.seeded {
				f = f.seeded("b")
			}
			if tc.plant != nil {
				tc.plant(f)
			}
			code := tc.code
			if code == "" {
				code = fault.Corrupt
			}
			wantFinding(t, f.verify(Options{}), tc.check, code, tc.path(f))
			if quick := f.verify(Options{Quick: true}); tc.quick {
				wantFinding(t, quick, tc.check, code, tc.path(f))
			}
		})
	}
}

func wantFinding(t *testing.T, r *Report, check string, code fault.Code, path string) {
	t.Helper()
	if r.OK || r.check(check).Status != Failed {
		t.Fatalf("%s did not fail:\n%s", check, describe(r))
	}
	for _, c := range r.Checks {
		if c.Name == check {
			break
		}
		if c.Status == Failed {
			t.Errorf("%s failed before %s:\n%s", c.Name, check, describe(r))
		}
	}
	f := r.Findings[0]
	if f.Code != code || f.Detail == "" || (!strings.HasSuffix(f.Path, path) && !strings.HasPrefix(f.Path, path)) {
		t.Errorf("found [%s] %s, want [%s] %s:\n%s", f.Code, f.Path, code, path, describe(r))
	}
}

func raftKey(index uint64) []byte {
	key := make([]byte, 9)
	key[0], key[7], key[8] = 0x10, byte(index>>8), byte(index)
	return key
}

func (f *fixture) editRaft(fn func(*pebble.DB) error) {
	f.t.Helper()
	f.withStore(f.dir.Raft(), pebble.DefaultComparer, raftlog.FormatMajorVersion, fn)
}

func (f *fixture) editIdentity(fn func(*datadir.Identity)) {
	f.t.Helper()
	id, err := f.dir.ReadIdentity()
	f.must(err)
	fn(&id)
	f.must(f.dir.CommitIdentity(id))
}

// exchangeTables writes every record of the state twice more, unchanged, into
// two tables, and exchanges their files: what is read stays the same, every
// block is whole, but the older version of each record lies over the newer one.
func (f *fixture) exchangeTables() {
	f.t.Helper()
	o := &pebble.Options{FS: f.fs, Comparer: store.Comparer(), FormatMajorVersion: store.FormatMajorVersion,
		Logger: quiet{}, DisableAutomaticCompactions: true}
	o.ApplyCompressionSettings(func() pebble.DBCompressionSettings { return pebble.DBCompressionNone })
	db, err := pebble.Open(f.dir.State(1), o)
	f.must(err)
	var tables [2]string
	for i := range tables {
		b := db.NewBatch()
		it, err := db.NewIter(nil)
		f.must(err)
		for it.First(); it.Valid(); it.Next() {
			f.must(b.Set(it.Key(), it.Value(), nil))
		}
		f.must(errors.Join(it.Close(), b.Commit(pebble.Sync), db.Flush()))
		tables[i] = f.lastTable(f.dir.State(1))
	}
	f.must(db.Close())
	size := func(path string) int64 {
		info, err := f.fs.Stat(path)
		f.must(err)
		return info.Size()
	}
	if size(tables[0]) != size(tables[1]) {
		f.t.Fatalf("tables of %d and %d bytes can not be exchanged unseen", size(tables[0]), size(tables[1]))
	}
	f.must(f.fs.Rename(tables[0], "/aside"))
	f.must(f.fs.Rename(tables[1], tables[0]))
	f.must(f.fs.Rename("/aside", tables[1]))
}

// flipDigest changes the running digest in the head record (package store).
func flipDigest(db *pebble.DB) error {
	key := []byte("\x01head\x00")
	value, closer, err := db.Get(key)
	if err != nil {
		return err
	}
	head := append([]byte(nil), value...)
	head[16]++
	return errors.Join(closer.Close(), db.Set(key, head, pebble.Sync))
}

// leased attaches a key to lease 7, which it grants on demand, behind the back of
// the key.
func (f *fixture) leased(grant bool, key string) {
	f.inBatch(func(b *store.Batch) error {
		if grant {
			if _, _, err := lease.Grant(b, &etcdserverpb.LeaseGrantRequest{ID: 7, TTL: 60}); err != nil {
				return err
			}
		}
		return lease.Attach(b, 7, []byte(key))
	})
}

// inBatch changes the state above the digest, as the entry after the last one
// applied would.
func (f *fixture) inBatch(fn func(*store.Batch) error) {
	f.t.Helper()
	s, err := store.Open(f.dir.State(1), store.Options{FS: f.fs})
	f.must(err)
	b := s.NewBatch()
	f.must(fn(b))
	f.must(b.Commit(ident.Position{Term: 2, Index: s.Position().Index + 1}))
	f.must(b.Close())
	f.must(s.Close())
}

// lastTable gives the newest table of a store.
func (f *fixture) lastTable(dir string) string {
	f.t.Helper()
	names, err := f.fs.List(dir)
	f.must(err)
	var last string
	for _, n := range names {
		if strings.HasSuffix(n, ".sst") && n > last {
			last = n
		}
	}
	return f.fs.PathJoin(dir, last)
}

// TestCommitBehind: a crash may lose the last commit index. The member repairs
// it, so it is no damage, but it is said.
func TestCommitBehind(t *testing.T) {
	f := newFixture(t)
	f.commit = 200
	r := f.build().verify(Options{})
	healthy(t, r, "seed_manifest")
	if d := r.check("applied").Detail; !strings.Contains(d, "raises it") {
		t.Error(d)
	}
}

// TestLogTruncatedAtState: all that is applied may be truncated.
func TestLogTruncatedAtState(t *testing.T) {
	f := newFixture(t)
	f.truncate = 304
	healthy(t, f.build().verify(Options{}), "seed_manifest")
}

// TestLogAhead: a member that crashed replays what its state lacks.
func TestLogAhead(t *testing.T) {
	f := newFixture(t)
	f.unapplied = 50
	healthy(t, f.build().verify(Options{}), "seed_manifest")
}

func TestRunningMember(t *testing.T) {
	f := newFixture(t).build()
	lock, err := f.dir.Lock()
	f.must(err)
	if _, err := Dir(context.Background(), f.fs, f.dir.Path(), Options{}); !fault.Is(err, fault.InUse) {
		t.Errorf("running: %v", err)
	}
	f.must(lock.Close())
	healthy(t, f.verify(Options{}), "seed_manifest")
	// And it let go of the lock.
	healthy(t, f.verify(Options{}), "seed_manifest")
}

func TestNoMember(t *testing.T) {
	fs := vfs.NewMem()
	for _, path := range []string{"/absent", "/staged", "/foreign"} {
		switch d := datadir.At(fs, path); path {
		case "/staged":
			if err := d.Begin(); err != nil {
				t.Fatal(err)
			}
		case "/foreign":
			if err := fs.MkdirAll("/foreign/photos", 0o755); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := Dir(context.Background(), fs, path, Options{}); !fault.Is(err, fault.Refused) {
			t.Errorf("%s: %v", path, err)
		}
	}
}

func TestInterrupted(t *testing.T) {
	f := newFixture(t).build()
	for _, at := range checkNames {
		ctx, cancel := context.WithCancel(context.Background())
		_, err := Dir(ctx, f.fs, f.dir.Path(), Options{Began: func(name string) {
			if name == at {
				cancel()
			}
		}})
		if !fault.Is(err, fault.Interrupted) {
			t.Errorf("cancelled in %s: %v", at, err)
		}
		cancel()
	}
}
