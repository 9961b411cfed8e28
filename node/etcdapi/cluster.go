package etcdapi

import (
	"cmp"
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
	if err := c.urlsFree(ctx, 0, r.GetPeerURLs()); err != nil {
		return nil, err
	}
	added, all, err := c.s.backend.AddMember(ctx, r)
	if err != nil {
		return nil, c.s.fail(err)
	}
	return &pb.MemberAddResponse{Header: c.header(), Member: present(added), Members: presentAll(all)}, nil
}

func (c clusterServer) MemberRemove(ctx context.Context, r *pb.MemberRemoveRequest) (*pb.MemberRemoveResponse, error) {
	if _, err := c.find(ctx, r.GetID()); err != nil {
		return nil, err
	}
	if err := c.s.backend.RemoveMember(ctx, r.GetID()); err != nil {
		return nil, c.failOf(err, rpctypes.ErrGRPCUnhealthy)
	}
	return &pb.MemberRemoveResponse{Header: c.header(), Members: c.changed(ctx, r.GetID())}, nil
}

func (c clusterServer) MemberUpdate(ctx context.Context, r *pb.MemberUpdateRequest) (*pb.MemberUpdateResponse, error) {
	if err := checkURLs(r.GetPeerURLs()); err != nil {
		return nil, err
	}
	if _, err := c.find(ctx, r.GetID()); err != nil {
		return nil, err
	}
	if err := c.urlsFree(ctx, r.GetID(), r.GetPeerURLs()); err != nil {
		return nil, err
	}
	if err := c.s.backend.UpdateMember(ctx, r.GetID(), r.GetPeerURLs()); err != nil {
		return nil, c.s.fail(err)
	}
	return &pb.MemberUpdateResponse{Header: c.header(), Members: presentAll(c.s.backend.Members())}, nil
}

func (c clusterServer) MemberList(ctx context.Context, r *pb.MemberListRequest) (*pb.MemberListResponse, error) {
	if r.GetLinearizable() {
		if err := c.s.backend.ReadIndex(ctx); err != nil {
			return nil, c.s.fail(err)
		}
	}
	return &pb.MemberListResponse{Header: c.header(), Members: presentAll(c.s.backend.Members())}, nil
}

func (c clusterServer) MemberPromote(ctx context.Context, r *pb.MemberPromoteRequest) (*pb.MemberPromoteResponse, error) {
	m, err := c.find(ctx, r.GetID())
	if err != nil {
		return nil, err
	}
	if m.GetState() == entryv1.MemberState_MEMBER_STATE_MEMBER && !m.GetLearner() {
		return nil, rpctypes.ErrGRPCMemberNotLearner
	}
	if err := c.s.backend.PromoteMember(ctx, r.GetID()); err != nil {
		return nil, c.failOf(err, rpctypes.ErrGRPCLearnerNotReady)
	}
	return &pb.MemberPromoteResponse{Header: c.header(), Members: c.changed(ctx, r.GetID())}, nil
}

// changed lists the members after the leader has changed one: this member may
// not have applied it yet. What is done is no failure if it can not find out,
// and one that was removed is not told any more.
func (c clusterServer) changed(ctx context.Context, id uint64) []*pb.Member {
	if id != c.s.backend.Header().GetMemberId() {
		_ = c.s.backend.ReadIndex(ctx)
	}
	return presentAll(c.s.backend.Members())
}

// failOf is the answer to a call that has an ID and nothing else: what was
// wrong with the request is that ID, and refused is etcd's word for a refusal
// that has no other there.
func (c clusterServer) failOf(err, refused error) error {
	leader, _ := c.s.backend.Role()
	if _, is := asStatus(err); is || known(err, leader == 0) != nil {
		return c.s.fail(err)
	}
	switch fault.CodeOf(err) {
	case fault.Usage:
		return explain(rpctypes.ErrGRPCMemberNotFound, err)
	case fault.Refused:
		return explain(refused, err)
	}
	return c.s.fail(err)
}

// header is without a revision, as etcd's is for what does not touch keys.
func (c clusterServer) header() *pb.ResponseHeader {
	h := c.s.header(nil)
	h.Revision = 0
	return h
}

// find gives a member's record, or etcd's error for one that is not listed.
// The answer is this member's as of now: a call that goes on to the leader may
// still hear otherwise.
func (c clusterServer) find(ctx context.Context, id uint64) (*entryv1.MemberRecord, error) {
	if m := c.listed(id); m != nil {
		return m, nil
	}
	if err := c.s.backend.ReadIndex(ctx); err != nil { // it may be new
		return nil, c.s.fail(err)
	}
	if m := c.listed(id); m != nil {
		return m, nil
	}
	return nil, rpctypes.ErrGRPCMemberNotFound
}

func (c clusterServer) listed(id uint64) *entryv1.MemberRecord {
	for _, m := range c.s.backend.Members() {
		if m.GetId() == id && isListed(m) {
			return m
		}
	}
	return nil
}

// urlsFree refuses peer URLs that another member than id has. A newcomer (id 0)
// may name those of a reservation: whether it continues that one is decided
// where it is applied.
func (c clusterServer) urlsFree(ctx context.Context, id uint64, urls []string) error {
	if err := c.s.backend.ReadIndex(ctx); err != nil {
		return c.s.fail(err)
	}
	for _, m := range c.s.backend.Members() {
		if m.GetId() == id || !isListed(m) || id == 0 && m.GetState() == entryv1.MemberState_MEMBER_STATE_RESERVED {
			continue
		}
		for _, u := range m.GetPeerUrls() {
			if slices.Contains(urls, u) {
				return rpctypes.ErrGRPCPeerURLExist
			}
		}
	}
	return nil
}

func isListed(m *entryv1.MemberRecord) bool {
	return m.GetState() == entryv1.MemberState_MEMBER_STATE_RESERVED || m.GetState() == entryv1.MemberState_MEMBER_STATE_MEMBER
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
		if isListed(m) {
			out = append(out, present(m))
		}
	}
	slices.SortFunc(out, func(a, b *pb.Member) int { return cmp.Compare(a.GetID(), b.GetID()) })
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
