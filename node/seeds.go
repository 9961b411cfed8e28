package node

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/chainfire/cfseed/internal/fault"
	"github.com/chainfire/cfseed/internal/ident"
	"github.com/chainfire/cfseed/internal/netsec"
	"github.com/chainfire/cfseed/internal/state"
	"github.com/chainfire/cfseed/internal/state/envelope"
	"github.com/chainfire/cfseed/node/clusterapi"
	entryv1 "github.com/chainfire/cfseed/proto/chainfire/entry/v1"
	"github.com/chainfire/cfseed/raftlog"
	"github.com/chainfire/cfseed/snapshot"
	"github.com/chainfire/cfseed/transfer"
)

// seeds is the source side of seeding at this member: it keeps leases through
// the log (transfer.LeaseKeeper), shares checkpoints (transfer.Provider) and
// answers digests (transfer.DigestReader).
type seeds struct {
	self     uint64
	ttl      time.Duration
	cap      uint64
	core     *core
	log      *raftlog.Log
	state    *stateBox
	library  *snapshot.Library
	server   *transfer.Server
	pace     *transfer.Pace // seeds give way to clients' writes
	raft     *raftSnapshots
	shareMax uint64 // log bytes after a checkpoint beyond which a fresh one is made

	opening chan struct{} // held while a lease is opened, so that the next one finds it

	mu       sync.Mutex
	served   map[uint64]servedSeed // by lease
	awaiting map[uint64]uint64     // holds of leases whose seed is not there yet, by lease
}

// servedSeed is the seed served under a lease.
type servedSeed struct {
	pos  ident.Position
	root [32]byte
}

func newSeeds(m *member) (*seeds, error) {
	n := m.n
	library, err := snapshot.OpenLibrary(n.cfg.FS, n.dir.Seeds())
	if err != nil {
		return nil, err
	}
	s := &seeds{self: m.identity.get().MemberID, ttl: n.cfg.LeaseTTL, cap: n.cfg.LeaseBytes, core: m.core, log: m.log,
		state: m.state, library: library, pace: m.pace, shareMax: n.cfg.LeaseBytes / 16,
		opening: make(chan struct{}, 1), served: map[uint64]servedSeed{}, awaiting: map[uint64]uint64{}}
	s.raft = &raftSnapshots{seeds: s, logger: n.logger, kick: make(chan struct{}, 1)}
	s.server, err = transfer.NewServer(transfer.Config{Authorizer: seedAuthorizer{n.cfg.Authorize}, Leases: s, Seeds: s, Digests: s, Tails: s,
		Dial: n.dialTransfer, Cluster: func() ident.Cluster { return m.identity.get().Cluster },
		ClientURLs: s.clientURLs, Logger: n.logger, Slots: defaultSeedSlots, Conns: n.fronts.meter, Channels: true, Pace: s.pace})
	if err != nil {
		return nil, errors.Join(err, library.Close())
	}
	return s, nil
}

// seedAuthorizer lets the node's one authoriser decide on seeding as well (S11).
type seedAuthorizer struct {
	authorize func(ctx context.Context, fullMethod string) error
}

// AuthorizeSeed asks with the method's name; no authoriser allows what the TLS
// configuration lets in. Chunks over a channel are no RPC of their own: the gates
// that the opening of the seed passed are asked again for them.
func (g seedAuthorizer) AuthorizeSeed(ctx context.Context, rpc string) error {
	if err := netsec.AskAgain(ctx, rpc); err != nil || g.authorize == nil {
		return err
	}
	if err := g.authorize(ctx, rpc); err != nil {
		return fault.New(fault.Permission, "seed", err).
			WithHint("seeding reads the whole database; it needs the seed permission")
	}
	return nil
}

func (s *seeds) clientURLs() []string {
	var out []string
	for _, r := range members(s.state.machine()) {
		if r.GetState() == entryv1.MemberState_MEMBER_STATE_MEMBER {
			out = append(out, r.GetClientUrls()...)
		}
	}
	return out
}

// Open opens a lease, or continues the one named. A new lease shares the hold
// of a live one when a checkpoint served under that is recent enough.
func (s *seeds) Open(ctx context.Context, r transfer.LeaseRequest) (transfer.Lease, error) {
	if r.LeaseID != 0 {
		return s.Renew(ctx, r.LeaseID, r.TTL, r.CapBytes)
	}
	select {
	case s.opening <- struct{}{}:
		defer func() { <-s.opening }()
	case <-ctx.Done():
		return transfer.Lease{}, fault.New(fault.Timeout, "open seed", ctx.Err())
	}
	lease, err := s.open(ctx, r, s.shareable(r.WantRoot))
	if err == nil {
		s.mu.Lock()
		s.awaiting[lease.ID] = lease.Hold
		s.mu.Unlock()
	}
	return lease, err
}

