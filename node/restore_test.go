package node

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"google.golang.org/protobuf/proto"

	"github.com/chainfire/cfseed/internal/datadir"
	"github.com/chainfire/cfseed/internal/fault"
	"github.com/chainfire/cfseed/internal/ident"
	"github.com/chainfire/cfseed/internal/state/store"
	entryv1 "github.com/chainfire/cfseed/proto/chainfire/entry/v1"
	"github.com/chainfire/cfseed/raftlog"
	"github.com/chainfire/cfseed/snapshot"
	"github.com/chainfire/cfseed/snapshot/archive"
)

const abc = "a=http://a:1,b=http://b:1,c=http://c:1"

// TestRestoredIDs: whatever makes another state or another set of members makes
// other IDs; what does not, does not.
func TestRestoredIDs(t *testing.T) {
	ids := func(flag, token string, root byte, bump uint64) string {
		t.Helper()
		seats, err := restoredSeats(flag, token, [32]byte{root}, bump)
		if err != nil {
			t.Fatal(err)
		}
		out := ident.FormatID(clusterID(seats))
		for _, s := range seats {
			out += fmt.Sprintf(" %s=%016x", s.name, s.id)
		}
		return out
	}
	want := ids(abc, "x", 1, 0)
	if got := ids("c=http://c:1, a=http://a:1,b=http://b:1", "x", 1, 0); got != want {
		t.Errorf("%s in another order, %s before", got, want)
	}
	plain, err := parseInitialCluster(abc, "x")
	if err != nil {
		t.Fatal(err)
	}
	seen := map[string]string{ident.FormatID(clusterID(plain)): "founded"}
	for _, s := range plain {
		seen[ident.FormatID(s.id)] = "founded"
	}
	for name, got := range map[string]string{
		"as it is": want, "another token": ids(abc, "y", 1, 0), "another archive": ids(abc, "x", 2, 0), "other revisions": ids(abc, "x", 1, 7),
		"other names": ids(strings.Replace(abc, "a=", "z=", 1), "x", 1, 0), "one less": ids(abc[:strings.LastIndexByte(abc, ',')], "x", 1, 0),
	} {
		for _, word := range strings.Fields(got) {
			id := word[strings.LastIndexByte(word, '=')+1:]
			if other, used := seen[id]; used {
				t.Errorf("%s: %s is of %s, too", name, word, other)
			}
			seen[id] = name
		}
	}
}

// archiveIn writes an archive of a cluster whose member 7 holds some keys.
func archiveIn(t *testing.T, fs vfs.FS, path string) {
	t.Helper()
	st, err := store.Open("src", store.Options{FS: fs})
	if err != nil {
		t.Fatal(err)
	}
	rec, err := proto.Marshal(&entryv1.ClusterRecord{ClusterId: 5, GenesisNonce: ident.Nonce{5}.Bytes(), ClusterVersion: 1})
	if err != nil {
		t.Fatal(err)
	}
	b := st.NewBatch()
	b.SetConfState(&entryv1.ConfState{Voters: []uint64{7}})
	err = b.Set(store.Cluster, []byte("cluster"), rec)
	for i := int64(2); i < 50 && err == nil; i++ {
		b.SetRevision(i)
		err = b.SetVersion([]byte{byte(i)}, store.Version{Revision: i, Live: true, Value: []byte("\x02\x01\x00value")}, store.Version{})
	}
	if err = errors.Join(err, b.Commit(ident.Position{Term: 2, Index: 40}), b.Close()); err != nil {
		t.Fatal(err)
	}
	seed, err := snapshot.Capture(t.Context(), fs, st, "captured")
	if err := errors.Join(err, st.Close()); err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	if err := archive.Write(t.Context(), &out, seed); err != nil {
		t.Fatal(err)
	}
	if err := datadir.WriteFileSynced(fs, path, out.Bytes()); err != nil {
		t.Fatal(err)
	}
}

func restoreTo(fs vfs.FS, dir string) RestoreConfig {
	return RestoreConfig{Dir: datadir.At(fs, dir), Archive: "archive", Rand: rand.Reader}
}

