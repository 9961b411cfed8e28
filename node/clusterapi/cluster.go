package clusterapi

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"

	"github.com/chainfire/cfseed/internal/fault"
	"github.com/chainfire/cfseed/internal/fault/rpcfault"
	"github.com/chainfire/cfseed/internal/ident"
	"github.com/chainfire/cfseed/internal/state"
	"github.com/chainfire/cfseed/internal/state/envelope"
	"github.com/chainfire/cfseed/internal/state/member"
	entryv1 "github.com/chainfire/cfseed/proto/chainfire/entry/v1"
	chainfirev1 "github.com/chainfire/cfseed/proto/chainfire/v1"
)

// MemberList lists reservations and members.
func (s *Service) MemberList(ctx context.Context, req *chainfirev1.MemberListRequest) (*chainfirev1.MemberListResponse, error) {
	if req.GetLinearizable() {
		if err := s.b.Barrier(ctx); err != nil {
			return nil, err
		}
	}
	c := s.b.State().Cluster()
	return &chainfirev1.MemberListResponse{ClusterId: c.GetClusterId(), GenesisNonce: c.GetGenesisNonce(),
		Members: live(s.b.State().Members())}, nil
}

// MemberRemove takes a member out of the configuration, or ends a reservation.
func (s *Service) MemberRemove(ctx context.Context, req *chainfirev1.MemberRemoveRequest) (*chainfirev1.MemberRemoveResponse, error) {
	return atLeader(ctx, s.b,
		func(ctx context.Context) (*chainfirev1.MemberRemoveResponse, error) {
			if err := s.remove(ctx, req.GetId()); err != nil {
				return nil, err
			}
			return &chainfirev1.MemberRemoveResponse{Members: live(s.b.State().Members())}, nil
		},
		func(ctx context.Context, c grpc.ClientConnInterface) (*chainfirev1.MemberRemoveResponse, error) {
			return chainfirev1.NewClusterClient(c).MemberRemove(ctx, req)
		})
}

// remove is MemberRemove at the leader.
func (s *Service) remove(ctx context.Context, id uint64) error {
	rec, err := s.known(ctx, "member remove", id)
	if err != nil {
		return err
	}
	if rec.GetState() == entryv1.MemberState_MEMBER_STATE_RESERVED {
		_, err := s.b.Propose(ctx, envelope.CancelReservation, &entryv1.CancelReservation{Id: id, Force: true})
		return err
	}
	if err := s.mayRemove(ctx, rec); err != nil {
		return err
	}
	return s.conf(ctx, state.ConfChange{Type: state.RemoveNode, NodeID: id}, envelope.RemoveMember, &entryv1.RemoveMember{Id: id})
}

// mayRemove refuses to take away a voter whose absence would leave the others
// without a quorum. One that is not in contact is no part of a quorum now.
func (s *Service) mayRemove(ctx context.Context, rec *entryv1.MemberRecord) error {
	if rec.GetLearner() {
		return nil
	}
	rs, err := s.b.Raft(ctx)
	if err != nil {
		return err
	}
	inContact := func(id uint64) bool { return id == s.b.Self() || rs.Progress[id].RecentActive }
	left, active := 0, 0
	for _, m := range s.b.State().Members() {
		if m.GetId() == rec.GetId() || m.GetState() != entryv1.MemberState_MEMBER_STATE_MEMBER || m.GetLearner() {
			continue
		}
		left++
		if inContact(m.GetId()) {
			active++
		}
	}
	if left == 0 || active > left/2 || !inContact(rec.GetId()) { // the last voter is refused at apply
		return nil
	}
	return fault.Newf(fault.Refused, "member remove", "only %d of the %d voters that would be left are in contact", active, left).
		WithHint("bring the other voters back first, or remove those that are gone")
}

// known finds a live member after a barrier, so that the answer is not stale.
func (s *Service) known(ctx context.Context, op string, id uint64) (*entryv1.MemberRecord, error) {
	if err := s.b.Barrier(ctx); err != nil {
		return nil, err
	}
	rec := s.b.State().Member(id)
	if rec == nil || rec.GetState() == entryv1.MemberState_MEMBER_STATE_REMOVED {
		return nil, fault.Newf(fault.Usage, op, "member %s: %w", ident.FormatID(id), member.ErrNotFound).
			WithHint("`cfseed member list` shows the members")
	}
	return rec, nil
}

// MemberPromote makes a caught-up learner a voter.
func (s *Service) MemberPromote(ctx context.Context, req *chainfirev1.MemberPromoteRequest) (*chainfirev1.MemberPromoteResponse, error) {
	return atLeader(ctx, s.b,
		func(ctx context.Context) (*chainfirev1.MemberPromoteResponse, error) {
			if err := s.promote(ctx, req.GetId()); err != nil {
				return nil, err
			}
			return &chainfirev1.MemberPromoteResponse{Members: live(s.b.State().Members())}, nil
		},
		func(ctx context.Context, c grpc.ClientConnInterface) (*chainfirev1.MemberPromoteResponse, error) {
			return chainfirev1.NewClusterClient(c).MemberPromote(ctx, req)
		})
}

