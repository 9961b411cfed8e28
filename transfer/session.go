package transfer

import (
	"context"
	"errors"
	"sync/atomic"
	"time"

	"golang.org/x/time/rate"

	"github.com/chainfire/cfseed/internal/fault"
	"github.com/chainfire/cfseed/internal/ident"
	chainfirev1 "github.com/chainfire/cfseed/proto/chainfire/v1"
)

// session is a seed served under a lease. It lives until the lease ends or
// another seed takes its place; its slot it keeps only while it is used.
type session struct {
	lease   Lease
	seed    Seed
	layout  *layout
	release func()
	secret  [channelSecret]byte // opens channels; told to whoever opened the seed

	// opener is the context, without its end, of who opened the seed last: the one
	// that asks over channels.
	opener atomic.Pointer[context.Context]
	toRead atomic.Bool // a file could not be sent unread

	slotTurn chan struct{} // holds one token: whose turn it is to take the slot
	lost     chan struct{} // closed when the lease was found to have ended
	ttl      atomic.Int64  // of the lease, in nanoseconds, as last renewed

	opened time.Time
	choice choice        // of the compression, for all streams
	sent   atomic.Uint64 // raw bytes of chunks sent, repetitions included

	// Guarded by Server.mu.
	slot      bool
	users     int // streams
	idleSince time.Time
	dropped   bool // no longer in Server.sessions; released by its last user
	isLost    bool
	limiter   *rate.Limiter
	limit     int64
	stopRenew context.CancelFunc
}

var errLeaseEnded = errors.New("the seed lease ended")

func leaseLost(id uint64) error {
	return fault.New(fault.LeaseLost, "seed lease "+ident.FormatID(id), errLeaseEnded).
		WithHint("run the command again: it opens a new lease and keeps what was transferred")
}

// alive is asked before every chunk.
func (s *Server) alive(sess *session) error {
	select {
	case <-sess.lost:
		return leaseLost(sess.lease.ID)
	default:
	}
	if !s.cfg.Leases.Alive(sess.lease.ID) {
		return leaseLost(sess.lease.ID)
	}
	return nil
}

// open does the work of OpenSeed: checks, slot, lease, seed, in that order.
func (s *Server) open(ctx context.Context, req *chainfirev1.OpenSeedRequest) (*session, error) {
	if err := s.checkCluster(req.GetClusterId(), req.GetGenesisNonce()); err != nil {
		return nil, err
	}
	if want := req.GetManifestRoot(); len(want) != 0 {
		if _, err := rootFrom(want); err != nil {
			return nil, fault.New(fault.Usage, "open seed", err)
		}
	}
	if sess, err := s.reopen(ctx, req); sess != nil || err != nil {
		return sess, err
	}
	if err := s.slots.acquire(ctx); err != nil {
		return nil, err
	}
	sess, err := s.openNew(ctx, req)
	if err != nil {
		s.slots.release()
	}
	return sess, err
}

// reopen continues a session that is still here and fits the request.
func (s *Server) reopen(ctx context.Context, req *chainfirev1.OpenSeedRequest) (*session, error) {
	s.mu.Lock()
	sess := s.sessions[req.GetLeaseId()]
	s.mu.Unlock()
	if sess == nil || !sess.fits(req) {
		return nil, nil
	}
	if err := s.takeSlot(ctx, sess); err != nil {
		return nil, err
	}
	lease, err := s.cfg.Leases.Open(ctx, leaseRequest(req))
	if err != nil {
		return nil, err
	}
	sess.ttl.Store(int64(lease.TTL))
	return sess, nil
}

// fits says whether the session's seed is one that the request takes.
func (sess *session) fits(req *chainfirev1.OpenSeedRequest) bool {
	if want := req.GetManifestRoot(); len(want) != 0 && string(want) != string(sess.layout.root[:]) {
		return false
	}
	return sess.layout.Position.Index >= req.GetMinPosition().GetIndex()
}

