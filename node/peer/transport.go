package peer

import (
	"context"
	"slices"
	"sync"
	"time"

	"go.etcd.io/raft/v3/raftpb"
	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"

	"github.com/chainfire/cfseed/internal/fault"
	chainfirev1 "github.com/chainfire/cfseed/proto/chainfire/v1"
)

// Handler takes what the transport receives or finds out. The methods are
// called concurrently, never from within Send, SetPeer or RemovePeer while Run
// runs, and never after Run returned, but for the SnapshotDone of a MsgSnap
// that is sent after that.
type Handler interface {
	// Step hands a message to Raft; the message is the handler's own. While it
	// blocks, the lane the message came on is read no further. An error means
	// that the message is lost, as on any network; the stream goes on.
	Step(ctx context.Context, m *raftpb.Message) error
	// InstallSnapshot fetches and installs the files of a Raft snapshot and then
	// steps m; it returns when that is done. Its error is what the sender hears.
	InstallSnapshot(ctx context.Context, req *chainfirev1.InstallSnapshotRequest, m *raftpb.Message) error
	// Unreachable says that messages to the member were lost, or may be.
	Unreachable(id uint64)
	// SnapshotDone is the one report that each MsgSnap gets.
	SnapshotDone(id uint64, ok bool)
	// Learned tells what a peer says of itself, at every hello that was accepted,
	// also when nothing is new. The slices are the handler's own.
	Learned(id uint64, peerURLs []string, name string, clientURLs []string)
}

// Transport is the peer side of one member. Create it with New, serve it with
// Register, and let Run own its goroutines.
type Transport struct {
	cfg      Config
	metrics  *metrics
	reports  *reporter
	sessions *sessions
	said     refusalLog
	buffers  sync.Pool // *[]byte, for marshalling frames
	start    time.Time
	greeting time.Duration // helloTimeout

	mu      sync.Mutex
	peers   map[uint64]*peer
	stats   map[uint64]*stats
	group   *errgroup.Group // nil before Run
	ctx     context.Context // Run's
	ended   bool            // Run ends: nothing new starts
	inbound sync.WaitGroup  // calls being served
}

// New returns a Transport that does nothing yet.
func New(cfg Config) (*Transport, error) {
	cfg, err := cfg.withDefaults()
	if err != nil {
		return nil, err
	}
	m, err := newMetrics(cfg.Registry)
	if err != nil {
		return nil, err
	}
	return &Transport{
		cfg: cfg, metrics: m, reports: newReporter(cfg.Handler), sessions: newSessions(),
		buffers: sync.Pool{New: func() any { return new([]byte) }},
		start:   time.Now(), greeting: helloTimeout,
		peers: map[uint64]*peer{}, stats: map[uint64]*stats{},
	}, nil
}

// Register adds the Peer service to a server. Calls are answered with
// Unreachable until Run runs, and again when it ends.
func (t *Transport) Register(s grpc.ServiceRegistrar) {
	chainfirev1.RegisterPeerServer(s, &server{t: t})
}

// Run connects to the peers and keeps connected until ctx ends; then it ends
// every stream, reports what is open and returns nil when all its goroutines
// are gone. It can be called once.
func (t *Transport) Run(ctx context.Context) error {
	t.mu.Lock()
	if t.group != nil {
		t.mu.Unlock()
		return fault.Newf(fault.Internal, "peer transport", "Run called twice")
	}
	t.group, t.ctx = errgroup.WithContext(ctx)
	for _, p := range t.peers {
		t.startLocked(p)
	}
	t.group.Go(func() error {
		<-t.ctx.Done()
		t.mu.Lock()
		t.ended = true
		t.mu.Unlock()
		return nil
	})
	t.mu.Unlock()

	stop, reported := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(reported)
		t.reports.run(stop)
	}()
	err := t.group.Wait()
	t.inbound.Wait()
	close(stop)
	<-reported
	return err
}

// startLocked runs a peer's goroutines in Run's group.
func (t *Transport) startLocked(p *peer) {
	unlink := context.AfterFunc(t.ctx, p.cancel)
	t.group.Go(func() error {
		defer unlink()
		t.supervise(p)
		return nil
	})
	t.group.Go(func() error {
		t.sendSnapshots(p)
		return nil
	})
}

