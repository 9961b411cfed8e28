package etcdapi

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/chainfire/cfseed/internal/fault"
	"github.com/chainfire/cfseed/internal/state/alarm"
	"github.com/chainfire/cfseed/internal/state/envelope"
	"github.com/chainfire/cfseed/internal/state/mvcc"
	entryv1 "github.com/chainfire/cfseed/proto/chainfire/entry/v1"
	"github.com/chainfire/cfseed/snapshot/archive"
)

// Maintainer is the part of a Backend that the Maintenance service and the
// quota ask.
type Maintainer interface {
	// Alarms are the alarms that stand, as this member has applied them.
	Alarms() []*pb.AlarmMember
	// Fits reports whether this member's quota has room for what may take cost
	// bytes. It is asked at every put and must be cheap.
	Fits(cost int) bool
	// Hash is a hash of all tables after one applied entry, and the revision then.
	Hash(ctx context.Context) (hash uint32, revision int64, err error)
	// HashKV is a hash of the keys at a revision, 0 = the current one.
	HashKV(ctx context.Context, revision int64) (mvcc.Hash, error)
	// Defragment gives back the space of what was deleted and compacted.
	Defragment(ctx context.Context) error
	// MoveLeader hands the leadership of this member to a voter. A voter that
	// can not take it is fault.Refused, one that does not in time fault.Timeout.
	MoveLeader(ctx context.Context, to uint64) error
	// OpenSnapshot captures what this member has applied, to be written as an
	// archive and closed.
	OpenSnapshot(ctx context.Context) (Snapshot, error)
}

// Snapshot is one state of a member as package archive writes it.
type Snapshot interface {
	Size() int64 // bytes, the hash at the end included
	Write(ctx context.Context, w io.Writer) error
	Close() error
}

// The answers that have no error in rpctypes. The first is etcd's, code and
// all.
var (
	errTransferTimeout = status.Error(codes.Unknown, "etcdserver: request timed out, leader transfer took too long")
	errNoDowngrade     = status.Error(codes.Unimplemented, "etcdserver: downgrade is not supported: an earlier program reads what it knows, or refuses to start")
)

type maintenanceServer struct {
	pb.UnimplementedMaintenanceServer
	s *Server
}

func (m maintenanceServer) Status(ctx context.Context, _ *pb.StatusRequest) (*pb.StatusResponse, error) {
	st, err := m.s.backend.Status(ctx)
	if err != nil {
		return nil, m.s.fail(err)
	}
	var problems []string
	if st.Leader == 0 {
		problems = append(problems, rpctypes.ErrNoLeader.Error())
	}
	problems = append(problems, st.Errors...)
	for _, a := range m.s.backend.Alarms() {
		problems = append(problems, alarmText(a))
	}
	return &pb.StatusResponse{
		Header: m.s.header(nil), Version: st.Version,
		DbSize: st.DBSize, DbSizeInUse: st.DBSizeInUse, DbSizeQuota: st.DBSizeQuota,
		Leader: st.Leader, RaftIndex: st.RaftIndex, RaftTerm: st.RaftTerm, RaftAppliedIndex: st.AppliedIndex,
		IsLearner: st.IsLearner, Errors: problems, DowngradeInfo: &pb.DowngradeInfo{},
	}, nil
}

// Alarm lists alarms after a read index, where etcd lists them by an entry.
func (m maintenanceServer) Alarm(ctx context.Context, r *pb.AlarmRequest) (*pb.AlarmResponse, error) {
	if r.GetAction() != pb.AlarmRequest_GET {
		resp, err := propose[*pb.AlarmResponse](ctx, m.s, envelope.Alarm, r)
		if err != nil {
			return nil, err
		}
		resp.Header = m.s.header(resp.GetHeader())
		return resp, nil
	}
	if err := m.s.backend.ReadIndex(ctx); err != nil {
		return nil, m.s.fail(err)
	}
	return &pb.AlarmResponse{Header: m.s.header(nil), Alarms: alarm.OfType(m.s.backend.Alarms(), r.GetAlarm())}, nil
}

func (m maintenanceServer) Defragment(ctx context.Context, _ *pb.DefragmentRequest) (*pb.DefragmentResponse, error) {
	if err := m.s.backend.Defragment(ctx); err != nil {
		return nil, m.s.fail(err)
	}
	return &pb.DefragmentResponse{Header: m.s.header(nil)}, nil
}

func (m maintenanceServer) Hash(ctx context.Context, _ *pb.HashRequest) (*pb.HashResponse, error) {
	hash, revision, err := m.s.backend.Hash(ctx)
	if err != nil {
		return nil, m.s.fail(err)
	}
	return &pb.HashResponse{Header: m.s.header(&pb.ResponseHeader{Revision: revision}), Hash: hash}, nil
}

