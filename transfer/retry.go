package transfer

import (
	"context"
	"errors"
	"math/rand/v2"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/chainfire/cfseed/internal/fault"
	"github.com/chainfire/cfseed/internal/fault/rpcfault"
	chainfirev1 "github.com/chainfire/cfseed/proto/chainfire/v1"
)

// DefaultBackoff waits from 50 ms to 1 s between attempts (counted from 0), with
// half of it random, so that many targets of one source do not come at once. A
// source that is back is found within a second.
func DefaultBackoff(attempt int) time.Duration {
	d := min(100*time.Millisecond<<min(attempt, 10), time.Second)
	return d/2 + rand.N(d/2)
}

// sleep waits for d or returns why ctx ended.
func sleep(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// peerFault classes an error of a call. What a peer of ours said with a class
// keeps it. Anything else comes from the line or from gRPC, where a flipped bit
// can look like any status, so it counts as the line's failure.
func peerFault(ctx context.Context, op string, err error) error {
	var fe *fault.Error
	if err == nil || errors.As(err, &fe) {
		return err
	}
	st, ok := status.FromError(err)
	if ok {
		for _, d := range st.Details() {
			if _, typed := d.(*chainfirev1.ErrorInfo); typed {
				return rpcfault.FromStatus(op, err)
			}
		}
	}
	if cause := context.Cause(ctx); cause != nil {
		return callerError(ctx, op, cause)
	}
	switch st.Code() {
	case codes.PermissionDenied, codes.Unauthenticated:
		return rpcfault.FromStatus(op, err)
	case codes.Unimplemented:
		return fault.New(fault.Refused, op, err).WithHint("the endpoint is not a member of a ChainFire cluster")
	case codes.DeadlineExceeded:
		return fault.New(fault.Timeout, op, err)
	}
	return fault.New(fault.Unreachable, op, err)
}

// transient says whether the same peer may do better in a moment.
func transient(err error) bool {
	switch fault.CodeOf(err) {
	case fault.Unreachable, fault.Timeout, fault.NotLeader, fault.Interrupted:
		return !isLocal(err)
	}
	return false
}

// final says whether no peer will do better.
func final(err error) bool {
	switch fault.CodeOf(err) {
	case fault.LeaseLost, fault.Permission, fault.Usage:
		return true
	}
	return isLocal(err)
}

// callerError gives err its class when it is that of the caller's context.
func callerError(ctx context.Context, op string, err error) error {
	if err == nil || ctx.Err() == nil {
		return err
	}
	cause := context.Cause(ctx)
	var fe *fault.Error
	switch {
	case errors.As(cause, &fe):
		return cause
	case errors.Is(cause, context.DeadlineExceeded):
		return fault.New(fault.Timeout, op, cause)
	case errors.Is(cause, context.Canceled):
		return fault.New(fault.Interrupted, op, cause)
	}
	return fault.New(fault.Internal, op, cause)
}
