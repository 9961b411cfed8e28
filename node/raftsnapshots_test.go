package node

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"
	"golang.org/x/sync/errgroup"
	"google.golang.org/protobuf/proto"

	"github.com/chainfire/cfseed/internal/datadir"
	"github.com/chainfire/cfseed/internal/ident"
	"github.com/chainfire/cfseed/internal/state"
	"github.com/chainfire/cfseed/node/replica"
	"github.com/chainfire/cfseed/snapshot"
	"github.com/chainfire/cfseed/transfer"
)

// seated is a founding member that the test can look into.
type seated struct {
	*member
	t     *testing.T
	cfg   Config
	ready chan struct{}
	end   func() error
}

// found starts members of one new cluster.
func found(t *testing.T, names ...string) []*seated {
	t.Helper()
	return foundWith(t, func(*Config) {}, names...)
}

// foundWith is found with members that are set up otherwise.
func foundWith(t *testing.T, change func(*Config), names ...string) []*seated {
	t.Helper()
	var out []*seated
	var cluster []string
	addrs := freeAddrs(t, len(names))
	for i, name := range names {
		url := "http://" + addrs[i]
		cluster = append(cluster, name+"="+url)
		s := &seated{t: t, cfg: Config{Name: name, DataDir: filepath.Join(t.TempDir(), name),
			ListenClient: []string{"http://127.0.0.1:0"}, ListenPeer: []string{url}, Rand: rand.Reader}}
		if len(names) == 1 { // nobody else can be silent for so long
			s.cfg.Heartbeat, s.cfg.Election = soloHeartbeat, soloElection
		}
		out = append(out, s)
	}
	for _, s := range out {
		s.cfg.InitialCluster = strings.Join(cluster, ",")
		change(&s.cfg)
		s.run()
	}
	for _, s := range out {
		s.waitReady()
	}
	return out
}

// run starts the member, at first from nothing.
func (s *seated) run() {
	s.t.Helper()
	s.open()
	s.begin()
}

// open makes the member of what its directory holds; nothing happens yet.
func (s *seated) open() {
	s.t.Helper()
	ready := make(chan struct{})
	s.ready, s.cfg.Ready = ready, func(string) { close(ready) }
	cfg, err := s.cfg.withDefaults()
	if err != nil {
		s.t.Fatal(err)
	}
	n := &node{cfg: cfg, dir: datadir.At(cfg.FS, cfg.DataDir), logger: cfg.Logger, registry: registry{prometheus.NewRegistry()}}
	n.metrics = newMetrics(n.registry)
	if n.fronts, err = openFronts(s.t.Context(), &n.cfg, n.registry.Registry); err != nil {
		s.t.Fatal(err)
	}
	id, err := n.dir.ReadIdentity()
	if err != nil {
		if id, err = n.bootstrap(); err != nil {
			s.t.Fatal(err)
		}
	}
	if s.member, err = n.openMember(id); err != nil {
		s.t.Fatal(err)
	}
	s.core.patience, s.core.leaderless = patience, patience // a request may be large, and the machine busy
	if err := s.member.startRaft(); err != nil {
		s.t.Fatal(err)
	}
}

// begin lets a member that was opened work, until it is ended.
func (s *seated) begin() {
	s.t.Helper()
	m, n := s.member, s.member.n
	ctx, stop := context.WithCancel(context.Background())
	open, shut := context.WithCancel(context.Background())
	g := errgroup.Group{}
	g.Go(func() error { return n.fronts.run(open) })
	g.Go(func() error {
		defer shut()
		return errors.Join(m.run(ctx, nil), m.close())
	})
	ended := false
	s.end = func() error {
		if ended {
			return nil
		}
		ended = true
		stop()
		return g.Wait()
	}
	s.t.Cleanup(func() {
		if err := s.end(); err != nil {
			s.t.Error(err)
		}
	})
}

func (s *seated) waitReady() {
	s.t.Helper()
	select {
	case <-s.ready:
	case <-time.After(patience):
		s.t.Fatalf("%s is not ready", s.cfg.Name)
	}
}

