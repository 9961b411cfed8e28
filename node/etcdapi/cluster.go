package etcdapi

import (
	"context"
	"slices"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"

	"github.com/chainfire/cfseed/internal/fault"
	"github.com/chainfire/cfseed/internal/netsec"
	entryv1 "github.com/chainfire/cfseed/proto/chainfire/entry/v1"
)

const maxMemberURLs = 16

type clusterServer struct {
	pb.UnimplementedClusterServer
	s *Server
}

func (c clusterServer) MemberAdd(ctx context.Context, r *pb.MemberAddRequest) (*pb.MemberAddResponse, error) {
	if err := checkURLs(r.GetPeerURLs()); err != nil {
		return nil, err
	}
	added, all, err := c.s.backend.AddMember(ctx, r)
	if err != nil {
		return nil, c.s.fail(err)
	}
	return &pb.MemberAddResponse{Header: c.s.header(nil), Member: present(added), Members: presentAll(all)}, nil
}

func (c clusterServer) MemberRemove(ctx context.Context, r *pb.MemberRemoveRequest) (*pb.MemberRemoveResponse, error) {
	if err := c.s.backend.RemoveMember(ctx, r.GetID()); err != nil {
		return nil, c.s.fail(err)
	}
	return &pb.MemberRemoveResponse{Header: c.s.header(nil), Members: presentAll(c.s.backend.Members())}, nil
}

func (c clusterServer) MemberUpdate(ctx context.Context, r *pb.MemberUpdateRequest) (*pb.MemberUpdateResponse, error) {
	if err := checkURLs(r.GetPeerURLs()); err != nil {
		return nil, err
	}
	if err := c.s.backend.UpdateMember(ctx, r.GetID(), r.GetPeerURLs()); err != nil {
		return nil, c.s.fail(err)
	}
	return &pb.MemberUpdateResponse{Header: c.s.header(nil), Members: presentAll(c.s.backend.Members())}, nil
}

func (c clusterServer) MemberList(ctx context.Context, r *pb.MemberListRequest) (*pb.MemberListResponse, error) {
	if r.GetLinearizable() {
		if err := c.s.backend.ReadIndex(ctx); err != nil {
			return nil, c.s.fail(err)
		}
	}
	return &pb.MemberListResponse{Header: c.s.header(nil), Members: presentAll(c.s.backend.Members())}, nil
}

func (c clusterServer) MemberPromote(ctx context.Context, r *pb.MemberPromoteRequest) (*pb.MemberPromoteResponse, error) {
	if err := c.s.backend.PromoteMember(ctx, r.GetID()); err != nil {
		// What is refused and has no name of its own in etcd is not in sync.
		leader, _ := c.s.backend.Role()
		if _, is := asStatus(err); !is && known(err, leader == 0) == nil && fault.Is(err, fault.Refused) {
			return nil, explain(rpctypes.ErrGRPCLearnerNotReady, err)
		}
		return nil, c.s.fail(err)
	}
	return &pb.MemberPromoteResponse{Header: c.s.header(nil), Members: presentAll(c.s.backend.Members())}, nil
}

func checkURLs(urls []string) error {
	if len(urls) == 0 || len(urls) > maxMemberURLs {
		return rpctypes.ErrGRPCMemberBadURLs
	}
	for _, u := range urls {
		if _, err := netsec.ParseURL(u); err != nil {
			return explain(rpctypes.ErrGRPCMemberBadURLs, err)
		}
	}
	return nil
}

// presentAll lists members as etcd's clients understand them, by ID.
func presentAll(records []*entryv1.MemberRecord) []*pb.Member {
	out := make([]*pb.Member, 0, len(records))
	for _, m := range records {
		switch m.GetState() {
		case entryv1.MemberState_MEMBER_STATE_RESERVED, entryv1.MemberState_MEMBER_STATE_MEMBER:
			out = append(out, present(m))
		}
	}
	slices.SortFunc(out, func(a, b *pb.Member) int {
		switch {
		case a.GetID() < b.GetID():
			return -1
		case a.GetID() > b.GetID():
			return 1
		}
		return 0
	})
	return out
}

// present shows a reservation as a learner that never started: etcd's clients
// take a member without a name for that, and do not count it as a voter.
func present(m *entryv1.MemberRecord) *pb.Member {
	if m.GetState() == entryv1.MemberState_MEMBER_STATE_RESERVED {
		return &pb.Member{ID: m.GetId(), PeerURLs: m.GetPeerUrls(), IsLearner: true}
	}
	return &pb.Member{ID: m.GetId(), Name: m.GetName(), PeerURLs: m.GetPeerUrls(), ClientURLs: m.GetClientUrls(), IsLearner: m.GetLearner()}
}
