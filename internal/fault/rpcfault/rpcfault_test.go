package rpcfault

import (
	"context"
	"errors"
	"fmt"
	"net"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	"github.com/chainfire/cfseed/internal/fault"
	chainfirev1 "github.com/chainfire/cfseed/proto/chainfire/v1"
)

// TestRoundTrip: every class, its hint and path come out as they went in.
func TestRoundTrip(t *testing.T) {
	for _, code := range fault.Codes() {
		sent := fault.Newf(code, "admit", "because").At("/d").WithHint("do this")
		got := FromStatus("join", ToStatus(fmt.Errorf("outside: %w", sent)))
		var f *fault.Error
		if !errors.As(got, &f) || f.Code != code || fault.HintOf(got) != "do this" || f.Path != "/d" {
			t.Errorf("%s came back as %v (%s, hint %q)", code, got, fault.CodeOf(got), fault.HintOf(got))
		}
		if status.Code(ToStatus(sent)) == codes.OK || status.Code(ToStatus(sent)) == codes.Unknown {
			t.Errorf("%s has no gRPC code", code)
		}
	}
}

func TestNilAndForeign(t *testing.T) {
	if ToStatus(nil) != nil || FromStatus("x", nil) != nil {
		t.Error("nil is an error")
	}
	kept := status.Error(codes.OutOfRange, "etcdserver: mvcc: required revision has been compacted")
	if got := ToStatus(kept); status.Code(got) != codes.OutOfRange {
		t.Errorf("a status became %v", got)
	}
	for err, want := range map[error]fault.Code{
		status.Error(codes.Unavailable, "connection refused"): fault.Unreachable,
		status.Error(codes.DeadlineExceeded, "late"):          fault.Timeout,
		status.Error(codes.PermissionDenied, "no"):            fault.Permission,
		status.Error(codes.Canceled, "gone"):                  fault.Interrupted,
		status.Error(codes.Unknown, "?"):                      fault.Internal,
		context.DeadlineExceeded:                              fault.Timeout,
		context.Canceled:                                      fault.Interrupted,
		errors.New("else"):                                    fault.Internal,
	} {
		if got := fault.CodeOf(FromStatus("call", err)); got != want {
			t.Errorf("%v is %s, want %s", err, got, want)
		}
	}
	if got := status.Code(ToStatus(context.DeadlineExceeded)); got != codes.DeadlineExceeded {
		t.Errorf("a deadline became %s", got)
	}
}

// TestNoConnection: who can not be reached is told in the system's words.
func TestNoConnection(t *testing.T) {
	conn, err := grpc.NewClient("passthrough:///nobody", grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(context.Context, string) (net.Conn, error) {
			return nil, errors.New("dial tcp nobody: connection refused")
		}))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	_, err = chainfirev1.NewAdmissionClient(conn).Reserve(t.Context(), &chainfirev1.ReserveRequest{})
	if got := FromStatus("reserve", err); fault.CodeOf(got) != fault.Unreachable || got.Error() != "reserve: dial tcp nobody: connection refused" {
		t.Errorf("%s: %v", fault.CodeOf(got), got)
	}
}