// SetPeer makes a member known, or gives it new URLs: the newest win, and a
// connection to other ones is made anew. The transport's own ID is ignored.
func (t *Transport) SetPeer(id uint64, urls []string) {
	if id == t.cfg.Self().GetFrom() {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if p := t.peers[id]; p != nil {
		p.setURLs(urls)
		return
	}
	if t.ended {
		return
	}
	ctx, cancel := context.WithCancel(context.Background())
	p := &peer{
		id: id, stats: t.statsLocked(id), ctx: ctx, cancel: cancel,
		control: newQueue(t.cfg.QueueMessages, t.cfg.QueueBytes),
		bulk:    newQueue(t.cfg.QueueMessages, t.cfg.QueueBytes),
		snaps:   newSnapshotQueue(),
		urls:    slices.Clone(urls), changed: make(chan struct{}, 1),
	}
	t.peers[id] = p
	if t.group != nil {
		t.startLocked(p)
	}
}

// RemovePeer forgets a member: queued messages are dropped, a snapshot under
// way is given up and reported, and every stream with it ends. If Check says
// no to it by now, that is what it hears.
func (t *Transport) RemovePeer(id uint64) {
	t.mu.Lock()
	p := t.peers[id]
	delete(t.peers, id)
	t.mu.Unlock()
	if p != nil {
		p.cancel()
		p.stats.drop(p.flush())
		t.dropSnapshots(p)
	}
	for _, s := range t.sessions.of(id) {
		err := t.cfg.Check(s.hello)
		if err == nil {
			err = fault.Newf(fault.Unreachable, "peer", "the member was taken out of the list of peers")
		}
		s.end(err)
	}
}

// Send queues messages for their receivers and never blocks. What can not be
// queued is dropped, counted and reported. The messages must not be changed
// afterwards.
func (t *Transport) Send(msgs []*raftpb.Message) {
	for _, m := range msgs {
		t.send(m)
	}
}

func (t *Transport) send(m *raftpb.Message) {
	id := m.GetTo()
	t.mu.Lock()
	p, st := t.peers[id], t.statsLocked(id)
	t.mu.Unlock()
	if m.GetType() == raftpb.MsgSnap {
		if p == nil || !p.snaps.push(m) {
			st.drop(1)
			t.reports.postSnapshot(id, false)
		}
		return
	}
	if p == nil || !t.mayTravel(m) || !p.queueFor(m).push(m) {
		st.drop(1)
		t.reports.postUnreachable(id)
	}
}

// mayTravel holds back what the receiver would end the stream for.
func (t *Transport) mayTravel(m *raftpb.Message) bool {
	return travels(m.GetType()) && (m.GetFrom() == t.cfg.Self().GetFrom() || forwarded(m.GetType()))
}

// Counters gives the number of log entries and of Raft snapshots sent to a
// member since this transport was made: the same as the metrics.
func (t *Transport) Counters(id uint64) (entries, snapshots uint64) {
	t.mu.Lock()
	st := t.stats[id]
	t.mu.Unlock()
	if st == nil {
		return 0, 0
	}
	return st.entries.Load(), st.snapshots.Load()
}

// LastContact gives the time since the last hello or message of a member; ok is
// false when there was none.
func (t *Transport) LastContact(id uint64) (ago time.Duration, ok bool) {
	t.mu.Lock()
	st := t.stats[id]
	t.mu.Unlock()
	if st == nil {
		return 0, false
	}
	at := st.lastContact.Load()
	if at == 0 {
		return 0, false
	}
	return time.Since(t.start) - time.Duration(at), true
}

// LastError says why there is no connection to a member: nil while there is
// one, or when none was tried yet.
func (t *Transport) LastError(id uint64) error {
	t.mu.Lock()
	st := t.stats[id]
	t.mu.Unlock()
	if st == nil {
		return nil
	}
	return st.err()
}

func (t *Transport) statsLocked(id uint64) *stats {
	st := t.stats[id]
	if st == nil {
		st = newStats(t.metrics, id)
		t.stats[id] = st
	}
	return st
}

func (t *Transport) statsOf(id uint64) *stats {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.statsLocked(id)
}

// heard notes contact with a member.
func (t *Transport) heard(st *stats) { st.heard(time.Since(t.start)) }

// welcome is what follows a hello that was accepted.
func (t *Transport) welcome(h *chainfirev1.PeerHello) {
	t.heard(t.statsOf(h.GetFrom()))
	t.cfg.Handler.Learned(h.GetFrom(), h.GetPeerUrls(), h.GetName(), h.GetClientUrls())
}
