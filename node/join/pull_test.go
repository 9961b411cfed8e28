package join

import (
	"context"
	"crypto/rand"
	"errors"
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"google.golang.org/protobuf/proto"

	"github.com/chainfire/cfseed/internal/datadir"
	"github.com/chainfire/cfseed/internal/fault"
	"github.com/chainfire/cfseed/internal/ident"
	"github.com/chainfire/cfseed/internal/state/store"
	entryv1 "github.com/chainfire/cfseed/proto/chainfire/entry/v1"
	chainfirev1 "github.com/chainfire/cfseed/proto/chainfire/v1"
	"github.com/chainfire/cfseed/raftlog"
)

func aCluster() ident.Cluster { return ident.Cluster{ID: 0xc1, Genesis: ident.Nonce{9, 8, 7}} }

// stoppedMember makes the directory of a member that was stopped at 2/40.
func stoppedMember(t *testing.T, fs vfs.FS, path string) (*datadir.Dir, ident.Position) {
	t.Helper()
	d := datadir.At(fs, path)
	pos := ident.Position{Term: 2, Index: 40}
	err := d.Begin()
	if err == nil {
		err = fillState(fs, d.State(1), pos)
	}
	if err == nil {
		err = raftlog.Seed(d.Raft(), raftlog.Options{FS: fs}, raftlog.SeedState{Position: pos, State: 1})
	}
	if err == nil {
		err = d.CommitIdentity(datadir.Identity{Cluster: aCluster(), MemberID: 7, Directory: ident.Nonce{5}, Name: "donor"})
	}
	if err == nil {
		err = d.RemoveStaging()
	}
	if err != nil {
		t.Fatal(err)
	}
	return d, pos
}

func fillState(fs vfs.FS, dir string, pos ident.Position) error {
	st, err := store.Open(dir, store.Options{FS: fs})
	if err != nil {
		return err
	}
	rec, err := proto.Marshal(&entryv1.ClusterRecord{ClusterId: aCluster().ID, GenesisNonce: aCluster().Genesis.Bytes(), ClusterVersion: 1})
	if err != nil {
		return errors.Join(err, st.Close())
	}
	b := st.NewBatch()
	b.SetConfState(&entryv1.ConfState{Voters: []uint64{7}})
	err = b.Set(store.Cluster, []byte("cluster"), rec)
	for i := int64(2); i < 30 && err == nil; i++ {
		b.SetRevision(i)
		err = b.SetVersion([]byte{byte(i)}, store.Version{Revision: i, Live: true, Value: []byte(strings.Repeat("v", 1000))}, store.Version{})
	}
	if err == nil {
		err = b.Commit(pos)
	}
	return errors.Join(err, b.Close(), st.Close())
}

func pullFrom(t *testing.T, fs vfs.FS, donor, to string) (*PullOutcome, error) {
	t.Helper()
	return Pull(t.Context(), PullConfig{Donor: donor, Rand: rand.Reader, Config: Config{Dir: datadir.At(fs, to)}})
}

// TestPullFromStopped takes a stopped member's state and nothing of what makes
// it that member (way C1, S4).
func TestPullFromStopped(t *testing.T) {
	fs := vfs.NewMem()
	donor, pos := stoppedMember(t, fs, "donor")
	out, err := pullFrom(t, fs, "donor", "new")
	if err != nil {
		t.Fatal(err)
	}
	id := out.Identity
	switch {
	case id.Cluster != aCluster() || id.Seed == nil || id.Seed.Position != pos || id.Seed.LeaseID != 0 || id.Seed.Joined:
		t.Errorf("%+v %+v", id, id.Seed)
	case id.MemberID != 0 || id.Directory.IsZero() || id.Directory == (ident.Nonce{5}) || !strings.HasPrefix(id.Name, "node-"):
		t.Errorf("the donor's identity came along: %+v", id)
	case out.AlreadyComplete || out.Files == 0 || out.Revision != 29 || !out.LeaseExpires.IsZero() || out.Result.BytesTotal == 0:
		t.Errorf("%+v", out)
	}
	log, err := raftlog.Open(datadir.At(fs, "new").Raft(), raftlog.Options{FS: fs})
	if err != nil {
		t.Fatal(err)
	}
	if hs := log.HardState(); hs.GetVote() != 0 || hs.GetTerm() != pos.Term || hs.GetCommit() != pos.Index {
		t.Errorf("hard state %v", hs)
	}
	if err := log.Close(); err != nil {
		t.Fatal(err)
	}
	again, err := pullFrom(t, fs, "donor", "new")
	if err != nil || !again.AlreadyComplete || again.Identity.Directory != id.Directory || again.Files != out.Files ||
		again.Revision != out.Revision || again.Seconds <= 0 || !again.LeaseExpires.IsZero() {
		t.Errorf("again: %+v, %v", again, err)
	}
	if r := again.Result; r.BytesTotal != out.Result.BytesTotal || r.BytesReused != r.BytesTotal || r.BytesWire != 0 {
		t.Errorf("again: %+v, was %+v", r, out.Result)
	}
	if lock, err := donor.Lock(); err != nil {
		t.Errorf("the donor stays locked: %v", err)
	} else if err := lock.Close(); err != nil {
		t.Error(err)
	}
}

