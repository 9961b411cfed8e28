package peer

import (
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/chainfire/cfseed/internal/fault"
	"github.com/chainfire/cfseed/internal/ident"
)

type metrics struct {
	entries, again, snapshots, bytes, dropped, messages *prometheus.CounterVec
}

func newMetrics(reg prometheus.Registerer) (*metrics, error) {
	vec := func(name, help string, labels ...string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{Name: name, Help: help}, labels)
	}
	m := &metrics{
		entries:   vec("cfseed_peer_entries_sent_total", "Log entries sent in MsgApp.", "to"),
		again:     vec("cfseed_peer_entries_resent_total", "Log entries sent in MsgApp that had been sent before.", "to"),
		snapshots: vec("cfseed_peer_raft_snapshots_sent_total", "Raft snapshots (MsgSnap) sent.", "to"),
		bytes:     vec("cfseed_peer_bytes_sent_total", "Bytes of Raft messages sent.", "to"),
		dropped:   vec("cfseed_peer_send_dropped_total", "Raft messages dropped before they were sent.", "to"),
		messages:  vec("cfseed_peer_messages_sent_total", "Raft messages sent.", "to", "type"),
	}
	if reg == nil {
		return m, nil
	}
	for _, c := range []*prometheus.CounterVec{m.entries, m.again, m.snapshots, m.bytes, m.dropped, m.messages} {
		if err := reg.Register(c); err != nil {
			var dup prometheus.AlreadyRegisteredError
			if errors.As(err, &dup) {
				return nil, fault.New(fault.Usage, "peer transport: two transports on one metrics registry", err)
			}
			return nil, fault.New(fault.Internal, "register peer metrics", err)
		}
	}
	return m, nil
}

// stats are the counts of one member ID; they outlive the peer's connection.
type stats struct {
	m           *metrics
	to          string
	entries     atomic.Uint64
	snapshots   atomic.Uint64
	lastContact atomic.Int64 // nanoseconds since the transport's start; 0 = never

	mu          sync.Mutex
	last        error     // why there is no connection; nil while there is one
	copiedSince time.Time // since when the peer says ErrCopied; zero when it does not
	indexes     spans     // of the entries sent
}

func newStats(m *metrics, id uint64) *stats {
	s := &stats{m: m, to: ident.FormatID(id)}
	// A counter that shows 0 can be told from one that does not exist.
	for _, v := range []*prometheus.CounterVec{m.entries, m.again, m.snapshots, m.bytes, m.dropped} {
		v.WithLabelValues(s.to)
	}
	return s
}

func (s *stats) sent(kind string, bytes int) {
	s.m.messages.WithLabelValues(s.to, kind).Inc()
	s.m.bytes.WithLabelValues(s.to).Add(float64(bytes))
}

// sentEntries counts n entries, the first of them at index first.
func (s *stats) sentEntries(first uint64, n int) {
	if n == 0 {
		return
	}
	s.entries.Add(uint64(n))
	s.m.entries.WithLabelValues(s.to).Add(float64(n))
	s.mu.Lock()
	again := s.indexes.add(first, first+uint64(n))
	s.mu.Unlock()
	s.m.again.WithLabelValues(s.to).Add(float64(again))
}

func (s *stats) sentSnapshot(kind string, bytes int) {
	s.sent(kind, bytes)
	s.snapshots.Add(1)
	s.m.snapshots.WithLabelValues(s.to).Inc()
}

func (s *stats) drop(n int) {
	if n > 0 {
		s.m.dropped.WithLabelValues(s.to).Add(float64(n))
	}
}

// setErr records why there is no connection and reports whether that is news.
func (s *stats) setErr(err error) (changed bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	changed = (err == nil) != (s.last == nil) || err != nil && err.Error() != s.last.Error()
	s.last = err
	if err == nil {
		s.copiedSince = time.Time{}
	}
	return changed
}

// copied notes that the peer said ErrCopied and reports for how long it has.
func (s *stats) copied() time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.copiedSince.IsZero() {
		s.copiedSince = time.Now()
	}
	return time.Since(s.copiedSince)
}

func (s *stats) err() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.last
}

// heard notes a message at the given time since the transport's start.
func (s *stats) heard(at time.Duration) { s.lastContact.Store(int64(max(at, 1))) }