// open opens a lease: with a hold of its own, or with that of the lease whose
// checkpoint it is to share.
func (s *seeds) open(ctx context.Context, r transfer.LeaseRequest, share uint64) (transfer.Lease, error) {
	body := &entryv1.OpenSeedLease{TtlMs: uint64(s.ttl.Milliseconds()), CapBytes: s.cap, MemberId: r.MemberID,
		SourceId: s.self, Target: r.Target, CloneOf: share}
	if r.TTL > 0 {
		body.TtlMs = uint64(r.TTL.Milliseconds())
	}
	if r.CapBytes > 0 {
		body.CapBytes = r.CapBytes
	}
	res, err := s.core.Propose(ctx, envelope.OpenSeedLease, body)
	if body.CloneOf != 0 && fault.Is(err, fault.LeaseLost) { // it ended meanwhile
		body.CloneOf = 0
		res, err = s.core.Propose(ctx, envelope.OpenSeedLease, body)
	}
	if err != nil {
		return transfer.Lease{}, err
	}
	return leaseOf(res)
}

// shareable finds a live lease whose checkpoint another target can use: the one
// asked for by its root, if it is served, else the newest that is recent enough,
// else the oldest whose checkpoint is still being made and will be.
func (s *seeds) shareable(wantRoot []byte) uint64 {
	live := map[uint64]bool{}
	for _, l := range s.state.machine().SeedLeases() {
		live[l.GetId()] = true
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	var best uint64
	var at ident.Position
	for id, seed := range s.served {
		if !live[id] {
			delete(s.served, id)
			continue
		}
		if string(seed.root[:]) == string(wantRoot) {
			return id
		}
		if (seed.pos.Index > at.Index || (seed.pos.Index == at.Index && id < best)) && s.log.BytesAfter(seed.pos.Index) <= s.shareMax {
			best, at = id, seed.pos
		}
	}
	if best == 0 {
		best = s.shareableSoon(live)
	}
	return best
}

// shareableSoon is shareable among the leases that wait for their checkpoint:
// it will be at or after the hold. The caller holds mu.
func (s *seeds) shareableSoon(live map[uint64]bool) uint64 {
	var best uint64
	for id, hold := range s.awaiting {
		if !live[id] {
			delete(s.awaiting, id)
			continue
		}
		if (best == 0 || id < best) && s.log.BytesAfter(hold) <= s.shareMax {
			best = id
		}
	}
	return best
}

// Renew extends a lease; it never lowers its hold.
func (s *seeds) Renew(ctx context.Context, id uint64, ttl time.Duration, capBytes uint64) (transfer.Lease, error) {
	res, err := s.core.Propose(ctx, envelope.RenewSeedLease,
		&entryv1.RenewSeedLease{Id: id, TtlMs: uint64(ttl.Milliseconds()), CapBytes: capBytes})
	if err != nil {
		return transfer.Lease{}, err
	}
	return leaseOf(res)
}

// Close ends a lease.
func (s *seeds) Close(ctx context.Context, id uint64) error {
	_, err := s.core.Propose(ctx, envelope.CloseSeedLease, &entryv1.CloseSeedLease{Id: id})
	return err
}

// Alive answers from the applied state.
func (s *seeds) Alive(id uint64) bool {
	for _, l := range s.state.machine().SeedLeases() {
		if l.GetId() == id {
			return true
		}
	}
	return false
}

func leaseOf(res state.Result) (transfer.Lease, error) {
	l, ok := res.Response.(*entryv1.SeedLease)
	if !ok {
		return transfer.Lease{}, fault.Newf(fault.Internal, "seed lease", "unexpected result %T", res.Response)
	}
	return transfer.Lease{ID: l.GetId(), Hold: l.GetHold(), TTL: time.Duration(l.GetTtlMs()) * time.Millisecond,
		CapBytes: l.GetCapBytes(), MemberID: l.GetMemberId(), SourceID: l.GetSourceId(), Target: l.GetTarget()}, nil
}

// How long no compaction begins, unless they fall behind: it takes a processor, and
// the disk, from writes and seeds alike.
const (
	calmAfterOpen    = 5 * time.Second  // of a state: a newcomer is a voter by then
	calmAfterCapture = 5 * time.Second  // at least, from when a checkpoint is asked for
	calmWhileServed  = 30 * time.Second // of a seed, for each target that opens it; a larger one has to do with them
)

// calm lets no compaction begin at a state while a seed of it is served; begin is
// its Store.Calm.
func calm(begin func() (end func())) (end func()) {
	over := begin()
	timer := time.AfterFunc(calmWhileServed, over)
	return func() {
		timer.Stop()
		over()
	}
}

// checkpointer captures whatever state is current.
type checkpointer struct{ state *stateBox }

// Checkpoint implements snapshot.Checkpointer.
func (c checkpointer) Checkpoint(dir string) error {
	return c.state.read(func(m *state.Machine) error {
		time.AfterFunc(calmAfterCapture, m.Store().Calm())
		return m.Store().Checkpoint(dir)
	})
}

// Acquire gives the seed with wantRoot if it is still here and the lease's hold
// keeps the log after it; else one at or after the hold, shared where there is
// one.
func (s *seeds) Acquire(ctx context.Context, lease transfer.Lease, wantRoot []byte, min ident.Position) (transfer.Seed, func(), error) {
	want := snapshot.Want{Min: ident.Position{Index: max(lease.Hold, min.Index)}}
	if len(wantRoot) == len(want.Root) {
		if err := s.library.Recall(ctx, [32]byte(wantRoot)); err != nil {
			return nil, nil, err
		}
		for _, h := range s.library.Holdings() {
			if string(h.Root[:]) == string(wantRoot) && h.Position.Index >= want.Min.Index {
				want.Root = h.Root
			}
		}
	}
	seed, release, err := s.library.Acquire(ctx, want, checkpointer{s.state})
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.awaiting, lease.ID)
	if err != nil {
		return nil, nil, err
	}
	this := servedSeed{seed.Position(), seed.Root()}
	s.served[lease.ID] = this
	calmed := calm(s.state.machine().Store().Calm)
	return seed, func() {
		calmed()
		s.mu.Lock()
		if s.served[lease.ID] == this { // else another has taken its place
			delete(s.served, lease.ID)
		}
		s.mu.Unlock()
		// A directory that can not be removed now is removed at the next start.
		_ = release()
	}, nil
}

