package etcdapi

import (
	"context"
	"errors"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/chainfire/cfseed/internal/fault"
	"github.com/chainfire/cfseed/internal/fault/rpcfault"
	"github.com/chainfire/cfseed/internal/state/member"
	chainfirev1 "github.com/chainfire/cfseed/proto/chainfire/v1"
)

// toStatus turns an error of the backend into the status that etcd's clients
// know; leaderless says that the member knows no leader.
func toStatus(err error, leaderless bool) error {
	if err == nil {
		return nil
	}
	var etcd rpctypes.EtcdError
	if errors.As(err, &etcd) {
		return status.Error(etcd.Code(), etcd.Error())
	}
	if st, ok := asStatus(err); ok {
		return st.Err()
	}
	if known := known(err, leaderless); known != nil {
		return explain(known, err)
	}
	return rpcfault.ToStatus(err)
}

// asStatus finds a gRPC status in err's chain, without the text that wraps it:
// clients compare the description.
func asStatus(err error) (*status.Status, bool) {
	var se interface{ GRPCStatus() *status.Status }
	if errors.As(err, &se) && se.GRPCStatus().Code() != codes.OK {
		return se.GRPCStatus(), true
	}
	return nil, false
}

// known gives etcd's error for ours, or nil.
func known(err error, leaderless bool) error {
	switch {
	case errors.Is(err, member.ErrNotFound), errors.Is(err, member.ErrRemoved):
		return rpctypes.ErrGRPCMemberNotFound
	case errors.Is(err, member.ErrPeerURLExists):
		return rpctypes.ErrGRPCPeerURLExist
	case errors.Is(err, member.ErrNameExists):
		return rpctypes.ErrGRPCMemberExist
	case errors.Is(err, member.ErrNotLearner):
		return rpctypes.ErrGRPCMemberNotLearner
	case errors.Is(err, member.ErrLastVoter):
		return rpctypes.ErrGRPCMemberNotEnoughStarted
	}
	code := fault.CodeOf(err)
	switch {
	case code == fault.Internal && errors.Is(err, context.Canceled):
		return rpctypes.ErrGRPCCanceled
	case code == fault.Internal && errors.Is(err, context.DeadlineExceeded):
		return rpctypes.ErrGRPCDeadlineExceeded
	case leaderless && (code == fault.NotLeader || code == fault.Unreachable || code == fault.Timeout):
		return rpctypes.ErrGRPCNoLeader
	}
	switch code {
	case fault.NotLeader:
		return rpctypes.ErrGRPCLeaderChanged
	case fault.Timeout:
		return rpctypes.ErrGRPCTimeout
	case fault.Unreachable:
		return rpctypes.ErrGRPCTimeoutDueToConnectionLost
	case fault.Interrupted:
		return rpctypes.ErrGRPCStopped
	case fault.NoSpace:
		return rpctypes.ErrGRPCNoSpace
	case fault.Corrupt:
		return rpctypes.ErrGRPCCorrupt
	case fault.Permission:
		return rpctypes.ErrGRPCPermissionDenied
	}
	return nil
}

// explain adds the class and the hint of cause to a status that etcd's clients
// compare by its text.
func explain(grpcErr, cause error) error {
	st, ok := status.FromError(grpcErr)
	if !ok {
		return grpcErr
	}
	hint := fault.HintOf(cause)
	if hint == "" {
		hint = cause.Error()
	}
	with, err := st.WithDetails(&chainfirev1.ErrorInfo{Code: string(fault.CodeOf(cause)), Hint: hint})
	if err != nil {
		return grpcErr
	}
	return with.Err()
}
