package clusterapi

import (
	"cmp"
	"context"
	"slices"

	entryv1 "github.com/chainfire/cfseed/proto/chainfire/entry/v1"
)

// sourceLag is how far, in entries, a follower may be behind to be taken for a
// source: what a seed from it lacks is fetched in a moment.
const sourceLag = 1024

// sources orders the members a newcomer may be seeded from, best first: a
// follower that is caught up, so that the leader does not suffer; then the
// leader; then the others, which may be back when these have failed. Only the
// leader knows how far the others are. Any other member that is in contact with
// a leader offers itself. Before all of them comes the source of a seed that was
// begun under this reservation: nobody else has what is left of it.
func (s *Service) sources(ctx context.Context, reserved uint64) ([]uint64, error) {
	rs, err := s.b.Raft(ctx)
	if err != nil {
		return nil, err
	}
	last, err := s.b.Log().LastIndex()
	if err != nil {
		return nil, err
	}
	begun := map[uint64]bool{}
	for _, l := range s.b.State().SeedLeases() {
		if l.GetMemberId() == reserved {
			begun[l.GetSourceId()] = true
		}
	}
	rank := func(id uint64) int {
		p, known := rs.Progress[id]
		switch {
		case begun[id]:
			return -1
		case id == rs.Leader:
			return 1
		case id == s.b.Self() && rs.Leader != 0 && rs.Applied+sourceLag >= rs.Commit,
			known && p.RecentActive && p.State == "replicate" && p.Match+sourceLag >= last:
			return 0
		}
		return 2
	}
	var out []uint64
	for _, m := range s.b.State().Members() {
		if m.GetState() == entryv1.MemberState_MEMBER_STATE_MEMBER && !m.GetLearner() {
			out = append(out, m.GetId())
		}
	}
	slices.SortStableFunc(out, func(a, b uint64) int {
		return cmp.Or(cmp.Compare(rank(a), rank(b)), -cmp.Compare(rs.Progress[a].Match, rs.Progress[b].Match))
	})
	return out, nil
}
