package node

import (
	"context"
	"encoding/binary"
	"errors"
	mrand "math/rand/v2"
	"slices"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"go.etcd.io/raft/v3/raftpb"
	"golang.org/x/sync/errgroup"

	"github.com/chainfire/cfseed/internal/datadir"
	"github.com/chainfire/cfseed/internal/fault"
	"github.com/chainfire/cfseed/internal/ident"
	"github.com/chainfire/cfseed/internal/state"
	"github.com/chainfire/cfseed/internal/state/store"
	"github.com/chainfire/cfseed/node/lessor"
	"github.com/chainfire/cfseed/node/peer"
	"github.com/chainfire/cfseed/node/raftloop"
	"github.com/chainfire/cfseed/node/replica"
	"github.com/chainfire/cfseed/node/token"
	"github.com/chainfire/cfseed/node/watch"
	"github.com/chainfire/cfseed/raftlog"
	"github.com/chainfire/cfseed/transfer"
)

// member is a running member: what runMember has put together.
type member struct {
	n          *node
	identity   *identityBox
	cache      *pebble.Cache
	log        *raftlog.Log
	state      *stateBox
	core       *core
	transport  *peer.Transport
	membership *membership
	driver     *driver
	lessor     *lessor.Lessor
	seeds      *seeds
	pace       *transfer.Pace // seeds give way to writes
	backend    *backend
	leader     *leaderWatch
	quota      *quota
	watches    *watch.Hub
	tokens     token.Provider
	stranded   *stranded
	installer  *installer
	boot       ident.Nonce // of this run of the process
	fatal      chan error  // one slot: corruption found by the storage engine
}

// company is what a join does around the life of its member; either may be nil.
type company struct {
	before func(context.Context, *raftlog.Log) error // Raft starts; it may fill the log
	beside func(context.Context) error               // next to the member, which a failure ends
}

// runMember runs the member until ctx ends.
func (n *node) runMember(ctx context.Context, id datadir.Identity, with company) (err error) {
	m, err := n.openMember(id)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, m.close()) }()
	if with.before != nil {
		if err := with.before(ctx, m.log); err != nil {
			return err
		}
	}
	return m.run(ctx, with.beside)
}

// openMember opens the stores of a complete directory and checks one against
// the other (S3).
func (n *node) openMember(id datadir.Identity) (m *member, err error) {
	m = &member{n: n, identity: &identityBox{dir: n.dir, id: id}, cache: pebble.NewCache(n.cfg.CacheBytes), fatal: make(chan error, 1), state: &stateBox{},
		pace: transfer.NewPace()}
	defer func() {
		if err != nil {
			err = errors.Join(err, m.close())
		}
	}()
	if m.log, err = raftlog.Open(n.dir.Raft(), logOptions(n.cfg, m.corrupt, func(took time.Duration) {
		n.metrics.synced(took)
		m.pace.Synced(took)
	})); err != nil {
		return m, err
	}
	if err := m.checkWhole(); err != nil {
		return m, err
	}
	machine, err := m.openState(m.log.State())
	if err != nil {
		return m, err
	}
	m.state.set(machine)
	if err := m.removeOldStates(); err != nil {
		return m, err
	}
	if err := m.log.Reconcile(machine.Applied()); err != nil {
		return m, err
	}
	return m, m.assemble()
}

// checkWhole refuses a directory that has lost one of its stores, which opening
// would silently begin anew: a member without its log or its state must not
// answer for its ID (S4).
func (m *member) checkWhole() error {
	const op = "open member"
	hint := "remove this member from the cluster and join with an empty directory"
	if m.log.State() == 0 {
		return fault.Newf(fault.Corrupt, op, "the Raft log is lost").At(m.n.dir.Raft()).WithHint("%s", hint)
	}
	have, err := m.n.dir.States()
	if err != nil {
		return err
	}
	if !slices.Contains(have, m.log.State()) {
		return fault.Newf(fault.Corrupt, op, "the state is lost").At(m.n.dir.State(m.log.State())).WithHint("%s", hint)
	}
	return nil
}