func leaseRequest(req *chainfirev1.OpenSeedRequest) LeaseRequest {
	return LeaseRequest{LeaseID: req.GetLeaseId(), MemberID: req.GetMemberId(), Target: clip(req.GetTarget()),
		TTL: milliseconds(req.GetTtlMs()), CapBytes: req.GetCapBytes(), WantRoot: req.GetManifestRoot()}
}

// clip bounds text that comes from a peer and ends in records and logs.
func clip(s string) string { return s[:min(len(s), 256)] }

// openNew opens a lease and acquires a seed; the caller holds a slot, which
// the new session takes over.
func (s *Server) openNew(ctx context.Context, req *chainfirev1.OpenSeedRequest) (*session, error) {
	lease, err := s.cfg.Leases.Open(ctx, leaseRequest(req))
	if err != nil {
		return nil, err
	}
	minimum := ident.Position{Term: req.GetMinPosition().GetTerm(), Index: req.GetMinPosition().GetIndex()}
	sess, err := s.acquire(ctx, lease, req.GetManifestRoot(), minimum)
	if err == nil {
		err = s.admit(sess)
	}
	if err != nil {
		if req.GetLeaseId() == 0 {
			s.closeLease(lease.ID)
		}
		return nil, err
	}
	s.cfg.Logger.Info("seed opened", "lease", ident.FormatID(lease.ID), "target", lease.Target,
		"position", sess.layout.Position.String(), "bytes", sess.layout.TotalBytes())
	return sess, nil
}

// closeLease ends a lease that nobody learns of, on the server's own time.
func (s *Server) closeLease(id uint64) {
	ctx, cancel := context.WithTimeout(s.ctx, 5*time.Second)
	defer cancel()
	if err := s.cfg.Leases.Close(ctx, id); err != nil {
		s.cfg.Logger.Warn("seed lease not closed, it ends by its TTL", "lease", ident.FormatID(id), "error", err)
	}
}

// acquire takes a seed from the provider and checks that it is what it says.
func (s *Server) acquire(ctx context.Context, lease Lease, want []byte, minimum ident.Position) (*session, error) {
	seed, release, err := s.cfg.Seeds.Acquire(ctx, lease, want, minimum)
	if err != nil {
		return nil, err
	}
	l, err := newLayout(seed.ManifestBytes())
	if err == nil && !s.cfg.Cluster().Same(l.Cluster) {
		err = fault.Newf(fault.Corrupt, "open seed", "the seed is of cluster %s", ident.FormatID(l.Cluster.ID))
	}
	if err == nil && l.Position.Index < minimum.Index {
		err = fault.Newf(fault.Refused, "open seed", "this member's state is at %s, asked for %s", l.Position, minimum)
	}
	if err == nil {
		err = ctx.Err()
	}
	if err != nil {
		release()
		return nil, err
	}
	sess := &session{opened: time.Now(), lease: lease, seed: seed, layout: l, release: release, slot: true, secret: newSecret(),
		slotTurn: make(chan struct{}, 1), lost: make(chan struct{}), idleSince: time.Now()}
	sess.slotTurn <- struct{}{}
	sess.ttl.Store(int64(lease.TTL))
	return sess, nil
}

// meta announces the session's seed.
func (sess *session) meta() Meta {
	m := sess.layout.meta(sess.lease)
	m.LeaseTTL = time.Duration(sess.ttl.Load())
	return m
}

// admit makes sess the session of its lease; one that was there goes when its
// last stream ends.
func (s *Server) admit(sess *session) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		s.wg.Go(sess.release)
		return context.Cause(s.ctx)
	}
	if old := s.sessions[sess.lease.ID]; old != nil {
		s.drop(old)
	}
	s.sessions[sess.lease.ID] = sess
	s.wake()
	return nil
}

