package snapshot

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"

	"github.com/chainfire/cfseed/internal/datadir"
	"github.com/chainfire/cfseed/internal/fault"
	"github.com/chainfire/cfseed/internal/ident"
	"github.com/chainfire/cfseed/internal/state"
	"github.com/chainfire/cfseed/internal/state/store"
	entryv1 "github.com/chainfire/cfseed/proto/chainfire/entry/v1"
	"github.com/chainfire/cfseed/raftlog"
	"github.com/chainfire/cfseed/snapshot/archive"
)

func aFounder() datadir.Identity {
	return datadir.Identity{Cluster: ident.Cluster{ID: 0xd2}, MemberID: 0x61, Directory: ident.Nonce{6}, Name: "x"}
}

func aFounding() state.Founding {
	return state.Founding{Bump: 1000, Voters: []*entryv1.BootstrapVoter{
		{Id: 0x62, Name: "y", PeerUrls: []string{"http://y:1"}}, {Id: 0x61, Name: "x", PeerUrls: []string{"http://x:1"}},
	}}
}

func archiveOf(t testing.TB, seed *Seed) []byte {
	t.Helper()
	var out bytes.Buffer
	if err := archive.Write(context.Background(), &out, seed); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

// found does the whole of it from an archive: open, fill, found.
func found(d *datadir.Dir, archived []byte) error {
	ctx := context.Background()
	a, err := archive.Open(bytes.NewReader(archived))
	if err != nil {
		return err
	}
	st, err := OpenStage(ctx, d, a.ManifestBytes())
	if err != nil {
		return err
	}
	if err := st.Fill(ctx, a, nil); err != nil {
		return errors.Join(err, st.Close())
	}
	_, err = st.Found(ctx, aFounder(), aFounding(), raftlog.Options{})
	return err
}

// founding is the way of Found. Its oracle compares with want.
func founding(t testing.TB, seed *Seed) install {
	t.Helper()
	archived := archiveOf(t, seed)
	fs := vfs.NewMem()
	if err := found(datadir.At(fs, "node"), archived); err != nil {
		t.Fatal(err)
	}
	want, err := store.Inspect(datadir.At(fs, "node").State(1), store.Options{FS: fs})
	if err != nil {
		t.Fatal(err)
	}
	return install{
		run:   func(d *datadir.Dir, _ *Seed) error { return found(d, archived) },
		whole: func(fs vfs.FS, dir string, _ *Seed) error { return checkFounded(datadir.At(fs, dir), want) },
	}
}

// checkFounded says what is wrong with a directory that should hold a founder.
func checkFounded(d *datadir.Dir, want store.Info) error {
	id, err := d.ReadIdentity()
	if err != nil {
		return err
	}
	if id.Inode = 0; id.Seed != nil || id != aFounder() {
		return fmt.Errorf("identity %+v", id)
	}
	if _, err := InstalledManifest(d); !fault.Is(err, fault.Refused) {
		return fmt.Errorf("a manifest that nothing here is: %v", err)
	}
	info, findings, err := raftlog.Inspect(d.Raft(), raftlog.Options{FS: d.FS()})
	if err != nil || len(findings) > 0 {
		return fmt.Errorf("raft log: %v %v", findings, err)
	}
	pos, hs := want.Position, info.HardState
	if info.State != 1 || info.TruncatedTo != pos || info.Last != pos || hs.GetVote() != 0 || hs.GetTerm() != pos.Term || hs.GetCommit() != pos.Index {
		return fmt.Errorf("raft log %+v", info)
	}
	st, err := store.Open(d.State(1), store.Options{FS: d.FS(), ReadOnly: true})
	if err != nil {
		return err
	}
	v := st.View()
	scanned, err := v.ScanDigest(context.Background())
	if err = errors.Join(err, v.Close(), st.Close()); err != nil {
		return err
	}
	if st.Position() != pos || st.Digest() != want.Digest || scanned != want.Digest || !slices.Equal(st.ConfState().GetVoters(), []uint64{0x61, 0x62}) {
		return fmt.Errorf("state at %s, digest %x, its records %x, want %+v", st.Position(), st.Digest(), scanned, want)
	}
	return nil
}

func TestFound(t *testing.T) {
	seed := newTestSeed(t)
	fs := vfs.NewMem()
	in, d := founding(t, seed), datadir.At(fs, "node")
	if err := errors.Join(in.run(d, nil), in.whole(fs, "node", nil)); err != nil {
		t.Fatal(err)
	}
	names, err := list(fs, "node")
	if slices.Sort(names); err != nil || !slices.Equal(names, []string{"identity", "raft", "state-1"}) {
		t.Errorf("left in the directory: %v (%v)", names, err)
	}
	info, err := store.Inspect(d.State(1), store.Options{FS: fs})
	last, rev := seed.Position(), seed.Manifest().Revision+1000
	if err != nil || info.Position != (ident.Position{Term: last.Term + 1, Index: last.Index + 1}) || info.Revision != rev || info.CompactRevision != rev {
		t.Errorf("%+v, %v; the seed was at %s, revision %d", info, err, last, rev-1000)
	}
	if err := in.run(d, nil); !fault.Is(err, fault.NotEmpty) {
		t.Errorf("again, over a member: %v", err)
	}
	if err := in.whole(fs, "node", nil); err != nil {
		t.Errorf("after that: %v", err)
	}
}

// The oracle of the tests below must be able to fail.
func TestCheckFoundedNoticesDamage(t *testing.T) {
	seed := newTestSeed(t)
	in := founding(t, seed)
	for name, spoil := range map[string]func(d *datadir.Dir) error{
		"another identity": func(d *datadir.Dir) error {
			id := aFounder()
			id.MemberID++
			return d.CommitIdentity(id)
		},
		"a manifest": func(d *datadir.Dir) error { return datadir.WriteFileSynced(d.FS(), d.Manifest(), seed.ManifestBytes()) },
		"no log":     func(d *datadir.Dir) error { return d.FS().RemoveAll(d.Raft()) },
		"the seed's state": func(d *datadir.Dir) error {
			other := datadir.At(vfs.NewMem(), "node")
			if err := errors.Join(join(other, seed), d.FS().RemoveAll(d.State(1))); err != nil {
				return err
			}
			_, err := vfs.Clone(other.FS(), d.FS(), other.State(1), d.State(1))
			return err
		},
	} {
		fs := vfs.NewMem()
		d := datadir.At(fs, "node")
		if err := errors.Join(in.run(d, nil), spoil(d)); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if in.whole(fs, "node", nil) == nil {
			t.Errorf("%s: not noticed", name)
		}
	}
}

// TestFoundRefuses: whatever ends it, nothing is left.
func TestFoundRefuses(t *testing.T) {
	seed := newTestSeed(t)
	cancelled, cancel := context.WithCancel(t.Context())
	cancel()
	for name, c := range map[string]struct {
		spoil func(*context.Context, *datadir.Identity, *state.Founding)
		code  fault.Code
	}{
		"the seed's own cluster":        {func(_ *context.Context, id *datadir.Identity, _ *state.Founding) { id.Cluster = aCluster() }, fault.Refused},
		"its ID with another nonce":     {func(_ *context.Context, id *datadir.Identity, _ *state.Founding) { id.Cluster.ID = aCluster().ID }, fault.Refused},
		"a ticket":                      {func(_ *context.Context, id *datadir.Identity, _ *state.Founding) { id.Seed = &datadir.SeedRef{} }, fault.Refused},
		"nobody votes":                  {func(_ *context.Context, _ *datadir.Identity, f *state.Founding) { f.Voters = nil }, fault.Usage},
		"interrupted":                   {func(ctx *context.Context, _ *datadir.Identity, _ *state.Founding) { *ctx = cancelled }, fault.Interrupted},
		"a name that can not be stored": {func(_ *context.Context, id *datadir.Identity, _ *state.Founding) { id.Name = strings.Repeat("n", 2000) }, fault.Usage},
	} {
		fs := vfs.NewMem()
		st := staged(t, datadir.At(fs, "node"), seed)
		ctx, id, f := t.Context(), aFounder(), aFounding()
		c.spoil(&ctx, &id, &f)
		if _, err := st.Found(ctx, id, f, raftlog.Options{}); !fault.Is(err, c.code) {
			t.Errorf("%s: %v", name, err)
		}
		if left := tree(t, fs, "node"); len(left) > 0 {
			t.Errorf("%s: left %d files", name, len(left))
		}
	}
}

// TestFillRefuses: what an archive has wrong is found, another seed's as well.
func TestFillRefuses(t *testing.T) {
	seed := newTestSeed(t)
	good := archiveOf(t, seed)
	other := archiveOf(t, newSource(t, vfs.NewMem(), "src/state-1").capture("src/a"))
	flipped := bytes.Clone(good)
	flipped[len(flipped)/2] ^= 1
	cancelled, cancel := context.WithCancel(t.Context())
	cancel()
	for name, c := range map[string]struct {
		ctx  context.Context
		b    []byte
		code fault.Code
	}{
		"another seed": {t.Context(), other, fault.Usage},
		"a bit":        {t.Context(), flipped, fault.Corrupt},
		"cut":          {t.Context(), good[:len(good)-1], fault.Corrupt},
		"interrupted":  {cancelled, good, fault.Interrupted},
	} {
		st, err := OpenStage(t.Context(), datadir.At(vfs.NewMem(), "node"), seed.ManifestBytes())
		if err != nil {
			t.Fatal(err)
		}
		a, err := archive.Open(bytes.NewReader(c.b))
		if err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(st.Fill(c.ctx, a, nil)); !fault.Is(err, c.code) {
			t.Errorf("%s: %v", name, err)
		}
		if err := st.Close(); err != nil {
			t.Error(err)
		}
	}
}

// smallSeed has few chunks: the tests of Install lose power between many.
func smallSeed(t *testing.T) *Seed {
	t.Helper()
	src := newSource(t, vfs.NewMem(), "src/state-1")
	src.fill(10, 1000)
	return src.capture("src/seeds/a")
}

// The power goes before every change of the disk: no node, or a whole one, and
// running it again makes a whole one, alike in every bit that counts.
func TestFoundCrashAtEveryOperation(t *testing.T) {
	seed := smallSeed(t)
	in := founding(t, seed)
	t.Run("new directory", func(t *testing.T) { in.crashEverywhere(t, newCloneable(), seed) })
	if testing.Short() {
		return
	}
	t.Run("another seed staged", func(t *testing.T) {
		mem := newCloneable()
		starts()["another seed staged"](t, datadir.At(mem, "node"), seed)
		in.crashEverywhere(t, mem, seed)
	})
}

// TestFoundSyncErrorAtEverySync: no sync that failed is passed over.
func TestFoundSyncErrorAtEverySync(t *testing.T) {
	seed := smallSeed(t)
	in := founding(t, seed)
	syncs := func(op errorfs.Op) bool {
		return op.Kind == errorfs.OpFileSync || op.Kind == errorfs.OpFileSyncData || op.Kind == errorfs.OpFileSyncTo
	}
	n := in.failEach(t, seed, syscall.EIO, syncs, func(t *testing.T, op errorfs.Op, fs cloneableFS, err error) {
		if err == nil || !strings.Contains(err.Error(), syscall.EIO.Error()) {
			t.Errorf("got %v", err)
		}
		for what, disk := range map[string]vfs.FS{"as it is": fs, "after a crash": fs.clone(0, 0)} {
			class, cerr := datadir.At(disk, "node").Classify()
			if cerr != nil || class == datadir.Foreign || class == datadir.Complete && op.Path != "node" {
				t.Errorf("%s the directory is %s, %v", what, class, cerr)
			}
			if class == datadir.Complete {
				if err := in.whole(disk, "node", seed); err != nil {
					t.Errorf("%s behind the commit: %v", what, err)
				}
			} else if err := errors.Join(in.run(datadir.At(disk, "node"), seed), in.whole(disk, "node", seed)); err != nil {
				t.Errorf("%s, again: %v", what, err)
			}
		}
	})
	t.Logf("%d syncs, each failed once with EIO", n)
	if n < 20 {
		t.Errorf("%d syncs seen", n)
	}
}
