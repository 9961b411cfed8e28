package node

import (
	"context"
	"errors"
	"sync"
	"time"

	"go.etcd.io/raft/v3/raftpb"

	"github.com/chainfire/cfseed/internal/fault"
	"github.com/chainfire/cfseed/internal/ident"
	"github.com/chainfire/cfseed/internal/state"
	"github.com/chainfire/cfseed/node/join"
	"github.com/chainfire/cfseed/node/policy"
	"github.com/chainfire/cfseed/node/replica"
	chainfirev1 "github.com/chainfire/cfseed/proto/chainfire/v1"
	"github.com/chainfire/cfseed/snapshot"
	"github.com/chainfire/cfseed/snapshot/manifest"
	"github.com/chainfire/cfseed/transfer"
)

// installer is the receiving side of a Raft snapshot (S8): the files come by
// the seeding path and are verified as a new state-<n> before Raft hears of
// the message; the batch that resets the log then points to them.
type installer struct {
	m    *member
	turn chan struct{} // held by the one install that runs
	// fetch brings a message's files and gives the n of their state-<n>: pull.
	fetch func(context.Context, *chainfirev1.InstallSnapshotRequest, *raftpb.Message) (uint64, error)

	mu      sync.Mutex
	stop    context.CancelCauseFunc // of the install that runs; nil: none does
	term    uint64                  // of its message
	latest  uint64                  // highest term of a message that came
	pending map[uint64]uint64       // snapshot index -> n of the verified state-<n>
}

func newInstaller(m *member) *installer {
	in := &installer{m: m, turn: make(chan struct{}, 1), pending: map[uint64]uint64{}}
	in.fetch = in.pull
	return in
}

// install answers the sender when the snapshot is in use here, or not needed.
func (in *installer) install(ctx context.Context, req *chainfirev1.InstallSnapshotRequest, msg *raftpb.Message) error {
	ctx, leave, err := in.enter(ctx, msg.GetTerm())
	if err != nil {
		return err
	}
	defer leave()
	if err := in.settle(ctx); err != nil {
		return err
	}
	var wanted bool
	if err := in.m.core.do(ctx, func(r *replica.Replica) { wanted = r.WouldRestore(msg) }); err != nil {
		return err
	}
	if !wanted {
		return in.step(msg)
	}
	num, err := in.fetch(ctx, req, msg)
	if err != nil {
		return err
	}
	in.mu.Lock()
	in.pending[msg.GetSnapshot().GetMetadata().GetIndex()] = num
	in.mu.Unlock()
	if err := in.step(msg); err != nil {
		return err
	}
	return in.settle(ctx)
}

var errSuperseded = fault.Newf(fault.Unreachable, "raft snapshot", "a later leader sends another one")

// enter waits for the turn. A transfer can take hours: one that a later leader
// no longer waits for is given up; what is staged stays.
func (in *installer) enter(ctx context.Context, term uint64) (context.Context, func(), error) {
	in.mu.Lock()
	in.latest = max(in.latest, term)
	latest := in.latest
	if in.stop != nil && in.term < term {
		in.stop(errSuperseded)
	}
	in.mu.Unlock()
	select {
	case in.turn <- struct{}{}:
	case <-ctx.Done():
		return nil, nil, context.Cause(ctx)
	}
	in.mu.Lock()
	defer in.mu.Unlock()
	if in.latest > latest { // it came while this one waited
		<-in.turn
		return nil, nil, errSuperseded
	}
	ctx, cancel := context.WithCancelCause(ctx)
	in.stop, in.term = cancel, term
	return ctx, func() {
		in.mu.Lock()
		in.stop = nil
		in.mu.Unlock()
		cancel(nil)
		<-in.turn
	}, nil
}

// settle waits until the replica is done with every snapshot that was stepped,
// then removes what is not in use, of this install or of one that was cut off.
func (in *installer) settle(ctx context.Context) error {
	for {
		var restoring uint64
		if err := in.m.core.do(ctx, func(r *replica.Replica) { restoring = r.Restoring() }); err != nil {
			return err
		}
		if restoring == 0 {
			break
		}
		in.m.leader.wait(ctx, in.m.n.cfg.Heartbeat)
	}
	in.mu.Lock()
	clear(in.pending)
	in.mu.Unlock()
	return in.m.removeOldStates()
}

// tidy removes what an earlier run has staged, which an install goes on with.
// It is called once this member is up to date: without an install that runs by
// then, none will want it.
func (in *installer) tidy() error {
	select {
	case in.turn <- struct{}{}:
		defer func() { <-in.turn }()
		return in.m.n.dir.RemoveStaging()
	default:
		return nil
	}
}

// step hands the message to the loop and waits until it is there, whatever
// becomes of the sender: the next install must not take the files for unused
// while the message is on its way.
func (in *installer) step(msg *raftpb.Message) error {
	var serr error
	ran := make(chan struct{})
	in.m.core.post(func(r *replica.Replica) error {
		defer close(ran)
		serr = r.Step(msg)
		return serr
	})
	select {
	case <-ran:
		return serr
	case <-in.m.core.done:
		return errStopping()
	}
}