func (m *member) openState(num uint64) (*state.Machine, error) {
	o := storeOptions(m.n.cfg, m.cache, m.corrupt)
	o.Calm = true
	st, err := store.Open(m.n.dir.State(num), o)
	if err != nil {
		return nil, err
	}
	time.AfterFunc(calmAfterOpen, st.EndCalm)
	machine, err := state.Open(st)
	if err != nil {
		return nil, errors.Join(err, st.Close())
	}
	return machine, nil
}

// requestPatience is how long a request may take beside two elections; etcd's
// request timeout (server/config, ReqTimeout) is the same.
const requestPatience = 5 * time.Second

// corrupt hears of damage that the storage engine meets, and of writes that
// failed for good; the process stops with a typed error.
func (m *member) corrupt(err error) {
	var typed *fault.Error
	if !errors.As(err, &typed) || typed.Code == fault.Corrupt {
		err = fault.New(fault.Corrupt, "storage", err).
			WithHint("run `cfseed verify --data-dir`, then remove this member and join with an empty directory")
	}
	select {
	case m.fatal <- err:
	default:
	}
}

// assemble wires the parts; nothing runs yet.
func (m *member) assemble() (err error) {
	n := m.n
	id := m.identity.get()
	if m.boot, err = newNonce(n.cfg.Rand); err != nil {
		return err
	}
	if m.tokens, err = token.New(n.cfg.AuthToken, n.cfg.AuthTokenTTL); err != nil {
		return err
	}
	m.resetTokens(m.state.machine())
	m.leader = newLeaderWatch()
	m.membership = newMembership()
	m.quota = newQuota(n.cfg.Quota, m.state)
	m.watches = watch.New(history{m.state}, watch.Options{ProgressInterval: n.cfg.WatchProgress, Fed: func(rev int64) { m.core.fed(rev) }})
	m.stranded = &stranded{patience: strandedElections * n.cfg.Election}
	m.core = &core{leader: m.leader, log: m.log, state: m.state, tick: n.cfg.Heartbeat, loops: n.cfg.loops,
		patience: requestPatience + 2*n.cfg.Election, leaderless: leaderlessElections * n.cfg.Election, done: make(chan struct{}),
		inbox: newQueue[func(*replica.Replica) error](), appends: newQueue[appendWork](), applies: newQueue[applyWork](),
		onRole: n.metrics.role(func(r raftloop.Role) { m.lessor.Role(r); m.leader.set(r) })}
	m.core.applied = func(results []state.Result) {
		n.metrics.results(results)
		m.learnTokens(results)
		m.membership.applied(results)
		m.watches.Applied()
	}
	m.core.replacing = m.resetTokens // of the state before: one that is void now must not be known
	m.core.replaced = func() {
		m.membership.poke()
		m.watches.Applied()
	}
	if err := n.metrics.watch(n.registry, m.state, m.log, m.leader); err != nil {
		return fault.New(fault.Internal, "metrics", err)
	}
	if m.seeds, err = newSeeds(m); err != nil {
		return err
	}
	m.installer = newInstaller(m)
	m.core.install = m.installer.take
	var peerURLs []string
	if n.fronts.reachable {
		peerURLs = n.cfg.AdvertisePeer
	}
	handler := &peers{self: m.identity, boot: m.boot, name: n.cfg.Name, peerURLs: peerURLs, clientURL: n.cfg.AdvertiseClient,
		state: m.state, core: m.core, installer: m.installer, learned: m.membership.learned}
	if m.transport, err = peer.New(peer.Config{Self: handler.hello, Check: handler.check, Handler: handler, Dial: n.dialPeer,
		SnapshotInfo: m.seeds.raftSnapshotInfo, Refused: m.refused, Registry: n.registry, Logger: n.logger,
		Rand: mrand.Float64}); err != nil {
		return err
	}
	m.core.send = m.transport.Send
	m.driver = newDriver(m)
	m.lessor = newLessor(m)
	compactor := newCompactor(m)
	m.core.onTick = func(r *replica.Replica) error {
		return errors.Join(m.driver.tick(r), m.lessor.Tick(r), compactor.tick(r))
	}
	m.core.onResults, m.core.onHanding = m.lessor.Applied, m.lessor.HandOver
	conns := &conns{dial: n.dial}
	last, err := m.log.LastIndex()
	if err != nil {
		return err
	}
	m.backend = &backend{self: id.MemberID, core: m.core, log: m.log, state: m.state, transport: m.transport, conns: conns,
		driver: m.driver, seeds: m.seeds, maxLearners: n.cfg.MaxLearners, dial: n.dial, logAtStart: last}
	ms := m.membership
	ms.identity, ms.state, ms.core, ms.transport, ms.logger = m.identity, m.state, m.core, m.transport, n.logger
	ms.name, ms.peerURLs, ms.clientURL, ms.farewell = n.cfg.Name, peerURLs, n.cfg.AdvertiseClient, n.cfg.Election
	ms.listens = n.cfg.AdvertisePeer // which are those listened on where peerURLs is empty
	return nil
}

