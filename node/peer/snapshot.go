package peer

import (
	"context"
	"sync"

	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"

	"github.com/chainfire/cfseed/internal/fault"
	chainfirev1 "github.com/chainfire/cfseed/proto/chainfire/v1"
)

// snapshotQueue holds the MsgSnap that waits while another is under way. Raft
// has one in flight for each follower, so one place is enough.
type snapshotQueue struct {
	mu     sync.Mutex
	next   *raftpb.Message
	closed bool
	ready  chan struct{}
}

func newSnapshotQueue() *snapshotQueue { return &snapshotQueue{ready: make(chan struct{}, 1)} }

// push takes m over and with it the duty to report; false leaves both with the
// caller.
func (q *snapshotQueue) push(m *raftpb.Message) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.closed || q.next != nil {
		return false
	}
	q.next = m
	select {
	case q.ready <- struct{}{}:
	default:
	}
	return true
}

func (q *snapshotQueue) pop() *raftpb.Message {
	q.mu.Lock()
	defer q.mu.Unlock()
	m := q.next
	q.next = nil
	return m
}

// close refuses what follows and gives back what waits.
func (q *snapshotQueue) close() *raftpb.Message {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.closed = true
	m := q.next
	q.next = nil
	return m
}

// dropSnapshots closes p's queue and reports what waited in it.
func (t *Transport) dropSnapshots(p *peer) {
	if m := p.snaps.close(); m != nil {
		p.stats.drop(1)
		t.reports.postSnapshot(p.id, false)
	}
}

// sendSnapshots sends p's MsgSnap one after another, with one report for each.
func (t *Transport) sendSnapshots(p *peer) {
	defer t.dropSnapshots(p)
	for {
		select {
		case <-p.ctx.Done():
			return
		case <-p.snaps.ready:
		}
		m := p.snaps.pop()
		if m == nil {
			continue
		}
		err := t.install(p, m)
		t.reports.postSnapshot(p.id, err == nil)
		if err != nil {
			t.cfg.Logger.Warn("raft snapshot failed", "peer", p.stats.to, "index", m.GetSnapshot().GetMetadata().GetIndex(), "err", err)
			t.reports.postUnreachable(p.id)
		}
	}
}

// install makes the call InstallSnapshot on a connection of its own, so that it
// neither waits for the lanes nor ends with them; a stream beside it shows that
// the other end is who it should be.
func (t *Transport) install(p *peer, m *raftpb.Message) error {
	body, err := proto.Marshal(m)
	if err != nil {
		return fault.New(fault.Internal, "send raft snapshot", err)
	}
	url := p.best()
	if url == "" {
		return errNoURL
	}
	conn, err := t.cfg.Dial(url)
	if err != nil {
		return fault.New(fault.Unreachable, "dial peer", err)
	}
	defer conn.Close() //nolint:errcheck // nothing to do about it
	ctx, stop := context.WithTimeoutCause(p.ctx, t.cfg.SnapshotTimeout,
		fault.Newf(fault.Timeout, "send raft snapshot", "not done within %s", t.cfg.SnapshotTimeout))
	defer stop()
	ctx, end := context.WithCancelCause(ctx)
	defer end(nil)
	_, release, err := t.greet(ctx, end, conn, p.id)
	if err != nil {
		return err
	}
	defer release()
	root, lease := t.cfg.SnapshotInfo(m)
	req := &chainfirev1.InstallSnapshotRequest{Hello: t.hello(p.id), Message: body, ManifestRoot: root, LeaseId: lease}
	p.stats.sentSnapshot(m.GetType().String(), len(body))
	if _, err := chainfirev1.NewPeerClient(conn).InstallSnapshot(ctx, req); err != nil {
		return t.callError(ctx, p.id, err)
	}
	return nil
}
