package node

import (
	"errors"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/chainfire/cfseed/internal/state"
	"github.com/chainfire/cfseed/internal/state/store"
	"github.com/chainfire/cfseed/node/raftloop"
	"github.com/chainfire/cfseed/raftlog"
)

// registry lets the member that runs now speak: a join that fetches a second
// seed runs a second member in the place of the first.
type registry struct{ *prometheus.Registry }

// Register puts a collector in the place of the one of an earlier member.
func (r registry) Register(c prometheus.Collector) error {
	err := r.Registry.Register(c)
	var before prometheus.AlreadyRegisteredError
	if errors.As(err, &before) && r.Unregister(before.ExistingCollector) {
		return r.Registry.Register(c)
	}
	return err
}

// metrics is what a member says of itself on /metrics, beside what the peer
// transport counts.
type metrics struct {
	fsync   prometheus.Histogram
	applied *prometheus.CounterVec
	changes prometheus.Counter
	phases  *prometheus.GaugeVec
}

// newMetrics registers what does not need a running member.
func newMetrics(r prometheus.Registerer) *metrics {
	m := &metrics{
		fsync: prometheus.NewHistogram(prometheus.HistogramOpts{Name: "cfseed_raftlog_fsync_seconds",
			Help: "Time of one synced batch of the Raft log.", Buckets: prometheus.ExponentialBuckets(0.0001, 2, 16)}),
		applied: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "cfseed_applied_entries_total",
			Help: "Entries applied by this process, by kind."}, []string{"kind"}),
		changes: prometheus.NewCounter(prometheus.CounterOpts{Name: "cfseed_leader_changes_seen_total",
			Help: "Changes of leader that this process has seen."}),
		phases: prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "cfseed_join_phase_seconds",
			Help: "How long each phase of this node's join took."}, []string{"phase"}),
	}
	r.MustRegister(m.fsync, m.applied, m.changes, m.phases)
	return m
}

func (m *metrics) synced(d time.Duration) { m.fsync.Observe(d.Seconds()) }

func (m *metrics) results(results []state.Result) {
	for _, r := range results {
		kind := "empty"
		if r.Kind != 0 {
			kind = r.Kind.String()
		}
		m.applied.WithLabelValues(kind).Inc()
	}
}

// watch registers gauges that read the member's parts when they are asked.
func (m *metrics) watch(r prometheus.Registerer, st *stateBox, log *raftlog.Log, leader *leaderWatch) error {
	gauge := func(name, help string, value func() float64) error {
		return r.Register(prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: name, Help: help}, value))
	}
	read := func(value func(*state.Machine) float64) func() float64 {
		return func() float64 {
			if machine := st.machine(); machine != nil { // nil when stopping
				return value(machine)
			}
			return 0
		}
	}
	space := func(part func(store.Space) int64) func() float64 {
		return func() (n float64) {
			_ = st.read(func(s *state.Machine) error { n = float64(part(s.Store().Space())); return nil }) // 0 when stopping
			return n
		}
	}
	for _, g := range []struct {
		name, help string
		value      func() float64
	}{
		{"cfseed_applied_index", "Index of the last entry applied.", read(func(s *state.Machine) float64 { return float64(s.Applied().Index) })},
		{"cfseed_revision", "Current revision of the key-value store.", read(func(s *state.Machine) float64 { return float64(s.Revision()) })},
		{"cfseed_seed_leases", "Live seed leases.", read(func(s *state.Machine) float64 { return float64(len(s.SeedLeases())) })},
		{"cfseed_state_bytes", "Bytes of the state's files.", space(func(s store.Space) int64 { return s.Disk })},
		{"cfseed_state_in_use_bytes", "Bytes that the state has in use, as the quota reckons.", space(func(s store.Space) int64 { return s.InUse })},
		{"cfseed_alarms", "Alarms that stand.", read(func(s *state.Machine) float64 { return float64(len(s.Alarms())) })},
		{"cfseed_log_bytes", "Bytes of the Raft log's entries.", func() float64 { return float64(log.BytesAfter(0)) }},
		{"cfseed_has_leader", "1 when a leader is known.", func() float64 {
			if leader.current() != 0 {
				return 1
			}
			return 0
		}},
	} {
		if err := gauge(g.name, g.help, g.value); err != nil {
			return err
		}
	}
	return nil
}

// role counts changes of leader for next.
func (m *metrics) role(next func(raftloop.Role)) func(raftloop.Role) {
	var last uint64
	return func(r raftloop.Role) {
		if r.Leader != 0 && r.Leader != last {
			last = r.Leader
			m.changes.Inc()
		}
		next(r)
	}
}