// pull brings the files and makes them state-<n>. They come under a lease of
// this member's own, which shares the hold of the one they were made under:
// the policy takes its renewals for progress, and it outlives the message.
func (in *installer) pull(ctx context.Context, req *chainfirev1.InstallSnapshotRequest, msg *raftpb.Message) (num uint64, err error) {
	const op = "raft snapshot"
	n := in.m.n
	if len(req.GetManifestRoot()) == 0 {
		return 0, fault.Newf(fault.Unreachable, op, "the sender no longer has the files")
	}
	endpoints := in.m.state.machine().Member(msg.GetFrom()).GetPeerUrls()
	if len(endpoints) == 0 {
		endpoints = req.GetHello().GetPeerUrls()
	}
	id := in.m.identity.get()
	var stage *snapshot.Stage
	defer func() {
		if stage != nil {
			err = errors.Join(err, stage.Close())
		}
	}()
	meta := msg.GetSnapshot().GetMetadata()
	cfg := transfer.PullConfig{Endpoints: endpoints, Fixed: true, Dial: n.dialTransfer, DialChannel: n.dialChannel, Cluster: id.Cluster, MemberID: id.MemberID,
		WantRoot: req.GetManifestRoot(), MinPosition: ident.Position{Term: meta.GetTerm(), Index: meta.GetIndex()},
		Target: n.cfg.Name + " (raft snapshot)", Parallel: n.cfg.Parallel, RateLimit: n.cfg.RateLimit, Compression: n.cfg.Compression,
		IdleTimeout: defaultIdleTimeout, Logger: n.logger, OpenStage: func(encoded []byte) (transfer.Stage, error) {
			if root := manifest.RootOf(encoded); string(root[:]) != string(req.GetManifestRoot()) {
				return nil, fault.Newf(fault.Different, op, "the source has other files than the message names")
			}
			if stage != nil { // of files that nobody serves any more
				if err := stage.Close(); err != nil {
					return nil, err
				}
			}
			s, err := snapshot.OpenMemberStage(ctx, n.dir, encoded)
			if err != nil {
				return nil, err
			}
			stage = s
			return join.Staged{Stage: s}, nil
		},
		// What did not change since is here already.
		OpenDelta: func(ctx context.Context) (transfer.Delta, error) {
			m, err := stage.Match(ctx, snapshot.RunningBase(n.cfg.FS, n.dir.State(in.m.log.State())))
			if err != nil {
				return nil, err
			}
			return join.Matched{Match: m}, nil
		}}
	defer in.m.state.machine().Store().Calm()() // a table that is merged can not be read any more
	result, err := transfer.Pull(ctx, cfg)
	if err != nil {
		return 0, err
	}
	got := stage.Manifest()
	if !policy.SnapshotOf(got).Matches(meta) {
		return 0, fault.Newf(fault.Different, op, "the files are at %s, the message at %d/%d", got.Position, meta.GetTerm(), meta.GetIndex())
	}
	n.logger.InfoContext(ctx, "raft snapshot fetched", "source", result.Source, "position", got.Position.String(),
		"bytes", result.BytesTotal, "reused", result.BytesReused)
	release := in.hold(ctx, result.LeaseID, result.Meta.LeaseTTL)
	defer release()
	if num, err = in.m.nextState(); err != nil {
		return 0, err
	}
	return num, stage.InstallState(ctx, num)
}

// hold renews the lease while the files are verified. A member that waits for a
// snapshot does not see what becomes of its proposal, so nobody waits for that.
func (in *installer) hold(ctx context.Context, lease uint64, ttl time.Duration) (release func()) {
	ctx, cancel := context.WithCancel(ctx)
	every := max(ttl/3, 10*time.Millisecond)
	var done sync.WaitGroup
	done.Go(func() {
		for ctx.Err() == nil {
			rctx, cancel := context.WithTimeout(ctx, every)
			_, _ = in.m.seeds.Renew(rctx, lease, 0, 0)
			<-rctx.Done()
			cancel()
		}
	})
	return func() { cancel(); done.Wait() }
}

// take hands the verified state to the append worker.
func (in *installer) take(snap *raftpb.Snapshot) (uint64, func() (*state.Machine, error), error) {
	in.mu.Lock()
	defer in.mu.Unlock()
	num, ok := in.pending[snap.GetMetadata().GetIndex()]
	if !ok {
		return 0, nil, fault.Newf(fault.Internal, "raft snapshot", "no verified files for index %d", snap.GetMetadata().GetIndex())
	}
	return num, func() (*state.Machine, error) { return in.m.openState(num) }, nil
}

func (m *member) nextState() (uint64, error) {
	have, err := m.n.dir.States()
	if err != nil {
		return 0, err
	}
	next := m.log.State()
	for _, num := range have {
		next = max(next, num)
	}
	return next + 1, nil
}

// removeOldStates deletes state directories that the raft store does not point
// to: of a snapshot that was not used, or replaced.
func (m *member) removeOldStates() error {
	have, err := m.n.dir.States()
	if err != nil {
		return err
	}
	for _, num := range have {
		if num == m.log.State() {
			continue
		}
		if err := m.n.cfg.FS.RemoveAll(m.n.dir.State(num)); err != nil {
			return fault.New(fault.Internal, "remove old state", err).At(m.n.dir.State(num))
		}
	}
	return nil
}
