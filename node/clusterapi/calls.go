package clusterapi

import (
	"context"

	"google.golang.org/grpc/status"

	"github.com/chainfire/cfseed/internal/fault/rpcfault"
	entryv1 "github.com/chainfire/cfseed/proto/chainfire/entry/v1"
	chainfirev1 "github.com/chainfire/cfseed/proto/chainfire/v1"
)

// The operations as calls of this process, for etcd's Cluster service: the
// same checks and the same way to the leader. What the leader refuses is the
// same fault wherever it was asked.

// heard gives a fault for what another member answered.
func heard(err error) error {
	if _, answered := status.FromError(err); !answered {
		return err
	}
	return rpcfault.FromStatus("", err)
}

// ReserveMember reserves an ID for a newcomer.
func (s *Service) ReserveMember(ctx context.Context, body *entryv1.ReserveMember) (*entryv1.MemberRecord, error) {
	return s.reserve(ctx, body)
}

// RemoveMember removes a member or ends a reservation.
func (s *Service) RemoveMember(ctx context.Context, id uint64) error {
	_, err := s.MemberRemove(ctx, &chainfirev1.MemberRemoveRequest{Id: id})
	return heard(err)
}

// PromoteMember makes a caught-up learner a voter.
func (s *Service) PromoteMember(ctx context.Context, id uint64) error {
	_, err := s.MemberPromote(ctx, &chainfirev1.MemberPromoteRequest{Id: id})
	return heard(err)
}

// UpdateMember changes a member's peer URLs.
func (s *Service) UpdateMember(ctx context.Context, id uint64, peerURLs []string) error {
	_, err := s.MemberUpdate(ctx, &chainfirev1.MemberUpdateRequest{Id: id, PeerUrls: peerURLs})
	return heard(err)
}
