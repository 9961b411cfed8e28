package node

import (
	"context"
	"sync"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"github.com/chainfire/cfseed/internal/state"
	"github.com/chainfire/cfseed/internal/state/alarm"
	"github.com/chainfire/cfseed/internal/state/envelope"
)

// The state's size is asked for again after this long, or when so much was let
// in, in bytes: asking costs more than a put does.
const (
	quotaAge   = 100 * time.Millisecond
	quotaBytes = 256 << 10
)

// quota holds what this member's state has in use against the most that it may.
type quota struct {
	limit int64 // bytes; 0 or less = none
	state *stateBox

	mu      sync.Mutex
	asked   time.Time
	size    int64
	charged int64 // let in since
}

func newQuota(limit int64, st *stateBox) *quota { return &quota{limit: limit, state: st} }

// fits reports whether there is room for what may take cost bytes, and reckons
// with it from then on. None is refused by an old figure.
func (q *quota) fits(cost int) bool {
	if q.limit <= 0 {
		return true
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	room := func() bool { return q.size+q.charged+int64(cost) < q.limit }
	if q.charged+int64(cost) > quotaBytes || time.Since(q.asked) > quotaAge || !room() {
		if q.state.read(func(m *state.Machine) error { q.size = m.Store().Space().InUse; return nil }) != nil {
			return true // stopping
		}
		q.asked, q.charged = time.Now(), 0
	}
	if !room() {
		return false
	}
	q.charged += int64(cost)
	return true
}

// quotaEvery is how often a member looks at its size of its own accord: its
// quota may be the smallest, and clients may ask others.
const quotaEvery = time.Second

// followQuota raises the alarm when the state is larger than it may be.
func (m *member) followQuota(ctx context.Context) error {
	ticker := time.NewTicker(quotaEvery)
	defer ticker.Stop()
	self := m.identity.get().MemberID
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
		}
		if !m.quota.fits(0) {
			m.raise(ctx, self, pb.AlarmType_NOSPACE)
		}
	}
}

// raise raises an alarm, unless it stands. What fails is seen and tried again.
func (m *member) raise(ctx context.Context, id uint64, t pb.AlarmType) {
	for _, a := range alarm.OfType(m.state.machine().Alarms(), t) {
		if a.GetMemberID() == id {
			return
		}
	}
	m.n.logger.WarnContext(ctx, "an alarm is raised", "alarm", t.String(), "member", id)
	if _, err := m.core.Propose(ctx, envelope.Alarm, &pb.AlarmRequest{Action: pb.AlarmRequest_ACTIVATE, MemberID: id, Alarm: t}); err != nil {
		m.n.logger.WarnContext(ctx, "the alarm could not be raised yet", "err", err)
	}
}