// TestRestoreMembers: all members of one new cluster begin alike, and each as
// itself.
func TestRestoreMembers(t *testing.T) {
	fs := vfs.NewMem()
	archiveIn(t, fs, "archive")
	var first *Restored
	var began string
	for _, name := range []string{"a", "b", "c"} {
		cfg := restoreTo(fs, name)
		cfg.Name, cfg.InitialCluster, cfg.Bump = name, abc, 100
		out, err := Restore(t.Context(), cfg)
		if err != nil {
			t.Fatal(err)
		}
		if first == nil {
			first = out
		}
		own := out.Members[slices.IndexFunc(out.Members, func(m RestoredMember) bool { return m.Name == name })]
		id := out.Identity
		if id.Cluster != first.Identity.Cluster || !id.Cluster.Genesis.IsZero() || id.MemberID != own.ID || id.Name != name || id.Seed != nil {
			t.Errorf("%s: %+v", name, id)
		}
		if (name != "a") == (id.Directory == first.Identity.Directory) || id.Directory.IsZero() {
			t.Errorf("%s: directory %s, that of a is %s", name, id.Directory, first.Identity.Directory)
		}
		if out.Position != (ident.Position{Term: 3, Index: 41}) || out.Revision != 149 || len(out.Members) != 3 || out.Archive.Cluster.ID != 5 {
			t.Errorf("%s: %+v", name, out)
		}
		info, err := store.Inspect(cfg.Dir.State(1), store.Options{FS: fs})
		if err != nil {
			t.Fatal(err)
		}
		log, findings, err := raftlog.Inspect(cfg.Dir.Raft(), raftlog.Options{FS: fs})
		if err != nil || len(findings) > 0 {
			t.Fatal(findings, err)
		}
		now := fmt.Sprintf("%s %x %v %v", info.Position, info.Digest, info.ConfState, log)
		if began == "" {
			began = now
		}
		if now != began || info.Revision != out.Revision {
			t.Errorf("%s begins as %s\na as %s", name, now, began)
		}
		if _, err := Restore(t.Context(), cfg); !fault.Is(err, fault.NotEmpty) {
			t.Errorf("%s again: %v", name, err)
		}
	}
}

// TestRestoreAlone: without a word about members it is one, on etcd's port.
func TestRestoreAlone(t *testing.T) {
	fs := vfs.NewMem()
	archiveIn(t, fs, "archive")
	out, err := Restore(t.Context(), restoreTo(fs, "new"))
	if err != nil || len(out.Members) != 1 || out.Members[0].Name != DefaultName || out.Members[0].PeerURLs[0] != DefaultPeerURL || out.Revision != 49 {
		t.Errorf("%+v, %v", out, err)
	}
}

// TestRestoreRefuses: what can not be restored leaves no directory, and what was
// in one stays.
func TestRestoreRefuses(t *testing.T) {
	cancelled, cancel := context.WithCancel(t.Context())
	cancel()
	for name, c := range map[string]struct {
		spoil func(fs *vfs.MemFS, cfg *RestoreConfig) error
		ctx   context.Context
		code  fault.Code
	}{
		"no archive":           {func(_ *vfs.MemFS, cfg *RestoreConfig) error { cfg.Archive = "none"; return nil }, t.Context(), fault.Usage},
		"a bit of the archive": {func(fs *vfs.MemFS, _ *RestoreConfig) error { return flipMiddle(fs, "archive") }, t.Context(), fault.Corrupt},
		"interrupted":          {func(*vfs.MemFS, *RestoreConfig) error { return nil }, cancelled, fault.Interrupted},
		"not of the cluster":   {func(_ *vfs.MemFS, cfg *RestoreConfig) error { cfg.Name = "d"; return nil }, t.Context(), fault.Usage},
		"a name like a list":   {func(_ *vfs.MemFS, cfg *RestoreConfig) error { cfg.Name = "a=b"; return nil }, t.Context(), fault.Usage},
		"no URL":               {func(_ *vfs.MemFS, cfg *RestoreConfig) error { cfg.InitialCluster = "a=b"; return nil }, t.Context(), fault.Usage},
		"other URLs": {func(_ *vfs.MemFS, cfg *RestoreConfig) error {
			cfg.PeerURLs = []string{"http://b:1"}
			return nil
		}, t.Context(), fault.Usage},
		"no room for more revisions": {func(_ *vfs.MemFS, cfg *RestoreConfig) error { cfg.Bump = 1 << 63; return nil }, t.Context(), fault.Usage},
		"something else there": {func(fs *vfs.MemFS, cfg *RestoreConfig) error {
			return errors.Join(fs.MkdirAll("new", 0o755), datadir.WriteFileSynced(fs, "new/precious", nil))
		}, t.Context(), fault.NotEmpty},
	} {
		fs := vfs.NewMem()
		archiveIn(t, fs, "archive")
		cfg := restoreTo(fs, "new")
		cfg.Name, cfg.InitialCluster = "a", abc
		if err := c.spoil(fs, &cfg); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if _, err := Restore(c.ctx, cfg); !fault.Is(err, c.code) {
			t.Errorf("%s: %v", name, err)
		}
		left, err := fs.List("new")
		switch {
		case name == "something else there":
			if !slices.Equal(left, []string{"precious"}) {
				t.Errorf("%s: left %v, %v", name, left, err)
			}
		case name == "no room for more revisions": // told by the state, once it is staged
			if !slices.Equal(left, []string{"LOCK"}) {
				t.Errorf("%s: left %v, %v", name, left, err)
			}
		case err == nil:
			t.Errorf("%s: left %v", name, left)
		}
	}
}

func flipMiddle(fs *vfs.MemFS, path string) error {
	f, err := fs.Open(path)
	if err != nil {
		return err
	}
	b, err := io.ReadAll(f)
	if err := errors.Join(err, f.Close()); err != nil {
		return err
	}
	b[len(b)/2] ^= 1
	return datadir.WriteFileSynced(fs, path, b)
}
