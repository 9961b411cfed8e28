package etcdapi

import (
	"context"
	"fmt"
	"slices"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"

	"github.com/chainfire/cfseed/internal/state/alarm"
	"github.com/chainfire/cfseed/internal/state/envelope"
)

// grantCost is what a lease is reckoned to take, in bytes: etcd's figure.
const grantCost = 64

// room refuses, before anything is proposed, what may not fit this member's
// quota, and raises the alarm first. cost is in bytes; 0 always fits.
func (s *Server) room(ctx context.Context, cost int) error {
	if cost == 0 || s.backend.Fits(cost) {
		return nil
	}
	// Of many who are refused at a time one raises it.
	if self := s.backend.Header().GetMemberId(); s.raising.TryLock() {
		defer s.raising.Unlock()
		if !slices.ContainsFunc(alarm.OfType(s.backend.Alarms(), pb.AlarmType_NOSPACE), func(a *pb.AlarmMember) bool { return a.GetMemberID() == self }) {
			// If it fails, the next one who is refused raises it.
			_, _ = s.backend.Propose(ctx, nil, envelope.Alarm, &pb.AlarmRequest{Action: pb.AlarmRequest_ACTIVATE, MemberID: self, Alarm: pb.AlarmType_NOSPACE})
		}
	}
	return rpctypes.ErrGRPCNoSpace
}

// alarmText is an alarm as the errors of a status name it.
func alarmText(a *pb.AlarmMember) string {
	return fmt.Sprintf("memberID:%d alarm:%s", a.GetMemberID(), a.GetAlarm())
}