func (s *seated) id() uint64 { return s.identity.get().MemberID }

func (s *seated) status() (st replica.Status) {
	s.t.Helper()
	if err := s.core.status(within(s.t), &st); err != nil {
		s.t.Fatal(err)
	}
	return st
}

// dropLog drops the log up to what is applied, as a leader does when a follower
// is away for long.
func (s *seated) dropLog() {
	s.t.Helper()
	err := s.state.read(func(m *state.Machine) error {
		err := m.Store().Flush()
		s.core.appends.push(appendWork{truncate: m.Applied().Index})
		return err
	})
	if err != nil {
		s.t.Fatal(err)
	}
	want := s.state.machine().Applied().Index
	waitFor(s.t, "the log is dropped", func() bool { return s.log.TruncatedTo().Index+8 > want })
}

func waitFor(t *testing.T, what string, cond func() bool) {
	t.Helper()
	if !waitsFor(cond) {
		t.Fatalf("not within %s: %s", patience, what)
	}
}

// waitsFor reports whether a condition came to hold.
func waitsFor(cond func() bool) bool {
	ticker := time.NewTicker(5 * time.Millisecond)
	defer ticker.Stop()
	timeout := time.After(patience)
	for !cond() {
		select {
		case <-ticker.C:
		case <-timeout:
			return false
		}
	}
	return true
}

// behind gives two members and a third that is stopped and whose next entries
// the two have dropped; a seed to it takes a while.
func behind(t *testing.T) (rest []*seated, away *seated, c *clientv3.Client) {
	t.Helper()
	all := found(t, "a", "b", "c")
	away = all[slices.IndexFunc(all, func(s *seated) bool { return !s.status().IsLeader() })]
	rest = slices.DeleteFunc(all, func(s *seated) bool { return s == away })
	c = etcdClient(t, &running{client: rest[0].n.cfg.AdvertiseClient[0]}, &running{client: rest[1].n.cfg.AdvertiseClient[0]})
	put(t, c, "before", "1")
	if err := away.end(); err != nil {
		t.Fatal(err)
	}
	value := make([]byte, 64<<10)
	for i := range 40 {
		if _, err := rand.Read(value); err != nil {
			t.Fatal(err)
		}
		put(t, c, fmt.Sprint("big", i), string(value))
	}
	for _, s := range rest {
		s.dropLog()
	}
	away.cfg.RateLimit = 1 << 20
	return rest, away, c
}

// fetching waits until one of the members sends files, and gives it.
func fetching(t *testing.T, from []*seated) (source *seated) {
	t.Helper()
	waitFor(t, "the follower fetches", func() bool {
		for _, s := range from {
			for _, v := range s.seeds.server.Serving() {
				if v.Streams > 0 && v.BytesSent > 0 {
					source = s
				}
			}
		}
		return source != nil
	})
	return source
}

// caughtUp wants all that the others have in a member that came by a snapshot.
func (s *seated) caughtUp(other *seated, c *clientv3.Client) {
	s.t.Helper()
	put(s.t, c, "after", "1")
	want := other.state.machine().Applied().Index
	waitFor(s.t, "the follower has it all", func() bool { return s.state.machine().Applied().Index >= want })
	digest, ok := other.state.machine().DigestAt(want)
	if got, here := s.state.machine().DigestAt(want); here && (!ok || got != digest) { // not there if a snapshot jumped over it
		s.t.Errorf("digest at %d: %x, want %x %t", want, got, digest, ok)
	}
	if s.log.State() < 2 {
		s.t.Error("no snapshot was installed: this test shows nothing")
	}
	waitFor(s.t, "one state is left", func() bool {
		have, err := s.n.dir.States()
		return err == nil && slices.Equal(have, []uint64{s.log.State()})
	})
}

// reused hears how many bytes of a Raft snapshot were there before.
type reused struct {
	slog.Handler
	bytes chan uint64
}

func (h reused) WithAttrs([]slog.Attr) slog.Handler { return h }
func (h reused) Handle(_ context.Context, r slog.Record) error {
	r.Attrs(func(a slog.Attr) bool {
		if r.Message == "raft snapshot fetched" && a.Key == "reused" {
			h.bytes <- a.Value.Uint64()
		}
		return true
	})
	return nil
}