// promote is MemberPromote at the leader.
func (s *Service) promote(ctx context.Context, id uint64) error {
	if _, err := s.known(ctx, "member promote", id); err != nil {
		return err
	}
	if err := s.settle(ctx, id); err != nil {
		return err
	}
	return s.conf(ctx, state.ConfChange{Type: state.AddVoter, NodeID: id}, envelope.PromoteMember, &entryv1.PromoteMember{Id: id})
}

// settlePatience is how long a promotion waits for a learner that has just
// caught up, and settleMargin what is left of the caller's time for the rest.
const (
	settlePatience = 5 * time.Second
	settleMargin   = 500 * time.Millisecond
)

// settle waits while only time is missing for a promotion; then it gives the
// last word on what is.
func (s *Service) settle(ctx context.Context, id uint64) error {
	for asked := time.Now(); ; {
		soon, err := s.b.Promotable(ctx, id)
		if err == nil || !soon || time.Since(asked) >= settlePatience {
			return err
		}
		if end, ok := ctx.Deadline(); ok && time.Until(end) < settleMargin {
			return err
		}
		if perr := pause(ctx, queuePause); perr != nil {
			return perr
		}
	}
}

// MemberUpdate changes a member's peer URLs.
func (s *Service) MemberUpdate(ctx context.Context, req *chainfirev1.MemberUpdateRequest) (*chainfirev1.MemberUpdateResponse, error) {
	if _, err := s.known(ctx, "member update", req.GetId()); err != nil {
		return nil, err
	}
	if err := checkPeerURLs("member update", req.GetPeerUrls()); err != nil {
		return nil, err
	}
	if _, err := s.b.Propose(ctx, envelope.UpdateMember,
		&entryv1.UpdateMember{Id: req.GetId(), PeerUrls: req.GetPeerUrls()}); err != nil {
		return nil, err
	}
	return &chainfirev1.MemberUpdateResponse{Members: live(s.b.State().Members())}, nil
}

// conf proposes a change and waits its turn while another one is pending.
func (s *Service) conf(ctx context.Context, change state.ConfChange, kind envelope.Kind, body proto.Message) error {
	for {
		_, err := s.b.ProposeConf(ctx, change, kind, body)
		if err == nil || !changePending(err) {
			return err
		}
		if err := pause(ctx, queuePause); err != nil {
			return err
		}
	}
}

// Status gathers what the members say of themselves; a member that does not
// answer in time is listed as not reachable. The leader does, which knows how far
// the log of each goes; without one this member does, from what each has applied.
func (s *Service) Status(ctx context.Context, req *chainfirev1.StatusRequest) (*chainfirev1.StatusResponse, error) {
	if req.GetSelf() {
		return s.selfStatus(req.GetSentTo()), nil
	}
	out, err := atLeader(ctx, s.b, s.status,
		func(ctx context.Context, c grpc.ClientConnInterface) (*chainfirev1.StatusResponse, error) {
			ctx, cancel := context.WithTimeout(ctx, leaderPatience)
			defer cancel()
			return chainfirev1.NewClusterClient(c).Status(ctx, &chainfirev1.StatusRequest{})
		})
	switch fault.CodeOf(rpcfault.FromStatus("status", err)) {
	case fault.NotLeader, fault.Unreachable, fault.Timeout:
		if ctx.Err() == nil && !forwarded(ctx) {
			return s.status(ctx)
		}
	}
	return out, err
}

// selfStatus is what this member knows of itself; it asks nobody.
func (s *Service) selfStatus(sentTo uint64) *chainfirev1.StatusResponse {
	out := &chainfirev1.StatusResponse{MemberId: s.b.Self(), Members: []*chainfirev1.MemberStatus{s.b.LocalStatus()}}
	for _, p := range s.b.Seeds() {
		out.Seeds = append(out.Seeds, &chainfirev1.SeedStatus{LeaseId: p.LeaseID, Target: p.Target,
			Percent: p.Percent, BytesPerSecond: p.BytesPerSecond})
	}
	if sentTo != 0 {
		sent := s.b.Sent(sentTo)
		out.Sent = &chainfirev1.PeerSent{Entries: sent.Entries, RaftSnapshots: sent.Snapshots, LogAtStart: sent.LogAtStart}
	}
	return out
}

