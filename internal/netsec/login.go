package netsec

import (
	"context"
	"strings"
	"sync"
	"time"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/chainfire/cfseed/internal/fault"
)

// trustFor is how long a token is taken for good at a member that has accepted it:
// short beside the life of a token.
const trustFor = 30 * time.Second

// Login calls members as a user of the cluster: it authenticates when that is
// needed, and anew when a member no longer knows the token. A token that one member
// gave is good at all of them. It may be used from any goroutine.
type Login struct {
	name, password string

	mu    sync.Mutex
	token string // "" = none yet
}

// ParseLogin reads NAME:PASSWORD, or NAME with the password beside it; of nothing the
// Login is nil, which is nobody's.
func ParseLogin(user, password string) (*Login, error) {
	const hint = "CFSEED_USER and CFSEED_PASSWORD keep them out of the process list"
	if user == "" {
		if password != "" {
			return nil, fault.Newf(fault.Usage, "", "--password without --user")
		}
		return nil, nil
	}
	name, inline, both := strings.Cut(user, ":")
	switch {
	case name == "":
		return nil, fault.Newf(fault.Usage, "", "--user: want NAME:PASSWORD").WithHint(hint)
	case both && password != "":
		return nil, fault.Newf(fault.Usage, "", "--user NAME:PASSWORD has a password already, and --password another").WithHint(hint)
	case both:
		password = inline
	case password == "":
		return nil, fault.Newf(fault.Usage, "", "--user %s: want its password: NAME:PASSWORD, or --password", name).WithHint(hint)
	}
	return &Login{name: name, password: password}, nil
}

// DialOptions are for one connection to one member.
func (l *Login) DialOptions() []grpc.DialOption {
	if l == nil {
		return nil
	}
	s := &session{l: l}
	return []grpc.DialOption{grpc.WithChainUnaryInterceptor(s.unary), grpc.WithChainStreamInterceptor(s.stream)}
}

// session is a login at one member.
type session struct {
	l *Login

	mu    sync.Mutex // held while the member is asked
	token string     // that it takes; "" = it asks for none
	until time.Time  // when it is asked again
}

// direct marks the calls of a session itself.
type direct struct{}

// unary calls with a token, and again with another when that is not known.
func (s *session) unary(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, invoke grpc.UnaryInvoker, opts ...grpc.CallOption) error {
	if ctx.Value(direct{}) != nil {
		return invoke(ctx, method, req, reply, cc, opts...)
	}
	for again := false; ; again = true {
		token, err := s.take(ctx, cc)
		if err != nil {
			return err
		}
		err = invoke(with(ctx, token), method, req, reply, cc, opts...)
		if s.heard(token, err); again || !refusesToken(err) {
			return err
		}
	}
}

func (s *session) stream(ctx context.Context, desc *grpc.StreamDesc, cc *grpc.ClientConn, method string, open grpc.Streamer, opts ...grpc.CallOption) (grpc.ClientStream, error) {
	token, err := s.take(ctx, cc)
	if err != nil {
		return nil, err
	}
	cs, err := open(with(ctx, token), desc, cc, method, opts...)
	if err != nil {
		return nil, s.heard(token, err)
	}
	return &heardStream{ClientStream: cs, s: s, token: token}, nil
}

// heardStream tells the session how the stream ends.
type heardStream struct {
	grpc.ClientStream
	s     *session
	token string
}

func (h *heardStream) RecvMsg(m any) error { return h.s.heard(h.token, h.ClientStream.RecvMsg(m)) }

// heard draws conclusions from an error of a call with a token, and gives what the
// caller of a stream hears: a token that is not known is no reason to give up.
func (s *session) heard(token string, err error) error {
	switch {
	case refusesToken(err):
		s.l.forget(token)
		err = status.Error(codes.Unavailable, "the member no longer knows the token; authenticate anew")
	case status.Code(err) != codes.Unavailable: // it may come back without its tokens
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.until = time.Time{}
	return err
}

// take gives a token that the member takes, as far as is known.
func (s *session) take(ctx context.Context, cc *grpc.ClientConn) (string, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := time.Now()
	if now.Before(s.until) {
		return s.token, nil
	}
	auth := etcdserverpb.NewAuthClient(cc)
	ctx = context.WithValue(ctx, direct{}, true)
	token := s.l.current()
	if token != "" {
		_, err := auth.AuthStatus(with(ctx, token), &etcdserverpb.AuthStatusRequest{})
		switch {
		case err == nil, is(err, rpctypes.ErrGRPCNotSupportedForLearner): // which takes tokens, too
			s.token, s.until = token, now.Add(trustFor)
			return token, nil
		case refusesToken(err):
			s.l.forget(token)
		case status.Code(err) != codes.Unimplemented:
			return "", err
		}
	}
	resp, err := auth.Authenticate(ctx, &etcdserverpb.AuthenticateRequest{Name: s.l.name, Password: s.l.password})
	switch {
	case err == nil:
		token = s.l.know(resp.GetToken())
	case is(err, rpctypes.ErrGRPCAuthNotEnabled), status.Code(err) == codes.Unimplemented: // an address of members' own
		token = ""
	case is(err, rpctypes.ErrGRPCNotSupportedForLearner):
		return "", status.Error(codes.Unavailable, "a learner does not authenticate anybody; ask another member")
	case status.Code(err) == codes.InvalidArgument || status.Code(err) == codes.PermissionDenied:
		return "", status.Errorf(codes.PermissionDenied, "log in as %s: %s", s.l.name, status.Convert(err).Message())
	default:
		return "", err
	}
	s.token, s.until = token, now.Add(trustFor)
	return token, nil
}

func (l *Login) current() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.token
}

func (l *Login) know(token string) string {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.token = token
	return token
}

func (l *Login) forget(token string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.token == token {
		l.token = ""
	}
}

func with(ctx context.Context, token string) context.Context {
	if token == "" {
		return ctx
	}
	return metadata.AppendToOutgoingContext(ctx, rpctypes.TokenFieldNameGRPC, token)
}

// refusesToken reports whether a member wants another token: it does not know this
// one, or it is of before the last change of users and roles.
func refusesToken(err error) bool {
	return is(err, rpctypes.ErrGRPCInvalidAuthToken) || is(err, rpctypes.ErrGRPCAuthOldRevision)
}

// is compares the status of an answer with one of etcd's errors.
func is(err, want error) bool {
	return err != nil && status.Code(err) == status.Code(want) && status.Convert(err).Message() == status.Convert(want).Message()
}