func (h reused) Enabled(context.Context, slog.Level) bool { return true }

// staged gives the size of the largest file that is being fetched, holes where
// chunks are missing included.
func (s *seated) staged() (largest int64) {
	fs := s.n.cfg.FS
	dir := fs.PathJoin(s.n.dir.Staging(), "files")
	names, _ := fs.List(dir) // none at first
	for _, name := range names {
		if info, err := fs.Stat(fs.PathJoin(dir, name)); err == nil {
			largest = max(largest, info.Size())
		}
	}
	return largest
}

// TestRaftSnapshotAfterAStop: a follower that is stopped while it fetches a
// Raft snapshot keeps its state and what it has; when it is back, it fetches
// the rest.
func TestRaftSnapshotAfterAStop(t *testing.T) {
	rest, away, c := behind(t)
	away.cfg.RateLimit = 256 << 10 // the rest takes longer than to stop it
	away.run()
	fetching(t, rest)
	waitFor(t, "a chunk is staged", func() bool { return away.staged() >= 1<<20 })
	before := away.log.State()
	if err := away.end(); err != nil {
		t.Fatal(err)
	}
	if have, err := away.n.dir.States(); err != nil || !slices.Equal(have, []uint64{before}) {
		t.Fatalf("states %d after the stop, %v; in use was %d", have, err, before)
	}
	heard := reused{bytes: make(chan uint64, 16)}
	away.cfg.RateLimit, away.cfg.Logger = 0, slog.New(heard)
	away.run()
	away.waitReady()
	away.caughtUp(rest[0], c)
	if n := <-heard.bytes; n == 0 { // the last chunk of a file may be short, and come first
		t.Error("nothing of what was there was used again")
	}
}

// TestSeedIsReplaced: a lease whose seed gives way to a newer one serves the
// newer one when the files of the first are let go.
func TestSeedIsReplaced(t *testing.T) {
	one := found(t, "one")[0]
	lease, err := one.seeds.Open(within(t), transfer.LeaseRequest{Target: "test"})
	if err != nil {
		t.Fatal(err)
	}
	first, releaseFirst, err := one.seeds.Acquire(within(t), lease, nil, ident.Position{})
	if err != nil {
		t.Fatal(err)
	}
	put(t, etcdClient(t, &running{client: one.n.cfg.AdvertiseClient[0]}), "a", "1")
	second, releaseSecond, err := one.seeds.Acquire(within(t), lease, nil, one.state.machine().Applied())
	if err != nil || second == first {
		t.Fatalf("the same seed, %v", err)
	}
	releaseFirst()
	root := second.(*snapshot.Seed).Root()
	if got := one.seeds.shareable(root[:]); got != lease.ID {
		t.Errorf("lease %d has the seed, want %d", got, lease.ID)
	}
	releaseSecond()
	if got := one.seeds.shareable(root[:]); got != 0 {
		t.Errorf("lease %d has a seed that was let go", got)
	}
}

// TestCheckpointIsSharedWhileItIsMade: targets that come before the checkpoint of
// the first is there share it, since they share its hold; not once that lease
// has ended, nor when too much was written since.
func TestCheckpointIsSharedWhileItIsMade(t *testing.T) {
	one := found(t, "one")[0]
	opened := func() transfer.Lease {
		t.Helper()
		lease, err := one.seeds.Open(within(t), transfer.LeaseRequest{Target: "test"})
		if err != nil {
			t.Fatal(err)
		}
		return lease
	}
	first, second := opened(), opened()
	if second.Hold != first.Hold || second.ID == first.ID {
		t.Fatalf("leases %+v and %+v share no hold", first, second)
	}
	seed, release, err := one.seeds.Acquire(within(t), first, nil, ident.Position{})
	if err != nil {
		t.Fatal(err)
	}
	defer release()
	if shared, release, err := one.seeds.Acquire(within(t), second, nil, ident.Position{}); err != nil || shared != seed {
		t.Errorf("the second lease has another seed, %v", err)
	} else {
		release()
	}
	for _, id := range []uint64{first.ID, second.ID} {
		if err := one.seeds.Close(within(t), id); err != nil {
			t.Fatal(err)
		}
	}
	third := opened()
	if third.Hold <= first.Hold {
		t.Errorf("lease %+v has the hold of one that ended, %+v", third, first)
	}
	one.seeds.shareMax = 1
	put(t, etcdClient(t, &running{client: one.n.cfg.AdvertiseClient[0]}), "a", "1")
	if fourth := opened(); fourth.Hold <= third.Hold {
		t.Errorf("lease %+v has the hold of %+v, though too much was written since", fourth, third)
	}
}

