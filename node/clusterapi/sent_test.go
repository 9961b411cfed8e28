package clusterapi

import (
	"context"
	"fmt"
	"testing"

	"google.golang.org/grpc"

	"github.com/chainfire/cfseed/internal/fault"
	entryv1 "github.com/chainfire/cfseed/proto/chainfire/entry/v1"
	chainfirev1 "github.com/chainfire/cfseed/proto/chainfire/v1"
)

// What was sent to a newcomer is told from all that may have sent it, and not
// told where one of them has forgotten.
func TestSentToANewcomer(t *testing.T) {
	const added, self, two, three, newcomer = 40, 1, 2, 3, 5 // the term at 40 is 2
	type sender map[uint64]Sent                              // by member
	for _, c := range []struct {
		name string
		term uint64
		sent sender // a member that is not there does not answer
		more []*entryv1.MemberRecord
		want string
	}{
		{"the leader that added it", 2, sender{self: {9, 1, 80}}, nil, "9 1"},
		{"another leader", 3, sender{self: {9, 0, 20}, two: {7, 1, 39}, three: {LogAtStart: 10}}, nil, "16 1"},
		{"a sender that is away", 3, sender{self: {9, 0, 20}, three: {}}, nil, "unknown"},
		{"one that was started since", 3, sender{self: {9, 0, 20}, two: {7, 0, 40}, three: {}}, nil, "unknown"},
		{"itself started since", 3, sender{self: {9, 0, 41}, two: {}, three: {}}, nil, "unknown"},
		{"a voter that was removed", 3, sender{self: {9, 0, 20}, two: {}, three: {}}, []*entryv1.MemberRecord{{Id: 8, State: isRemoved, AddedAt: 4}}, "unknown"},
		{"those that can not have sent", 3, sender{self: {9, 0, 20}, two: {}, three: {}}, []*entryv1.MemberRecord{{Id: 6, State: isReserved},
			{Id: 7, State: isMember, Learner: true, AddedAt: 30}, {Id: 8, State: isRemoved}}, "9 0"},
	} {
		b := newBackend()
		b.raft = Raft{Leader: self, Term: c.term}
		b.members[0].AddedAt = 3
		b.sent = map[uint64]Sent{newcomer: c.sent[self]}
		for _, id := range []uint64{two, three, newcomer} {
			b.members = append(b.members, &entryv1.MemberRecord{Id: id, State: isMember, AddedAt: 4, PeerUrls: []string{fmt.Sprint(id)}})
		}
		b.members[3].AddedAt = added
		b.members = append(b.members, c.more...)
		dials := map[string]func() *grpc.ClientConn{}
		for _, id := range []uint64{two, three} {
			other := newBackend()
			other.self, other.local = id, &chainfirev1.MemberStatus{Id: id}
			other.sent = map[uint64]Sent{newcomer: c.sent[id]}
			dials[fmt.Sprint(id)] = serve(t, New(other).Register)
		}
		b.dial = func(_ context.Context, url string) (*grpc.ClientConn, error) {
			for id := range c.sent {
				if fmt.Sprint(id) == url {
					return dials[url](), nil
				}
			}
			return nil, fault.Newf(fault.Unreachable, "dial", "away")
		}
		st, err := New(b).JoinStatus(t.Context(), &chainfirev1.JoinStatusRequest{MemberId: newcomer, Sent: true})
		if err != nil {
			t.Fatalf("%s: %v", c.name, err)
		}
		got := "unknown"
		if st.EntriesSent != nil && st.RaftSnapshotsSent != nil {
			got = fmt.Sprint(st.GetEntriesSent(), st.GetRaftSnapshotsSent())
		}
		if got != c.want {
			t.Errorf("%s: %s, want %s", c.name, got, c.want)
		}
	}
}