// startRaft makes Raft from what the log and the state hold now.
func (m *member) startRaft() (err error) {
	m.core.replica, err = replica.New(replica.Config{ID: m.identity.get().MemberID, ElectionTicks: m.n.cfg.ticks(), HeartbeatTicks: 1,
		Seed: binary.LittleEndian.Uint64(m.boot[8:]), Boot: binary.LittleEndian.Uint32(m.boot[:4]),
		Storage: m.log.Storage(m.confState, m.seeds.raftSnapshot), Applied: m.state.machine().Applied().Index,
		Limits: raftloop.Limits{}, Logger: raftLogger{m.n.logger}})
	return err
}

// confState reads the configuration where it lives, in the state (S2).
func (m *member) confState() (*raftpb.ConfState, error) {
	cs := m.state.machine().ConfState()
	return &raftpb.ConfState{Voters: cs.GetVoters(), Learners: cs.GetLearners()}, nil
}

// refused hears a peer say no. Some refusals end the process: going on would
// only repeat them, and a copied directory must not vote.
func (m *member) refused(_ uint64, err error) {
	switch {
	case errors.Is(err, peer.ErrRemoved):
		m.membership.removed(errRemoved(m.identity.get().MemberID))
	case errors.Is(err, peer.ErrReplaced):
		m.membership.removed(err)
	case errors.Is(err, peer.ErrCopied):
		m.membership.removed(fault.New(fault.InUse, "node", err).
			WithHint("this data directory is a copy of one that is running; never start a copy, join with an empty directory"))
	case errors.Is(err, peer.ErrOtherCluster):
		m.stranded.hear(m, err)
	}
}

