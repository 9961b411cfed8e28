package policy

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/datadriven"

	"github.com/chainfire/cfseed/internal/state/lease"
)

const lessorScripts = "testdata/lessor"

// lessorScript drives one Lessor and carries out, or loses, what it asks for.
type lessorScript struct {
	t      *testing.T
	l      *Lessor
	now    time.Duration
	leases map[int64]lease.Lease // as replicated
	order  []int64
	lose   bool // entries get lost
}

// TestLessor runs testdata/lessor. Commands:
//
//	options [rate=] [interval=] [retry=]
//	promote [extend=]       a leader takes over the leases that there are
//	demote
//	grant id= ttl= [count=]
//	renew id=
//	revoke id=              somebody else did
//	left id=
//	entries lost|kept       of those that it asks for from now on
//	run for=                ticks, and says what is asked at which time
func TestLessor(t *testing.T) {
	datadriven.Walk(t, lessorScripts, func(t *testing.T, path string) {
		s := &lessorScript{l: NewLessor(LessorOptions{}), leases: map[int64]lease.Lease{}}
		datadriven.RunTest(t, path, func(t *testing.T, d *datadriven.TestData) string {
			s.t = t
			return s.run(d)
		})
	})
}

func (s *lessorScript) duration(d *datadriven.TestData, key string, def time.Duration) time.Duration {
	s.t.Helper()
	var text string
	if d.MaybeScanArgs(s.t, key, &text); text == "" {
		return def
	}
	v, err := time.ParseDuration(text)
	if err != nil {
		d.Fatalf(s.t, "%v", err)
	}
	return v
}

func (s *lessorScript) run(d *datadriven.TestData) string {
	var id, ttl int64
	count, rate := 1, 0
	d.MaybeScanArgs(s.t, "id", &id)
	d.MaybeScanArgs(s.t, "ttl", &ttl)
	d.MaybeScanArgs(s.t, "count", &count)
	d.MaybeScanArgs(s.t, "rate", &rate)
	switch d.Cmd {
	case "options":
		s.l = NewLessor(LessorOptions{RevokeRate: rate, CheckpointInterval: s.duration(d, "interval", 0), RevokeRetry: s.duration(d, "retry", 0)})
	case "promote":
		var all []lease.Lease
		for _, id := range s.order {
			if l, there := s.leases[id]; there {
				all = append(all, l)
			}
		}
		s.l.Promote(s.now, all, s.duration(d, "extend", time.Second))
	case "demote":
		s.l.Demote()
	case "grant":
		for range count {
			l := lease.Lease{ID: id, TTL: ttl}
			s.order = append(s.order, id)
			s.apply(lease.Change{Lease: l})
			id++
		}
	case "revoke":
		s.apply(lease.Change{Lease: lease.Lease{ID: id}, Gone: true})
	case "renew":
		return s.renew(id)
	case "left":
		left, ttl, found := s.l.Left(s.now, id)
		if !found {
			return "unknown\n"
		}
		return fmt.Sprintf("%s of %ds\n", left, ttl)
	case "entries":
		s.lose = d.HasArg("lost")
	case "run":
		return s.ticks(s.duration(d, "for", 0))
	default:
		d.Fatalf(s.t, "unknown command %s", d.Cmd)
	}
	return ""
}

func (s *lessorScript) apply(c lease.Change) {
	if c.Gone {
		delete(s.leases, c.ID)
	} else {
		s.leases[c.ID] = c.Lease
	}
	s.l.Apply(s.now, c)
}

func (s *lessorScript) renew(id int64) string {
	ttl, v := s.l.Renew(s.now, id)
	switch v {
	case Renewed:
		return fmt.Sprintf("renewed for %ds\n", ttl)
	case Unknown:
		return "unknown\n"
	case RanOut:
		return "ran out\n"
	}
	l := s.leases[id]
	l.Remaining = 0
	s.apply(lease.Change{Lease: l})
	return "a checkpoint is taken back\n"
}

func (s *lessorScript) ticks(d time.Duration) string {
	var out strings.Builder
	for end := s.now + d; s.now < end; {
		s.now += tick
		w := s.l.Tick(s.now)
		if len(w.Revoke) > 8 {
			fmt.Fprintf(&out, "%s: revoke %d leases, %d first\n", s.now, len(w.Revoke), w.Revoke[0])
		} else if len(w.Revoke) > 0 {
			fmt.Fprintf(&out, "%s: revoke %v\n", s.now, w.Revoke)
		}
		for _, l := range w.Checkpoint {
			fmt.Fprintf(&out, "%s: %d has %d of %d left\n", s.now, l.ID, l.Remaining, l.TTL)
		}
		if s.lose {
			continue
		}
		for _, id := range w.Revoke {
			s.apply(lease.Change{Lease: lease.Lease{ID: id}, Gone: true})
		}
		for _, l := range w.Checkpoint {
			s.apply(lease.Change{Lease: l})
		}
	}
	if out.Len() == 0 {
		return "nothing\n"
	}
	return out.String()
}