// drop takes sess out of the table and releases what it holds, now or with its
// last stream. Server.mu is held, and the caller is one that Close waits for.
func (s *Server) drop(sess *session) {
	if s.sessions[sess.lease.ID] == sess {
		delete(s.sessions, sess.lease.ID)
	}
	sess.dropped = true
	if sess.users == 0 {
		s.freeSlot(sess)
		s.wg.Go(sess.release) // deletes files, which streams must not wait for
		sess.release = func() {}
	}
}

func (s *Server) freeSlot(sess *session) {
	if sess.slot {
		sess.slot = false
		s.slots.release()
	}
}

// forget drops the session of a closed lease.
func (s *Server) forget(lease uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if sess := s.sessions[lease]; sess != nil {
		s.markLost(sess)
		s.drop(sess)
	}
}

func (s *Server) markLost(sess *session) {
	if !sess.isLost {
		sess.isLost = true
		close(sess.lost)
	}
}

// takeSlot makes sure that the session holds a slot.
func (s *Server) takeSlot(ctx context.Context, sess *session) error {
	select {
	case <-sess.slotTurn:
		defer func() { sess.slotTurn <- struct{}{} }()
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	s.mu.Lock()
	if sess.slot {
		sess.idleSince = time.Now()
		s.mu.Unlock()
		return nil
	}
	s.mu.Unlock()
	if err := s.slots.acquire(ctx); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if sess.dropped && sess.users == 0 {
		s.slots.release()
		return s.notOpen(sess.lease.ID)
	}
	if sess.slot { // a stream took one back meanwhile
		s.slots.release()
	}
	sess.slot, sess.idleSince = true, time.Now()
	s.wake()
	return nil
}

// use finds the session of a lease and makes the caller one of its users; with
// the first, renewal of the lease begins. A limit below 0 leaves that as it is.
func (s *Server) use(lease uint64, root [32]byte, limit int64) (*session, error) {
	s.mu.Lock()
	sess := s.sessions[lease]
	if sess == nil || sess.layout.root != root {
		s.mu.Unlock()
		return nil, s.notOpen(lease)
	}
	if sess.users >= s.cfg.Streams {
		s.mu.Unlock()
		return nil, fault.Newf(fault.Unreachable, "get snapshot", "%d streams of this seed are open", s.cfg.Streams).
			WithHint("use fewer parallel streams")
	}
	sess.users++
	if limit >= 0 && limit != sess.limit {
		sess.limit, sess.limiter = limit, newLimiter(limit)
	}
	if sess.users == 1 && sess.stopRenew == nil {
		rctx, cancel := context.WithCancel(s.ctx)
		sess.stopRenew = cancel
		s.wg.Go(func() { s.renew(rctx, sess) })
	}
	err := s.keepSlot(sess)
	s.mu.Unlock()
	if err != nil {
		s.unuse(sess)
		return nil, err
	}
	return sess, nil
}

// keepSlot takes back the slot of a session that was idle, if one is free. A
// stream does not wait for one: opening the seed again does. Server.mu is held.
func (s *Server) keepSlot(sess *session) error {
	if !sess.slot && !s.slots.try() {
		return fault.Newf(fault.Unreachable, "get snapshot", "the seed was idle and lost its slot").WithHint("open it again")
	}
	sess.slot = true
	return nil
}

// notOpen is the answer to a stream without a session. The class says that
// opening the seed again may help.
func (s *Server) notOpen(lease uint64) error {
	if !s.cfg.Leases.Alive(lease) {
		return leaseLost(lease)
	}
	return fault.Newf(fault.Unreachable, "get snapshot", "this seed is not open at this member").WithHint("open it first")
}

func (s *Server) unuse(sess *session) {
	s.mu.Lock()
	defer s.mu.Unlock()
	sess.users--
	if sess.users > 0 {
		return
	}
	sess.idleSince = time.Now()
	if sess.stopRenew != nil {
		sess.stopRenew()
		sess.stopRenew = nil
	}
	if sess.dropped {
		s.drop(sess)
	}
	s.wake()
}
