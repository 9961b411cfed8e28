package token

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/chainfire/cfseed/internal/state/auth"
	"github.com/chainfire/cfseed/internal/state/envelope"
)

const (
	// lagPatience is how long a token may be ahead of what this member has applied;
	// as long as a request may take.
	lagPatience = 5 * time.Second

	// sweepEvery is the time between removals of tokens that have ended.
	sweepEvery = time.Second
)

// Simple are simple tokens; see the package comment.
type Simple struct {
	ttl time.Duration

	mu      sync.Mutex
	known   map[[auth.SumSize]byte]*grant
	swept   time.Time
	applied uint64
	// revision is that of users and roles up to which known is, which may be older
	// than what the state shows by now.
	revision uint64
	changed  chan struct{} // closed when applied rises; nil: nobody waits
}

type grant struct {
	user  string
	until time.Time
}

var _ Provider = (*Simple)(nil)

// NewSimple makes a provider that knows no token. A ttl of 0 or less is
// DefaultTTL.
func NewSimple(ttl time.Duration) *Simple {
	if ttl <= 0 {
		ttl = DefaultTTL
	}
	return &Simple{ttl: ttl, known: map[[auth.SumSize]byte]*grant{}}
}

// Assign implements Provider.
func (s *Simple) Assign(_ envelope.Client, share func(sum []byte) (uint64, error)) (string, error) {
	secret := rand.Text()
	sum := sha256.Sum256([]byte(secret))
	index, err := share(sum[:])
	if err != nil {
		return "", err
	}
	return secret + "." + strconv.FormatUint(index, 10), nil
}

// Client implements Provider. The token lives on from here.
func (s *Simple) Client(ctx context.Context, token string) (envelope.Client, bool) {
	secret, number, _ := strings.Cut(token, ".")
	index, err := strconv.ParseUint(number, 10, 64)
	if err != nil || !s.wait(ctx, index) {
		return envelope.Client{}, false
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	now := time.Now()
	g := s.known[sha256.Sum256([]byte(secret))]
	if g == nil || now.After(g.until) {
		return envelope.Client{}, false
	}
	g.until = now.Add(s.ttl)
	return envelope.Client{Name: g.user, Revision: s.revision}, true
}

// wait returns once the entry at index is applied here; false when it is not for
// long.
func (s *Simple) wait(ctx context.Context, index uint64) bool {
	var late <-chan time.Time
	for {
		changed := s.behind(index)
		if changed == nil {
			return true
		}
		if late == nil {
			t := time.NewTimer(lagPatience)
			defer t.Stop()
			late = t.C
		}
		select {
		case <-changed:
		case <-late:
			return false
		case <-ctx.Done():
			return false
		}
	}
}

// behind gives what is closed when more is applied; nil when index is.
func (s *Simple) behind(index uint64) <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	if index <= s.applied {
		return nil
	}
	if s.changed == nil {
		s.changed = make(chan struct{})
	}
	return s.changed
}

// Apply implements Provider.
func (s *Simple) Apply(index, revision uint64, changes ...*auth.Change) {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := time.Now()
	for _, c := range changes {
		switch {
		case c.Sum != nil:
			s.sweep(now)
			s.known[[auth.SumSize]byte(c.Sum)] = &grant{user: c.User, until: now.Add(s.ttl)}
		case c.User == "":
			clear(s.known)
		default:
			for sum, g := range s.known {
				if g.user == c.User {
					delete(s.known, sum)
				}
			}
		}
	}
	s.advance(index, revision)
}

// sweep removes what has ended, now and then, so that memory holds what lives.
func (s *Simple) sweep(now time.Time) {
	if now.Sub(s.swept) < sweepEvery {
		return
	}
	s.swept = now
	for sum, g := range s.known {
		if now.After(g.until) {
			delete(s.known, sum)
		}
	}
}

// Reset implements Provider.
func (s *Simple) Reset(index, revision uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	clear(s.known)
	s.advance(index, revision)
}

func (s *Simple) advance(index, revision uint64) {
	s.applied, s.revision = max(s.applied, index), max(s.revision, revision)
	if s.changed != nil {
		close(s.changed)
		s.changed = nil
	}
}