// DigestAt answers the state digest after an entry; 0 means now.
func (s *seeds) DigestAt(_ context.Context, index uint64) (uint64, [16]byte, int64, error) {
	m := s.state.machine()
	if index == 0 {
		index = m.Applied().Index
	}
	d, ok := m.DigestAt(index)
	if !ok {
		return 0, d, 0, fault.Newf(fault.Refused, "digest", "the digest at %d is not kept here (applied %d)", index, m.Applied().Index).
			WithHint("ask for an index among the last 65536 applied since the start of this member")
	}
	return index, d, m.Revision(), nil
}

// Tail gives what this member has applied after a position (S4), straight from
// its log, and how much of its room a lease has used.
func (s *seeds) Tail(_ context.Context, lease uint64, after ident.Position, maxBytes uint64) (transfer.Tail, error) {
	m := s.state.machine()
	t := transfer.Tail{Applied: m.Applied(), BytesAfter: s.log.BytesAfter(after.Index)}
	for _, l := range m.SeedLeases() {
		if lease != 0 && l.GetId() == lease {
			t.LeaseBytes, t.LeaseCap = s.log.BytesAfter(l.GetHold()), l.GetCapBytes()
		}
	}
	var err error
	t.Entries, err = s.log.Tail(after, t.Applied.Index, maxBytes)
	return t, err
}

func (s *seeds) progress() []clusterapi.SeedProgress {
	var out []clusterapi.SeedProgress
	for _, p := range s.server.Serving() {
		if p.Streams == 0 {
			continue // between two streams, or done and kept by its lease
		}
		percent := 0.0
		if p.BytesTotal > 0 {
			percent = min(100, 100*float64(p.BytesSent)/float64(p.BytesTotal))
		}
		out = append(out, clusterapi.SeedProgress{LeaseID: p.LeaseID, Target: p.Target, Percent: percent, BytesPerSecond: p.Rate})
	}
	return out
}

func (s *seeds) run(ctx context.Context) error { return s.raft.run(ctx) }

// sumAhead sums tables of the current state before a seed is asked for.
func (s *seeds) sumAhead(ctx context.Context) error {
	return s.library.SumAhead(ctx, func() string { return s.state.machine().Store().Dir() })
}

func (s *seeds) close() error {
	s.leave()
	return errors.Join(s.server.Close(), s.raft.close(), s.library.Close())
}
