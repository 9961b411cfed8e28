// Package dial finds a member that answers: endpoints in order, TLS,
// credentials, and what may be tried again elsewhere after a failure.
//
// A read may be repeated anywhere. A write is repeated only where it can not
// have happened: no connection was made, or the member said that it is not the
// leader. A followed call (a join) continues where it was when it is made
// again, so it goes on at the next endpoint for as long as there is progress.
package dial

import (
	"context"
	"errors"
	"math"
	"strings"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/connectivity"
	"google.golang.org/grpc/status"

	"github.com/chainfire/cfseed/internal/fault"
	"github.com/chainfire/cfseed/internal/fault/rpcfault"
	"github.com/chainfire/cfseed/internal/netsec"
	chainfirev1 "github.com/chainfire/cfseed/proto/chainfire/v1"
)

// Config says where to go and as whom.
type Config struct {
	Endpoints         []string      // host:port or URL; blanks around and empty ones are dropped
	Timeout           time.Duration // of a short call; of a followed one, without progress
	CACert, Cert, Key string        // files; empty = none
	User              string        // name:password, or name; empty = nobody
	Password          string        // where User is a name alone
}

// Dialer makes connections to the endpoints. It holds no connection open
// between calls and is safe for concurrent use.
type Dialer struct {
	endpoints []string
	timeout   time.Duration
	files     netsec.Files
	login     *netsec.Login // nil: nobody
}

// connectLimit bounds how long one endpoint may take to accept a connection.
const connectLimit = 5 * time.Second

// New checks cfg; errors are of class fault.Usage.
func New(cfg Config) (*Dialer, error) {
	d := &Dialer{timeout: cfg.Timeout, files: netsec.Files{Cert: cfg.Cert, Key: cfg.Key, CA: cfg.CACert}}
	for _, e := range cfg.Endpoints {
		if e = strings.TrimSpace(e); e != "" {
			d.endpoints = append(d.endpoints, e)
		}
	}
	if len(d.endpoints) == 0 {
		return nil, fault.Newf(fault.Usage, "", "no endpoint given").WithHint("--endpoints http://HOST:PORT")
	}
	for _, e := range d.endpoints {
		conn, err := netsec.Dial(e, d.files) // connects to nothing yet
		if err != nil {
			return nil, err
		}
		if err := release(conn, nil); err != nil {
			return nil, err
		}
	}
	if d.timeout <= 0 {
		return nil, fault.Newf(fault.Usage, "", "--timeout %s: must be more than nothing", d.timeout)
	}
	var err error
	if d.login, err = netsec.ParseLogin(cfg.User, cfg.Password); err != nil {
		return nil, err
	}
	return d, nil
}

// Endpoints gives the endpoints in order.
func (d *Dialer) Endpoints() []string { return append([]string(nil), d.endpoints...) }

// Timeout gives the time limit of a short call.
func (d *Dialer) Timeout() time.Duration { return d.timeout }

// Dial connects to one endpoint and returns when the connection stands. The caller
// closes it. Failures are of class fault.Unreachable. The user logs in with the
// first call.
func (d *Dialer) Dial(ctx context.Context, endpoint string) (*grpc.ClientConn, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, min(d.timeout, connectLimit),
		fault.Newf(fault.Unreachable, "", "no connection within %s", min(d.timeout, connectLimit)))
	defer cancel()
	conn, err := netsec.Dial(endpoint, d.files, append(d.login.DialOptions(),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(math.MaxInt32)))...)
	if err != nil {
		return nil, err
	}
	if err = connect(ctx, conn, endpoint); err != nil {
		return nil, release(conn, err)
	}
	return conn, nil
}

// release closes conn and gives err unchanged, or what closing says when there
// was none.
func release(conn *grpc.ClientConn, err error) error {
	cerr := conn.Close()
	if err == nil && cerr != nil {
		return fault.New(fault.Internal, "close connection", cerr)
	}
	return err
}

// connect waits until conn stands or its first attempt failed.
func connect(ctx context.Context, conn *grpc.ClientConn, endpoint string) error {
	conn.Connect()
	for {
		switch state := conn.GetState(); state {
		case connectivity.Ready:
			return nil
		case connectivity.TransientFailure, connectivity.Shutdown:
			// A call on the failed connection gives the reason.
			_, err := chainfirev1.NewClusterClient(conn).Status(ctx, &chainfirev1.StatusRequest{Self: true})
			if err == nil {
				return nil // it stands after all
			}
			return fault.Newf(fault.Unreachable, endpoint, "%s", reason(err))
		default:
			if !conn.WaitForStateChange(ctx, state) {
				return ended(ctx, endpoint)
			}
		}
	}
}

// ended gives the failure that goes with the end of ctx.
func ended(ctx context.Context, op string) error {
	cause := context.Cause(ctx)
	var f *fault.Error
	switch {
	case errors.As(cause, &f):
		return fault.New(f.Code, op, cause)
	case errors.Is(cause, context.DeadlineExceeded):
		return fault.New(fault.Timeout, op, cause)
	default:
		return fault.New(fault.Interrupted, op, cause)
	}
}

// reason strips gRPC's wrapping from a connection error.
func reason(err error) string {
	text := status.Convert(err).Message()
	if i := strings.LastIndex(text, "desc = "); i >= 0 {
		text = strings.Trim(text[i+len("desc = "):], `"`)
	}
	return strings.TrimPrefix(strings.TrimPrefix(text, "transport: "), "Error while dialing: ")
}

// isBroken reports whether err is the connection's, not the server's word.
func isBroken(err error) bool {
	s, ok := status.FromError(err)
	if !ok || s.Code() != codes.Unavailable {
		return false
	}
	for _, detail := range s.Details() {
		if _, ok := detail.(*chainfirev1.ErrorInfo); ok {
			return false
		}
	}
	return true
}

// classed turns the error of a call into a fault.
func classed(ctx context.Context, op string, err error) error {
	if err == nil {
		return nil
	}
	if ctx.Err() != nil {
		return ended(ctx, op)
	}
	if status.Convert(err).Message() == status.Convert(rpctypes.ErrGRPCUserEmpty).Message() {
		return fault.Newf(fault.Permission, op, "the cluster asks who calls").WithHint("--user NAME:PASSWORD")
	}
	return rpcfault.FromStatus(op, err)
}