func (m maintenanceServer) HashKV(ctx context.Context, r *pb.HashKVRequest) (*pb.HashKVResponse, error) {
	h, err := m.s.backend.HashKV(ctx, r.GetRevision())
	if err != nil {
		return nil, m.s.fail(err)
	}
	return &pb.HashKVResponse{Header: m.s.header(&pb.ResponseHeader{Revision: h.Current}), Hash: h.Sum,
		CompactRevision: h.Compacted, HashRevision: h.Revision}, nil
}

func (m maintenanceServer) MoveLeader(ctx context.Context, r *pb.MoveLeaderRequest) (*pb.MoveLeaderResponse, error) {
	if leader, _ := m.s.backend.Role(); leader != m.s.backend.Header().GetMemberId() {
		return nil, rpctypes.ErrGRPCNotLeader
	}
	if !slices.ContainsFunc(m.s.backend.Members(), func(rec *entryv1.MemberRecord) bool {
		return rec.GetId() == r.GetTargetID() && rec.GetState() == entryv1.MemberState_MEMBER_STATE_MEMBER && !rec.GetLearner()
	}) {
		return nil, rpctypes.ErrGRPCBadLeaderTransferee
	}
	err := m.s.backend.MoveLeader(ctx, r.GetTargetID())
	switch {
	case err == nil:
		return &pb.MoveLeaderResponse{Header: m.s.header(nil)}, nil
	case fault.Is(err, fault.Timeout):
		return nil, explain(errTransferTimeout, err)
	case fault.Is(err, fault.NotLeader):
		return nil, explain(rpctypes.ErrGRPCNotLeader, err)
	}
	return nil, m.s.fail(err)
}

// Snapshot streams an archive, which ends as etcd's stream does with the SHA-256
// of all before it. Version names its format.
func (m maintenanceServer) Snapshot(_ *pb.SnapshotRequest, out pb.Maintenance_SnapshotServer) (err error) {
	w := &blobWriter{next: make(chan *pb.SnapshotResponse), sent: make(chan error, 1), patience: m.s.opts.SnapshotIdle}
	// What waits for a client that takes nothing can only end after the handler has
	// returned.
	if !m.s.streams.start(func() {
		for blob := range w.next {
			w.sent <- out.Send(blob)
		}
	}) {
		return rpctypes.ErrGRPCStopped
	}
	defer close(w.next)
	snap, err := m.s.backend.OpenSnapshot(out.Context())
	if err != nil {
		return m.s.fail(err)
	}
	w.left = snap.Size() - archive.TrailerSize
	blobs := bufio.NewWriterSize(w, blobBytes)
	err = snap.Write(out.Context(), blobs)
	if err == nil {
		err = blobs.Flush()
	}
	if err = errors.Join(err, snap.Close()); err != nil {
		return m.s.fail(err)
	}
	return nil
}

// blobBytes is the size of the pieces that a snapshot is streamed in.
const blobBytes = 256 << 10

// blobWriter sends what is written, through a goroutine that takes the next message
// and gives what came of it.
type blobWriter struct {
	next     chan *pb.SnapshotResponse
	sent     chan error // with room for one: after its end nobody may be there
	patience time.Duration
	left     int64 // to come before the hash
}

func (w *blobWriter) Write(p []byte) (n int, err error) {
	for n < len(p) {
		blob := bytes.Clone(p[n:min(n+blobBytes, len(p))]) // a message belongs to gRPC once it is sent
		w.left = max(0, w.left-int64(len(blob)))
		if err := w.send(&pb.SnapshotResponse{RemainingBytes: uint64(w.left), Blob: blob, Version: snapshotVersion}); err != nil {
			return n, err
		}
		n += len(blob)
	}
	return n, nil
}

// send returns when the message is on its way, or the client has taken too long with
// those before; nothing may be sent after that.
func (w *blobWriter) send(blob *pb.SnapshotResponse) error {
	late := time.NewTimer(w.patience)
	defer late.Stop()
	w.next <- blob
	select {
	case err := <-w.sent:
		return err
	case <-late.C:
		return fault.Newf(fault.Timeout, "snapshot", "the client takes nothing for %s", w.patience)
	}
}

// snapshotVersion says what a snapshot is, where etcd names its release.
var snapshotVersion = fmt.Sprintf("cfseed-archive-%d", archive.Version)

// Downgrade has nothing to do: formats say which program reads them.
func (m maintenanceServer) Downgrade(_ context.Context, r *pb.DowngradeRequest) (*pb.DowngradeResponse, error) {
	if r.GetAction() == pb.DowngradeRequest_CANCEL {
		return nil, rpctypes.ErrGRPCNoInflightDowngrade
	}
	return nil, errNoDowngrade
}
