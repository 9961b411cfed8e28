package node

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"sync"

	"go.etcd.io/raft/v3/raftpb"

	"github.com/chainfire/cfseed/internal/fault"
	"github.com/chainfire/cfseed/internal/ident"
	"github.com/chainfire/cfseed/internal/state"
	"github.com/chainfire/cfseed/node/join"
	"github.com/chainfire/cfseed/node/replica"
	chainfirev1 "github.com/chainfire/cfseed/proto/chainfire/v1"
	"github.com/chainfire/cfseed/snapshot"
	"github.com/chainfire/cfseed/transfer"
)

// installer is the receiving side of a Raft snapshot (S8): the files come by
// the seeding path and are verified as a new state-<n> before Raft hears of
// the message; the batch that resets the log then points to them.
type installer struct {
	m  *member
	mu sync.Mutex // one install at a time

	pmu     sync.Mutex
	pending map[uint64]uint64 // snapshot index -> n of the verified state-<n>
}

// install answers the sender when the snapshot is in use here, or not needed.
func (in *installer) install(ctx context.Context, req *chainfirev1.InstallSnapshotRequest, msg *raftpb.Message) error {
	in.mu.Lock()
	defer in.mu.Unlock()
	var wanted bool
	if err := in.m.core.do(ctx, func(r *replica.Replica) { wanted = r.WouldRestore(msg) }); err != nil {
		return err
	}
	if !wanted {
		return in.step(ctx, msg)
	}
	num, err := in.fetch(ctx, req, msg)
	if err != nil {
		return err
	}
	index := msg.GetSnapshot().GetMetadata().GetIndex()
	in.pmu.Lock()
	in.pending[index] = num
	in.pmu.Unlock()
	if err := in.step(ctx, msg); err != nil {
		return err
	}
	if err := in.settled(ctx, index); err != nil {
		return err
	}
	in.pmu.Lock()
	delete(in.pending, index)
	in.pmu.Unlock()
	return in.m.removeOldStates()
}

func (in *installer) step(ctx context.Context, msg *raftpb.Message) error {
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
	case <-ctx.Done():
		return ctx.Err()
	case <-in.m.core.done:
		return errStopping()
	}
}

// settled waits until the replica is done with the snapshot.
func (in *installer) settled(ctx context.Context, index uint64) error {
	for {
		var restoring uint64
		if err := in.m.core.do(ctx, func(r *replica.Replica) { restoring = r.Restoring() }); err != nil {
			return err
		}
		if restoring != index {
			return nil
		}
		in.m.leader.wait(ctx, in.m.n.cfg.Heartbeat)
	}
}

// fetch brings the files and makes them state-<n>.
func (in *installer) fetch(ctx context.Context, req *chainfirev1.InstallSnapshotRequest, msg *raftpb.Message) (uint64, error) {
	const op = "raft snapshot"
	n := in.m.n
	rec := in.m.state.machine().Member(msg.GetFrom())
	endpoints := rec.GetPeerUrls()
	if len(endpoints) == 0 {
		endpoints = req.GetHello().GetPeerUrls()
	}
	id := in.m.identity.get()
	var stage *snapshot.Stage
	meta := msg.GetSnapshot().GetMetadata()
	cfg := transfer.PullConfig{Endpoints: endpoints, Dial: n.dialTransfer, Cluster: id.Cluster, LeaseID: req.GetLeaseId(),
		WantRoot: req.GetManifestRoot(), MinPosition: ident.Position{Term: meta.GetTerm(), Index: meta.GetIndex()},
		Target: n.cfg.Name + " (raft snapshot)", Parallel: n.cfg.Parallel, RateLimit: n.cfg.RateLimit, Compression: n.cfg.Compression,
		IdleTimeout: defaultIdleTimeout, Logger: n.logger, OpenStage: func(manifest []byte) (transfer.Stage, error) {
			s, err := snapshot.OpenMemberStage(ctx, n.dir, manifest)
			if err != nil {
				return nil, err
			}
			stage = s
			return join.Staged{Stage: s}, nil
		}}
	if _, err := transfer.Pull(ctx, cfg); err != nil {
		return 0, err
	}
	got := stage.Manifest()
	if got.Position.Index != meta.GetIndex() || got.Position.Term != meta.GetTerm() ||
		fmt.Sprint(got.ConfState.Voters, got.ConfState.Learners) != fmt.Sprint(meta.GetConfState().GetVoters(), meta.GetConfState().GetLearners()) {
		return 0, fault.Newf(fault.Different, op, "the files are at %s, the message at %d/%d", got.Position, meta.GetTerm(), meta.GetIndex())
	}
	num, err := in.m.nextState()
	if err != nil {
		return 0, err
	}
	return num, stage.InstallState(ctx, num)
}

// take hands the verified state to the append worker.
func (in *installer) take(snap *raftpb.Snapshot) (uint64, func() (*state.Machine, error), error) {
	in.pmu.Lock()
	defer in.pmu.Unlock()
	num, ok := in.pending[snap.GetMetadata().GetIndex()]
	if !ok {
		return 0, nil, fault.Newf(fault.Internal, "raft snapshot", "no verified files for index %d", snap.GetMetadata().GetIndex())
	}
	return num, func() (*state.Machine, error) { return in.m.openState(num) }, nil
}

// states lists the numbers of the state directories that are there.
func (m *member) states() ([]uint64, error) {
	names, err := m.n.cfg.FS.List(m.n.dir.Path())
	if err != nil {
		return nil, fault.New(fault.Internal, "list data directory", err).At(m.n.dir.Path())
	}
	var out []uint64
	for _, name := range names {
		if rest, ok := strings.CutPrefix(name, "state-"); ok {
			if num, err := strconv.ParseUint(rest, 10, 64); err == nil {
				out = append(out, num)
			}
		}
	}
	return out, nil
}

func (m *member) nextState() (uint64, error) {
	have, err := m.states()
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
	have, err := m.states()
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
