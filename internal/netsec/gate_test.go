package netsec

import (
	"context"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/chainfire/cfseed/internal/fault"
)

// What follows an RPC is asked of the gates that the RPC passed, after its end.
func TestAskAgain(t *testing.T) {
	if err := AskAgain(t.Context(), "/x/Y"); err != nil {
		t.Errorf("without a gate: %v", err)
	}
	allowed, asked := true, []string{}
	gate := Gate(func(ctx context.Context, method string) error {
		if ctx.Err() != nil {
			t.Error("the context has ended")
		}
		asked = append(asked, method)
		if !allowed {
			return fault.Newf(fault.Permission, "gate", "no more")
		}
		return nil
	})
	open := Gate(func(context.Context, string) error { return nil })
	var kept context.Context
	handler := func(ctx context.Context, _ any) (any, error) {
		kept = context.WithoutCancel(ctx)
		return nil, nil
	}
	rpc, end := context.WithCancel(t.Context())
	info := &grpc.UnaryServerInfo{FullMethod: "/x/Open"}
	if _, err := open.unary(rpc, nil, info, func(ctx context.Context, req any) (any, error) { return gate.unary(ctx, req, info, handler) }); err != nil {
		t.Fatal(err)
	}
	end()
	if err := AskAgain(kept, "/x/Read"); err != nil {
		t.Errorf("still allowed: %v", err)
	}
	allowed = false
	if err := AskAgain(kept, "/x/Read"); status.Code(err) != codes.PermissionDenied {
		t.Errorf("no longer allowed: %v", err)
	}
	if len(asked) != 3 || asked[0] != "/x/Open" || asked[1] != "/x/Read" {
		t.Errorf("asked about %v", asked)
	}
}
