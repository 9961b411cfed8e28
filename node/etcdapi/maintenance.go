package etcdapi

import (
	"context"
	"slices"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
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
	problems := st.Errors
	if st.Leader == 0 {
		problems = append(slices.Clone(problems), rpctypes.ErrNoLeader.Error())
	}
	return &pb.StatusResponse{
		Header: m.s.header(nil), Version: st.Version,
		DbSize: st.DBSize, DbSizeInUse: st.DBSizeInUse, DbSizeQuota: st.DBSizeQuota,
		Leader: st.Leader, RaftIndex: st.RaftIndex, RaftTerm: st.RaftTerm, RaftAppliedIndex: st.AppliedIndex,
		IsLearner: st.IsLearner, Errors: problems, DowngradeInfo: &pb.DowngradeInfo{},
	}, nil
}

// Alarm answers what etcdctl asks for its health check: nothing raises alarms.
func (m maintenanceServer) Alarm(_ context.Context, r *pb.AlarmRequest) (*pb.AlarmResponse, error) {
	if r.GetAction() != pb.AlarmRequest_GET {
		return nil, status.Error(codes.Unimplemented, "alarms can only be listed")
	}
	return &pb.AlarmResponse{Header: m.s.header(nil)}, nil
}
