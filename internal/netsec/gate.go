package netsec

import (
	"context"
	"slices"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/chainfire/cfseed/internal/fault"
	chainfirev1 "github.com/chainfire/cfseed/proto/chainfire/v1"
)

// Gate may say no to an RPC before it runs. fullMethod is gRPC's name,
// "/package.Service/Method". A status error is what the caller hears; any other
// error becomes PermissionDenied.
type Gate func(ctx context.Context, fullMethod string) error

// ServerOptions puts the gate before every RPC of a server, unary and
// streaming. A nil gate lets everything pass.
func (g Gate) ServerOptions() []grpc.ServerOption {
	if g == nil {
		return nil
	}
	return []grpc.ServerOption{
		grpc.ChainUnaryInterceptor(g.unary),
		grpc.ChainStreamInterceptor(func(srv any, s grpc.ServerStream, info *grpc.StreamServerInfo, next grpc.StreamHandler) error {
			if err := g.ask(s.Context(), info.FullMethod); err != nil {
				return err
			}
			return next(srv, s)
		}),
	}
}

func (g Gate) unary(ctx context.Context, req any, info *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
	if err := g.ask(ctx, info.FullMethod); err != nil {
		return nil, err
	}
	return next(context.WithValue(ctx, passed{}, append(slices.Clip(gatesOf(ctx)), g)), req)
}

// passed is the key of the gates that a unary RPC has passed, in its context.
type passed struct{}

func gatesOf(ctx context.Context) []Gate {
	gates, _ := ctx.Value(passed{}).([]Gate)
	return gates
}

// AskAgain asks the gates that a unary RPC has passed whether its caller may still
// call a method: for what goes on after the RPC. ctx is the RPC's, or one without
// its end.
func AskAgain(ctx context.Context, fullMethod string) error {
	for _, g := range gatesOf(ctx) {
		if err := g.ask(ctx, fullMethod); err != nil {
			return err
		}
	}
	return nil
}

func (g Gate) ask(ctx context.Context, method string) error {
	err := g(ctx, method)
	if err == nil {
		return nil
	}
	if _, ok := status.FromError(err); ok {
		return err
	}
	code := fault.CodeOf(err)
	if code == fault.Internal {
		code = fault.Permission
	}
	st := status.New(codes.PermissionDenied, err.Error())
	if with, derr := st.WithDetails(&chainfirev1.ErrorInfo{Code: string(code), Hint: fault.HintOf(err)}); derr == nil {
		st = with
	}
	return st.Err()
}
