package transfer

import (
	"context"
	"time"

	"github.com/chainfire/cfseed/internal/fault"
)

// renew keeps the lease alive while the session is used. A renewal that fails
// for another reason than the lease's end is tried again.
func (s *Server) renew(ctx context.Context, sess *session) {
	for {
		interval := renewEvery(time.Duration(sess.ttl.Load()))
		timer := time.NewTimer(interval)
		select {
		case <-ctx.Done():
			timer.Stop()
			return
		case <-timer.C:
		}
		rctx, cancel := context.WithTimeout(ctx, interval)
		lease, err := s.cfg.Leases.Renew(rctx, sess.lease.ID, 0, 0)
		cancel()
		if err == nil {
			sess.ttl.Store(int64(lease.TTL))
		}
		if fault.Is(err, fault.LeaseLost) {
			s.mu.Lock()
			s.markLost(sess)
			s.mu.Unlock()
			return
		}
	}
}

// renewEvery is a third of a lease's TTL.
func renewEvery(ttl time.Duration) time.Duration { return max(ttl/3, 10*time.Millisecond) }

func (s *Server) wake() {
	select {
	case s.kick <- struct{}{}:
	default:
	}
}

// janitor takes slots from idle sessions and drops those whose lease ended.
func (s *Server) janitor() {
	for {
		timer := time.NewTimer(s.sweep(time.Now()))
		select {
		case <-s.ctx.Done():
			timer.Stop()
			return
		case <-s.kick:
			timer.Stop()
		case <-timer.C:
		}
	}
}

// sweep does the janitor's work and says when it is due again.
func (s *Server) sweep(now time.Time) time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	next := s.cfg.SweepInterval
	for _, sess := range s.sessions {
		if sess.users > 0 {
			continue
		}
		if !s.cfg.Leases.Alive(sess.lease.ID) {
			s.drop(sess)
			continue
		}
		if !sess.slot {
			continue
		}
		if left := s.cfg.SlotGrace - now.Sub(sess.idleSince); left > 0 {
			next = min(next, left)
		} else {
			s.freeSlot(sess)
		}
	}
	return next
}