// TestStagingIsRemoved: what an earlier run has staged is not kept by a member
// that is up to date.
func TestStagingIsRemoved(t *testing.T) {
	one := found(t, "one")[0]
	if err := one.end(); err != nil {
		t.Fatal(err)
	}
	fs, dir := one.n.cfg.FS, one.n.dir.Staging()
	if err := fs.MkdirAll(fs.PathJoin(dir, "files"), 0o755); err != nil {
		t.Fatal(err)
	}
	one.run()
	one.waitReady()
	if _, err := fs.Stat(dir); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("staging/ is kept: %v", err)
	}
}

// TestRaftSnapshotFilesGo: all leases end while the files are on their way. The
// follower gives up, and is sent another snapshot.
func TestRaftSnapshotFilesGo(t *testing.T) {
	rest, away, c := behind(t)
	away.run()
	source := fetching(t, rest)
	for _, l := range source.state.machine().SeedLeases() {
		if err := source.seeds.Close(within(t), l.GetId()); err != nil {
			t.Fatal(err)
		}
	}
	away.waitReady()
	away.caughtUp(rest[0], c)
}

// TestRaftSnapshotIsPrepared: there is none until somebody asks; what is then
// prepared is of the present configuration, and is let go with its lease.
func TestRaftSnapshotIsPrepared(t *testing.T) {
	one := found(t, "one")[0]
	if _, err := one.seeds.raftSnapshot(); !errors.Is(err, raft.ErrSnapshotTemporarilyUnavailable) {
		t.Fatalf("%v", err)
	}
	var snap *raftpb.Snapshot
	waitFor(t, "a snapshot is prepared", func() (ok bool) {
		var err error
		snap, err = one.seeds.raftSnapshot()
		return err == nil
	})
	meta := snap.GetMetadata()
	if meta.GetIndex() == 0 || meta.GetTerm() == 0 || !slices.Equal(meta.GetConfState().GetVoters(), []uint64{one.id()}) {
		t.Errorf("%v", meta)
	}
	root, lease := one.seeds.raftSnapshotInfo(&raftpb.Message{Snapshot: snap})
	if len(root) != 32 || !one.seeds.Alive(lease) {
		t.Errorf("root %x, lease %d", root, lease)
	}
	other := proto.CloneOf(snap)
	other.Metadata.Index = proto.Uint64(meta.GetIndex() + 1)
	if root, lease := one.seeds.raftSnapshotInfo(&raftpb.Message{Snapshot: other}); root != nil || lease != 0 {
		t.Errorf("another index has root %x, lease %d", root, lease)
	}
	r := one.seeds.raft
	r.mu.Lock()
	stale := *r.current
	r.mu.Unlock()
	stale.Learners = []uint64{7}
	if r.usable(&stale) {
		t.Error("a snapshot of another configuration is sent")
	}
	if err := one.seeds.Close(within(t), lease); err != nil {
		t.Fatal(err)
	}
	if _, err := one.seeds.raftSnapshot(); !errors.Is(err, raft.ErrSnapshotTemporarilyUnavailable) {
		t.Errorf("without its lease: %v", err)
	}
	waitFor(t, "another is prepared, the first let go", func() bool {
		next, err := one.seeds.raftSnapshot()
		return err == nil && next.GetMetadata().GetIndex() > meta.GetIndex() && len(one.seeds.library.Holdings()) == 1
	})
}
