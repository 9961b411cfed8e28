package node

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc/peer"

	"github.com/chainfire/cfseed/internal/fault"
	"github.com/chainfire/cfseed/internal/ident"
	"github.com/chainfire/cfseed/internal/state"
	"github.com/chainfire/cfseed/internal/state/mvcc"
	"github.com/chainfire/cfseed/node/etcdapi"
	"github.com/chainfire/cfseed/raftlog"
	"github.com/chainfire/cfseed/snapshot"
	"github.com/chainfire/cfseed/snapshot/archive"
	"github.com/chainfire/cfseed/snapshot/chunk"
	"github.com/chainfire/cfseed/transfer"
)

// maintenance is the running member as etcd's Maintenance service sees it
// (etcdapi.Maintainer).
type maintenance struct {
	self   uint64
	core   *core
	log    *raftlog.Log
	state  *stateBox
	leader *leaderWatch
	quota  *quota
	logger *slog.Logger
	seeds  *seeds
	pace   *transfer.Pace // snapshots give way to writes
	turn   chan struct{}  // one token: who compacts holds it
}

func newMaintenance(m *member) *maintenance {
	return &maintenance{self: m.identity.get().MemberID, core: m.core, log: m.log, state: m.state, leader: m.leader, quota: m.quota,
		logger: m.n.logger, seeds: m.seeds, pace: m.pace, turn: make(chan struct{}, 1)}
}

func (s *maintenance) Alarms() []*pb.AlarmMember { return s.state.machine().Alarms() }

func (s *maintenance) Fits(cost int) bool { return s.quota.fits(cost) }

// Hash folds the running digest, which covers every table.
func (s *maintenance) Hash(context.Context) (hash uint32, revision int64, err error) {
	err = s.state.read(func(m *state.Machine) error {
		d, rev := m.DigestAndRevision()
		for i := 0; i < len(d); i += 4 {
			hash ^= binary.BigEndian.Uint32(d[i:])
		}
		revision = rev
		return nil
	})
	return hash, revision, err
}

func (s *maintenance) HashKV(ctx context.Context, revision int64) (h mvcc.Hash, err error) {
	err = s.state.readLong(ctx, func(ctx context.Context, m *state.Machine) (err error) {
		h, err = m.HashAt(ctx, revision)
		return err
	})
	return h, err
}

// Defragment gives back the space of what was deleted, overwritten and
// compacted. Entries are applied meanwhile; one call works at a time.
func (s *maintenance) Defragment(ctx context.Context) error {
	const op = "defragment"
	select {
	case s.turn <- struct{}{}:
	case <-ctx.Done():
		return fault.New(fault.Timeout, op, ctx.Err())
	}
	defer func() { <-s.turn }()
	began := time.Now()
	// What is compacted and not removed yet would stay.
	if rev := s.state.machine().CompactRevision(); rev > 0 {
		if err := s.core.waitPurged(ctx, rev); err != nil {
			return err
		}
	}
	var before, after int64
	err := s.state.readLong(ctx, func(ctx context.Context, m *state.Machine) error {
		before = m.Store().Space().Disk
		if err := m.Store().Compact(ctx); err != nil {
			return err
		}
		err := s.log.Compact(ctx)
		after = m.Store().Space().Disk
		return err
	})
	if err != nil {
		if ctx.Err() != nil && errors.Is(err, ctx.Err()) {
			return fault.New(fault.Timeout, op, err).WithHint("what is done is done; ask again for the rest")
		}
		return err
	}
	s.logger.InfoContext(ctx, "defragmented", "bytes_before", before, "bytes_after", after, "took", time.Since(began))
	return nil
}

// OpenSnapshot shares a checkpoint with seeds where one is new enough.
func (s *maintenance) OpenSnapshot(ctx context.Context) (etcdapi.Snapshot, error) {
	want := snapshot.Want{Min: ident.Position{Index: s.state.machine().Applied().Index}}
	seed, release, err := s.seeds.library.Acquire(ctx, want, checkpointer{s.state})
	if err != nil {
		return nil, err
	}
	remote := ""
	if p, ok := peer.FromContext(ctx); ok && p.Addr != nil {
		remote = p.Addr.String()
	}
	s.logger.InfoContext(ctx, "a snapshot is streamed", "remote", remote, "position", seed.Position().String(), "bytes", seed.Manifest().TotalBytes())
	return archived{paced{seed, s.pace.Wait}, release}, nil
}

// archived is a seed that is written as an archive.
type archived struct {
	seed    archive.Source
	release func() error
}

func (a archived) Size() int64                                  { return archive.Size(a.seed) }
func (a archived) Write(ctx context.Context, w io.Writer) error { return archive.Write(ctx, w, a.seed) }
func (a archived) Close() error                                 { return a.release() }

// paced is a source whose chunks are waited for as those of a seed are.
type paced struct {
	archive.Source
	wait func(ctx context.Context, n int) error
}

// ReadChunk implements archive.Source.
func (p paced) ReadChunk(ctx context.Context, file, index int, buf []byte) ([]byte, error) {
	m := p.Manifest()
	_, n := chunk.Bounds(m.Files[file].Size, m.ChunkSize, uint64(index))
	if err := p.wait(ctx, n); err != nil {
		return nil, err
	}
	return p.Source.ReadChunk(ctx, file, index, buf)
}

// MoveLeader hands the leadership to a voter and waits until it leads, at most
// as long as a request may take.
func (s *maintenance) MoveLeader(ctx context.Context, to uint64) error {
	const op = "move leader"
	ctx, cancel := context.WithTimeout(ctx, s.core.patience)
	defer cancel()
	if s.leader.current() == to {
		return nil
	}
	if err := s.core.handOver(ctx, to); err != nil {
		return err
	}
	for s.leader.current() != to {
		if ctx.Err() != nil {
			return fault.New(fault.Timeout, op, fmt.Errorf("member %s does not lead: %w", ident.FormatID(to), ctx.Err()))
		}
		s.leader.wait(ctx, s.core.tick)
	}
	return nil
}