func (s *Service) status(ctx context.Context) (*chainfirev1.StatusResponse, error) {
	rs, err := s.b.Raft(ctx)
	if err != nil {
		return nil, err
	}
	out := &chainfirev1.StatusResponse{ClusterId: s.b.State().Cluster().GetClusterId(), Leader: rs.Leader, Term: rs.Term,
		MemberId: s.b.Self(), Commit: rs.Commit}
	if out.FirstIndex, err = s.b.Log().FirstIndex(); err != nil {
		return nil, err
	}
	if out.LastIndex, err = s.b.Log().LastIndex(); err != nil {
		return nil, err
	}
	out.Members, out.Seeds = s.memberStatuses(ctx, rs, out.LastIndex)
	for _, l := range s.b.State().SeedLeases() {
		out.Leases = append(out.Leases, &chainfirev1.LeaseStatus{Id: l.GetId(), Hold: l.GetHold(), MemberId: l.GetMemberId(),
			SourceId: l.GetSourceId(), TtlMs: l.GetTtlMs(), CapBytes: l.GetCapBytes(), Target: l.GetTarget()})
	}
	return out, nil
}

// memberStatuses asks all members at a time, so that those that are away cost
// one patience together. Any of them may be the source of a seed.
func (s *Service) memberStatuses(ctx context.Context, rs Raft, last uint64) ([]*chainfirev1.MemberStatus, []*chainfirev1.SeedStatus) {
	records := slices.DeleteFunc(s.b.State().Members(), func(r *entryv1.MemberRecord) bool {
		return r.GetState() == entryv1.MemberState_MEMBER_STATE_REMOVED
	})
	out := make([]*chainfirev1.MemberStatus, len(records))
	seeds := make([][]*chainfirev1.SeedStatus, len(records))
	var asked sync.WaitGroup
	for i, rec := range records {
		asked.Go(func() { out[i], seeds[i] = s.memberStatus(ctx, rec, rs, last) })
	}
	asked.Wait()
	return out, mergeSeeds(slices.Concat(seeds...))
}

// mergeSeeds makes one of what the sources of a seed say: a target that loses
// one goes on at the next.
func mergeSeeds(parts []*chainfirev1.SeedStatus) []*chainfirev1.SeedStatus {
	slices.SortStableFunc(parts, func(a, b *chainfirev1.SeedStatus) int { return cmp.Compare(a.GetLeaseId(), b.GetLeaseId()) })
	var out []*chainfirev1.SeedStatus
	for _, p := range parts {
		if n := len(out); n > 0 && out[n-1].GetLeaseId() == p.GetLeaseId() {
			out[n-1].Percent = min(100, out[n-1].GetPercent()+p.GetPercent())
			out[n-1].BytesPerSecond += p.GetBytesPerSecond()
			continue
		}
		out = append(out, p)
	}
	return out
}

func (s *Service) memberStatus(ctx context.Context, rec *entryv1.MemberRecord, rs Raft, last uint64) (*chainfirev1.MemberStatus, []*chainfirev1.SeedStatus) {
	m := memberOf(rec)
	st := &chainfirev1.MemberStatus{Id: m.GetId(), Name: m.GetName(), Role: m.GetRole(), State: m.GetState()}
	var self *chainfirev1.StatusResponse
	if rec.GetId() == s.b.Self() {
		self = s.selfStatus(0)
		st.Match, st.Reachable = last, true
	} else if p, ok := rs.Progress[rec.GetId()]; ok || rs.Leader != s.b.Self() && rec.GetState() == entryv1.MemberState_MEMBER_STATE_MEMBER {
		st.Match, st.Reachable = p.Match, p.RecentActive
		if answer, err := s.askSelf(ctx, rec, 0); err == nil {
			self = answer
		}
	}
	if self != nil {
		own := self.GetMembers()[0]
		st.Applied, st.Digest, st.DbBytes, st.Revision = own.GetApplied(), own.GetDigest(), own.GetDbBytes(), own.GetRevision()
		if rs.Leader != s.b.Self() {
			st.Match, st.Reachable = max(st.GetMatch(), own.GetApplied()), true
		}
	}
	st.Lag = last - min(last, st.GetMatch())
	return st, self.GetSeeds()
}

// How long a status waits for a member that is away, and for a leader, which waits
// for them.
const (
	statusPatience = 500 * time.Millisecond
	leaderPatience = 2 * statusPatience
)

// askSelf gives what another member knows of itself; Members has one element.
func (s *Service) askSelf(ctx context.Context, rec *entryv1.MemberRecord, sentTo uint64) (*chainfirev1.StatusResponse, error) {
	if len(rec.GetPeerUrls()) == 0 {
		return nil, fault.Newf(fault.Unreachable, "status", "no peer URL")
	}
	ctx, cancel := context.WithTimeout(ctx, statusPatience)
	defer cancel()
	conn, err := s.b.Dial(ctx, rec.GetPeerUrls()[0])
	if err != nil {
		return nil, err
	}
	res, err := chainfirev1.NewClusterClient(conn).Status(ctx, &chainfirev1.StatusRequest{Self: true, SentTo: sentTo})
	if err = errors.Join(err, conn.Close()); err != nil {
		return nil, err
	}
	if len(res.GetMembers()) != 1 || res.GetMemberId() != rec.GetId() {
		return nil, fault.Newf(fault.Different, "status", "another member answers")
	}
	return res, nil
}
