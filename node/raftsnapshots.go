package node

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"time"

	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"

	"github.com/chainfire/cfseed/internal/ident"
	"github.com/chainfire/cfseed/node/policy"
	"github.com/chainfire/cfseed/snapshot"
	"github.com/chainfire/cfseed/transfer"
)

// raftSnapshots prepares what raft.Storage.Snapshot answers (S8): the metadata
// of a seed that is held here, whose files the follower fetches by the seeding
// path. A snapshot counts only while its lease lives and its configuration is
// the current one, so that a learner's was made after its AddLearner.
type raftSnapshots struct {
	seeds  *seeds
	logger *slog.Logger
	kick   chan struct{} // one token: somebody asked and there was none

	mu      sync.Mutex
	current *raftSnapshot
}

type raftSnapshot struct {
	policy.Snapshot
	lease   uint64
	root    [32]byte
	release func()
}

// raftSnapshotTTL is short: a transfer under way renews the lease.
const raftSnapshotTTL = time.Minute

// raftSnapshot implements the snapshot half of raft.Storage; it is called on
// the Ready loop and does not block.
func (s *seeds) raftSnapshot() (*raftpb.Snapshot, error) {
	r := s.raft
	r.mu.Lock()
	cur := r.current
	r.mu.Unlock()
	if cur == nil || !r.usable(cur) {
		select {
		case r.kick <- struct{}{}:
		default:
		}
		return nil, raft.ErrSnapshotTemporarilyUnavailable
	}
	return &raftpb.Snapshot{Metadata: cur.Metadata()}, nil
}

// raftSnapshotInfo says where the files of a MsgSnap come from.
func (s *seeds) raftSnapshotInfo(m *raftpb.Message) (root []byte, lease uint64) {
	s.raft.mu.Lock()
	defer s.raft.mu.Unlock()
	cur := s.raft.current
	if cur == nil || !cur.Matches(m.GetSnapshot().GetMetadata()) {
		return nil, 0
	}
	return append([]byte(nil), cur.root[:]...), cur.lease
}

func (r *raftSnapshots) usable(cur *raftSnapshot) bool {
	first, err := r.seeds.log.FirstIndex()
	return err == nil && r.seeds.Alive(cur.lease) && cur.Serves(r.seeds.state.machine().ConfState(), first)
}

// run prepares snapshots when asked and lets them go when their lease ended.
func (r *raftSnapshots) run(ctx context.Context) error {
	ticker := time.NewTicker(time.Second)
	defer ticker.Stop()
	left := r.seeds.leftovers(time.Now().Add(leftGrace))
	for {
		select {
		case <-ctx.Done():
			return nil
		case now := <-ticker.C:
			if err := left(now); err != nil {
				r.logger.WarnContext(ctx, "checkpoints of an earlier run are not deleted", "err", err)
			}
			r.mu.Lock()
			cur := r.current
			r.mu.Unlock()
			if cur != nil && !r.seeds.Alive(cur.lease) {
				r.swap(nil)
			}
		case <-r.kick:
			// Raft asks again by itself; an attempt that failed is not the end.
			if err := r.prepare(ctx); err != nil && ctx.Err() == nil {
				r.logger.WarnContext(ctx, "no Raft snapshot could be prepared", "err", err)
			}
		}
	}
}

// prepare makes a snapshot under a lease with a hold of its own: a checkpoint
// that another lease shares may be older than the present configuration, and
// then would never do (S8).
func (r *raftSnapshots) prepare(ctx context.Context) error {
	r.mu.Lock()
	cur := r.current
	r.mu.Unlock()
	if cur != nil && r.usable(cur) {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, raftSnapshotTTL)
	defer cancel()
	lease, err := r.seeds.open(ctx, transfer.LeaseRequest{Target: "raft snapshot", TTL: raftSnapshotTTL}, 0)
	if err != nil {
		return err
	}
	seed, release, err := r.seeds.Acquire(ctx, lease, nil, ident.Position{})
	if err != nil {
		return errors.Join(err, r.seeds.Close(ctx, lease.ID))
	}
	s := seed.(*snapshot.Seed)
	r.swap(&raftSnapshot{Snapshot: policy.SnapshotOf(s.Manifest()), lease: lease.ID, root: s.Root(), release: release})
	return nil
}

// swap puts next in place. What was there is let go outside the lock, which the
// Ready loop takes: removing a checkpoint can take long.
func (r *raftSnapshots) swap(next *raftSnapshot) {
	r.mu.Lock()
	old := r.current
	r.current = next
	r.mu.Unlock()
	if old != nil {
		old.release()
	}
}

func (r *raftSnapshots) close() error {
	r.swap(nil)
	return nil
}