// run starts everything and waits for its end.
func (m *member) run(ctx context.Context, beside func(context.Context) error) error {
	if err := m.startRaft(); err != nil {
		return err
	}
	srv, err := m.services()
	if err != nil {
		return err
	}
	// The Ready loop outlives the rest: leadership is handed over while it runs.
	loopCtx, stopLoop := context.WithCancel(context.WithoutCancel(ctx))
	defer stopLoop()
	inner, ictx := errgroup.WithContext(loopCtx)
	loops := m.n.cfg.loops
	inner.Go(func() error { return m.core.run(ictx) })
	inner.Go(loops.lasting(ictx, "transport", m.transport.Run))

	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	g, gctx := errgroup.WithContext(ctx)
	g.Go(loops.lasting(gctx, "membership", m.membership.run))
	g.Go(loops.lasting(gctx, "watches", m.watches.Run))
	g.Go(loops.lasting(gctx, "streams", srv.etcd.Run))
	g.Go(loops.lasting(gctx, "flusher", m.flusher))
	g.Go(loops.lasting(gctx, "quota", m.followQuota))
	g.Go(loops.lasting(gctx, "comparison", m.compareMembers))
	g.Go(loops.lasting(gctx, "seeds", m.seeds.run))
	g.Go(loops.lasting(gctx, "sums", m.seeds.sumAhead))
	g.Go(func() error {
		select {
		case <-gctx.Done():
			return nil
		case err := <-m.fatal:
			return err
		case <-ictx.Done():
			return nil
		}
	})
	peerRoom, clientRoom := m.n.fronts.peer.take(), m.n.fronts.client.take() // before anybody hears that we are ready
	inner.Go(loops.lasting(ictx, "peer service", func(ctx context.Context) error { return srv.peer.serve(ctx, peerRoom, m.seeds.server) }))
	g.Go(loops.lasting(gctx, "client service", func(ctx context.Context) error { return m.serveClients(ctx, clientRoom, srv) }))
	g.Go(func() error {
		defer srv.etcd.Shutdown()
		if err := m.announce(gctx, beside); err != nil {
			return err
		}
		srv.etcd.SetServing(gctx.Err() == nil)
		<-gctx.Done()
		return nil
	})
	stopped := make(chan error, 1)
	go func() { stopped <- g.Wait() }()
	select {
	case err = <-stopped:
	case <-ictx.Done(): // a loop has ended by itself: the process must not go on (S7)
		cancel()
		return errors.Join(inner.Wait(), <-stopped)
	}
	if err == nil {
		m.handOver()
	}
	stopLoop()
	return errors.Join(err, inner.Wait())
}

// announce prints the ready line once this member can answer clients: a join
// is through, there is a leader, what it had committed is applied here, and the
// cluster knows this member's directory and addresses. Until then the ID of a
// founding member is not bound to its directory, and losing that could not be
// noticed (S4).
func (m *member) announce(ctx context.Context, beside func(context.Context) error) error {
	if beside != nil {
		if err := beside(ctx); err != nil {
			return err
		}
	}
	for ctx.Err() == nil {
		bctx, cancel := context.WithTimeout(ctx, 5*m.n.cfg.Election)
		err := m.core.ReadIndex(bctx)
		cancel()
		if err == nil {
			break
		}
		m.leader.wait(ctx, m.n.cfg.Heartbeat)
	}
	if err := m.installer.tidy(); err != nil {
		return err
	}
	if err := m.membership.publish(ctx); err != nil || ctx.Err() != nil {
		return err
	}
	m.n.cfg.Ready(readyLine(m.n.cfg.AdvertiseClient, m.n.cfg.AdvertisePeer, m.identity.get().MemberID))
	return nil
}

// handOver gives leadership away before a clean stop, so that writes go on
// without an election timeout.
func (m *member) handOver() {
	ctx, cancel := context.WithTimeout(context.Background(), m.n.cfg.Election)
	defer cancel()
	var st replica.Status
	if err := m.core.status(ctx, &st); err != nil || !st.IsLeader() {
		return
	}
	var best, match uint64
	for id, p := range st.Progress {
		if id != st.ID && !p.IsLearner && p.RecentActive && p.Match >= match {
			best, match = id, p.Match
		}
	}
	if best == 0 {
		return
	}
	if err := m.core.handOver(ctx, best); err != nil {
		return
	}
	for leader := m.leader.current(); ctx.Err() == nil && (leader == st.ID || leader == 0); leader = m.leader.current() {
		m.leader.wait(ctx, m.n.cfg.Heartbeat)
	}
}

// close ends the stores, the state flushed first, whatever has failed before.
func (m *member) close() error {
	var errs []error
	if m.backend != nil {
		m.backend.conns.close()
	}
	if m.seeds != nil {
		errs = append(errs, m.seeds.close())
	}
	errs = append(errs, m.state.close())
	if m.log != nil {
		errs = append(errs, m.log.Close())
	}
	m.cache.Unref()
	return errors.Join(errs...)
}
