package clusterapi

import (
	"context"
	"sync"

	entryv1 "github.com/chainfire/cfseed/proto/chainfire/entry/v1"
)

// sentTo sums what the members have sent to one of them since it was added.
// Nil where a part of that may have been counted by a process that is gone:
// only leaders send, and none could before its log had the entry that added
// the member.
func (s *Service) sentTo(ctx context.Context, rec *entryv1.MemberRecord, rs Raft) *Sent {
	own := s.b.Sent(rec.GetId())
	at := rec.GetAddedAt()
	if at == 0 {
		return &own
	}
	if term, err := s.b.Log().Term(at); err == nil && term == rs.Term && rs.Leader == s.b.Self() {
		return &own // a term has one leader, which does not outlive its process
	}
	members := s.b.State().Members()
	parts := make([]*Sent, len(members))
	var asked sync.WaitGroup
	for i, m := range members {
		asked.Go(func() { parts[i] = s.sentBy(ctx, m, rec.GetId()) })
	}
	asked.Wait()
	sum := Sent{}
	for _, p := range parts {
		if p == nil || p.LogAtStart >= at {
			return nil
		}
		sum.Entries += p.Entries
		sum.Snapshots += p.Snapshots
	}
	return &sum
}

// sentBy is one member's part; nil when it can not be asked.
func (s *Service) sentBy(ctx context.Context, rec *entryv1.MemberRecord, to uint64) *Sent {
	switch removed := rec.GetState() == entryv1.MemberState_MEMBER_STATE_REMOVED; {
	case rec.GetId() == to || rec.GetAddedAt() == 0 || rec.GetLearner():
		return &Sent{} // never led, or does not send to itself
	case removed:
		return nil
	case rec.GetId() == s.b.Self():
		own := s.b.Sent(to)
		return &own
	}
	res, err := s.askSelf(ctx, rec, to)
	if err != nil || res.GetSent() == nil {
		return nil
	}
	sent := res.GetSent()
	return &Sent{Entries: sent.GetEntries(), Snapshots: sent.GetRaftSnapshots(), LogAtStart: sent.GetLogAtStart()}
}