// A pull into a complete directory renews the lease of its seed, and says when
// that ends only where the seed's own cluster has renewed it.
func TestPullKeepsTheLease(t *testing.T) {
	fs := vfs.NewMem()
	stoppedMember(t, fs, "donor")
	out, err := pullFrom(t, fs, "donor", "new")
	if err != nil {
		t.Fatal(err)
	}
	id := out.Identity
	id.MemberID, id.Seed.LeaseID = 5, 9
	if err := datadir.At(fs, "new").CommitIdentity(id); err != nil {
		t.Fatal(err)
	}
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	ours := &chainfirev1.ReserveResponse{ClusterId: aCluster().ID, GenesisNonce: aCluster().Genesis.Bytes()}
	theirs := &chainfirev1.ReserveResponse{ClusterId: 0xdd, GenesisNonce: aCluster().Genesis.Bytes()}
	for _, tc := range []struct {
		name     string
		cluster  *cluster
		expires  time.Time
		renewals int
	}{
		{"it lives", &cluster{reserve: ours}, now.Add(30 * time.Millisecond), 1},
		{"it has ended", &cluster{reserve: ours, renewErr: fault.Newf(fault.LeaseLost, "renew", "ended")}, time.Time{}, 1},
		{"another cluster answers", &cluster{reserve: theirs}, time.Time{}, 0},
	} {
		cfg := Config{Dir: datadir.At(fs, "new"), Endpoints: []string{"a"}, Dial: tc.cluster.serve(t), Now: func() time.Time { return now }}
		again, err := Pull(t.Context(), PullConfig{Rand: rand.Reader, Config: cfg})
		if err != nil || !again.AlreadyComplete || again.Files != out.Files || again.Identity.Seed.LeaseID != 9 {
			t.Fatalf("%s: %+v, %v", tc.name, again, err)
		}
		if !again.LeaseExpires.Equal(tc.expires) || tc.cluster.renewals != tc.renewals {
			t.Errorf("%s: expires %s, want %s; %d renewals", tc.name, again.LeaseExpires, tc.expires, tc.cluster.renewals)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	cfg := Config{Dir: datadir.At(fs, "new"), Endpoints: []string{"a"}, Dial: (&cluster{reserve: ours}).serve(t)}
	if _, err := Pull(ctx, PullConfig{Rand: rand.Reader, Config: cfg}); !fault.Is(err, fault.Interrupted) {
		t.Errorf("interrupted: %v", err)
	}
}

// twoDisks has what is below donor/ on a disk of its own, and counts tables
// that are written chunk by chunk.
type twoDisks struct {
	*vfs.MemFS
	chunked int
}

func (d *twoDisks) Link(from, to string) error {
	if strings.HasPrefix(from, "donor/") != strings.HasPrefix(to, "donor/") {
		return &os.LinkError{Op: "link", Old: from, New: to, Err: syscall.EXDEV}
	}
	return d.MemFS.Link(from, to)
}

func (d *twoDisks) OpenReadWrite(name string, c vfs.DiskWriteCategory, opts ...vfs.OpenOption) (vfs.File, error) {
	if strings.HasSuffix(name, ".sst") {
		d.chunked++
	}
	return d.MemFS.OpenReadWrite(name, c, opts...)
}

// From another disk, a pull needs room for one copy, and says so at once.
func TestPullFromAnotherDisk(t *testing.T) {
	fs := &twoDisks{MemFS: vfs.NewMem()}
	stoppedMember(t, fs, "donor")
	fs.TestingSetDiskUsage(vfs.DiskUsage{AvailBytes: 64 << 20, TotalBytes: 1 << 40})
	if _, err := pullFrom(t, fs, "donor", "new"); !fault.Is(err, fault.NoSpace) {
		t.Errorf("without room: %v", err)
	}
	if names, err := fs.List("new/staging"); err != nil || slices.Contains(names, "donor") || slices.Contains(names, "files") {
		t.Errorf("left in staging: %v, %v", names, err)
	}
	fs.TestingSetDiskUsage(vfs.DiskUsage{AvailBytes: 65 << 20, TotalBytes: 1 << 40})
	out, err := pullFrom(t, fs, "donor", "new")
	if err != nil {
		t.Fatal(err)
	}
	if r := out.Result; fs.chunked != 0 || r.BytesWire != r.BytesTotal || r.BytesReused != 0 {
		t.Errorf("%d tables copied twice; %+v", fs.chunked, r)
	}
}

func TestPullRefusals(t *testing.T) {
	fs := vfs.NewMem()
	donor, _ := stoppedMember(t, fs, "donor")
	if err := fs.MkdirAll("foreign/photos", 0o755); err != nil {
		t.Fatal(err)
	}
	joined := datadir.At(fs, "joined")
	if err := errors.Join(joined.Begin(), joined.CommitIdentity(datadir.Identity{MemberID: 3, Seed: &datadir.SeedRef{Joined: true}})); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name, donor, to string
		code            fault.Code
	}{
		{"into a member", "donor", "donor", fault.Refused},
		{"into a seed that was admitted", "donor", "joined", fault.Refused},
		{"into something else", "donor", "foreign", fault.NotEmpty},
		{"from something else", "foreign", "new", fault.Refused},
	} {
		_, err := pullFrom(t, fs, c.donor, c.to)
		if !fault.Is(err, c.code) {
			t.Errorf("%s: %v, want %s", c.name, err, c.code)
		}
	}
	if names, err := fs.List("foreign"); err != nil || len(names) != 1 {
		t.Errorf("a foreign directory was touched: %v, %v", names, err)
	}
	lock, err := donor.Lock()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := pullFrom(t, fs, "donor", "new"); !fault.Is(err, fault.InUse) {
		t.Errorf("from a running member: %v", err)
	}
	if err := lock.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := pullFrom(t, fs, "donor", "new"); err != nil {
		t.Errorf("once it is stopped: %v", err)
	}
}

// A pull that was interrupted leaves no node behind and is resumed by the next.
func TestPullInterrupted(t *testing.T) {
	fs := vfs.NewMem()
	stoppedMember(t, fs, "donor")
	ctx, cancel := context.WithCancel(t.Context())
	cfg := PullConfig{Donor: "donor", Rand: rand.Reader, Config: Config{Dir: datadir.At(fs, "new"), Started: func(phase string) {
		if phase == PhaseVerify {
			cancel()
		}
	}}}
	if _, err := Pull(ctx, cfg); !fault.Is(err, fault.Interrupted) {
		t.Fatalf("%v", err)
	}
	if class, err := cfg.Dir.Classify(); err != nil || class != datadir.Staged {
		t.Fatalf("the directory is %s, %v", class, err)
	}
	nonce, err := DirectoryNonce(cfg.Dir, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	out, err := pullFrom(t, fs, "donor", "new")
	if err != nil {
		t.Fatal(err)
	}
	// Opening the donor anew may give it another log of its own; its data is there.
	if r := out.Result; r.BytesWire+r.BytesReused != r.BytesTotal || r.BytesReused < r.BytesTotal/2 || out.Identity.Directory != nonce {
		t.Errorf("%d of %d bytes moved again; nonce %s, was %s", r.BytesWire, r.BytesTotal, out.Identity.Directory, nonce)
	}
}
