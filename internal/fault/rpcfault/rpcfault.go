// Package rpcfault carries fault.Error across gRPC: the class travels as an
// ErrorInfo detail of the status, so that the far side acts on the same code.
// A status without the detail (another program, the transport itself) is
// classed by its gRPC code.
package rpcfault

import (
	"context"
	"errors"
	"strings"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/chainfire/cfseed/internal/fault"
	chainfirev1 "github.com/chainfire/cfseed/proto/chainfire/v1"
)

var grpcCode = map[fault.Code]codes.Code{
	fault.Usage:       codes.InvalidArgument,
	fault.Refused:     codes.FailedPrecondition,
	fault.InUse:       codes.AlreadyExists,
	fault.NotEmpty:    codes.AlreadyExists,
	fault.Corrupt:     codes.DataLoss,
	fault.Different:   codes.DataLoss,
	fault.NotLeader:   codes.Unavailable,
	fault.LeaseLost:   codes.Aborted,
	fault.Reseed:      codes.Aborted,
	fault.NoSpace:     codes.ResourceExhausted,
	fault.Permission:  codes.PermissionDenied,
	fault.Unreachable: codes.Unavailable,
	fault.Timeout:     codes.DeadlineExceeded,
	fault.Interrupted: codes.Canceled,
	fault.Internal:    codes.Internal,
}

// ToStatus turns err into a gRPC status error; nil stays nil and an error that
// already is a status is returned as it is.
func ToStatus(err error) error {
	if err == nil {
		return nil
	}
	var fe *fault.Error
	if !errors.As(err, &fe) {
		if _, ok := status.FromError(err); ok {
			return err
		}
		switch {
		case errors.Is(err, context.DeadlineExceeded):
			fe = fault.New(fault.Timeout, "", err)
		case errors.Is(err, context.Canceled):
			fe = fault.New(fault.Interrupted, "", err)
		default:
			fe = fault.New(fault.Internal, "", err)
		}
	}
	st := status.New(grpcCode[fe.Code], err.Error())
	info := &chainfirev1.ErrorInfo{Code: string(fe.Code), Hint: fault.HintOf(err), Path: fe.Path}
	if with, derr := st.WithDetails(info); derr == nil {
		st = with
	}
	return st.Err()
}

// FromStatus turns an error of a gRPC call into a fault.Error; op says what was
// being done. nil and errors that carry a fault already are returned as they are.
func FromStatus(op string, err error) error {
	if err == nil {
		return nil
	}
	var fe *fault.Error
	if errors.As(err, &fe) {
		return err
	}
	st, ok := status.FromError(err)
	if !ok {
		switch {
		case errors.Is(err, context.DeadlineExceeded):
			return fault.New(fault.Timeout, op, err)
		case errors.Is(err, context.Canceled):
			return fault.New(fault.Interrupted, op, err)
		}
		return fault.New(fault.Internal, op, err)
	}
	for _, d := range st.Details() {
		if info, ok := d.(*chainfirev1.ErrorInfo); ok {
			return &fault.Error{Code: fault.Code(info.GetCode()), Op: op, Path: info.GetPath(),
				Hint: info.GetHint(), Err: errors.New(st.Message())}
		}
	}
	return fault.Newf(classOf(st.Code()), op, "%s", plain(st.Message()))
}

// plain takes gRPC's wrapping from the words of the system for a connection
// that can not be made.
func plain(message string) string {
	inner, ok := strings.CutPrefix(message, `connection error: desc = "transport: `)
	if !ok {
		return message
	}
	inner = strings.TrimPrefix(inner, "Error while dialing: ")
	return strings.TrimSuffix(inner, `"`)
}

func classOf(c codes.Code) fault.Code {
	switch c {
	case codes.InvalidArgument, codes.NotFound, codes.OutOfRange:
		return fault.Usage
	case codes.FailedPrecondition, codes.AlreadyExists, codes.Aborted:
		return fault.Refused
	case codes.DataLoss:
		return fault.Corrupt
	case codes.ResourceExhausted:
		return fault.NoSpace
	case codes.PermissionDenied, codes.Unauthenticated:
		return fault.Permission
	case codes.Unavailable:
		return fault.Unreachable
	case codes.DeadlineExceeded:
		return fault.Timeout
	case codes.Canceled:
		return fault.Interrupted
	default:
		return fault.Internal
	}
}
