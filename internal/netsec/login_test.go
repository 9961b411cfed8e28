package netsec

import (
	"context"
	"net"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/grpc/test/bufconn"

	"github.com/chainfire/cfseed/internal/fault"
	chainfirev1 "github.com/chainfire/cfseed/proto/chainfire/v1"
)

// guardedMember asks for a token in every call but Authenticate.
type guardedMember struct {
	etcdserverpb.UnimplementedAuthServer
	chainfirev1.UnimplementedClusterServer

	mu      sync.Mutex
	tokens  []string // that it knows
	logins  int
	loginAs error // what Authenticate answers instead
	learner bool
}

func (m *guardedMember) know(tokens ...string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.tokens = tokens
}

func (m *guardedMember) guard(ctx context.Context) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	md, _ := metadata.FromIncomingContext(ctx)
	got := md.Get("token")
	if len(got) == 0 {
		return status.Error(codes.PermissionDenied, "nobody")
	}
	if !slices.Contains(m.tokens, got[0]) {
		return rpctypes.ErrGRPCInvalidAuthToken
	}
	return nil
}

func (m *guardedMember) Authenticate(_ context.Context, r *etcdserverpb.AuthenticateRequest) (*etcdserverpb.AuthenticateResponse, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	switch {
	case m.learner:
		return nil, rpctypes.ErrGRPCNotSupportedForLearner
	case m.loginAs != nil:
		return nil, m.loginAs
	case r.GetName() != "ada" || r.GetPassword() != "p:w":
		return nil, rpctypes.ErrGRPCAuthFailed
	}
	m.logins++
	token := "t" + string(rune('0'+m.logins))
	m.tokens = append(m.tokens, token)
	return &etcdserverpb.AuthenticateResponse{Token: token}, nil
}

func (m *guardedMember) AuthStatus(ctx context.Context, _ *etcdserverpb.AuthStatusRequest) (*etcdserverpb.AuthStatusResponse, error) {
	m.mu.Lock()
	learner := m.learner
	m.mu.Unlock()
	if learner {
		return nil, rpctypes.ErrGRPCNotSupportedForLearner
	}
	return &etcdserverpb.AuthStatusResponse{}, m.guard(ctx)
}

func (m *guardedMember) Status(ctx context.Context, _ *chainfirev1.StatusRequest) (*chainfirev1.StatusResponse, error) {
	return &chainfirev1.StatusResponse{}, m.guard(ctx)
}

func (m *guardedMember) MemberAdd(_ *chainfirev1.MemberAddRequest, s grpc.ServerStreamingServer[chainfirev1.MemberAddResponse]) error {
	if err := m.guard(s.Context()); err != nil {
		return err
	}
	return s.Send(&chainfirev1.MemberAddResponse{})
}

// session connects to m as the login's user; every connection is another session.
func (m *guardedMember) session(t *testing.T, l *Login) chainfirev1.ClusterClient {
	t.Helper()
	lis := bufconn.Listen(1 << 16)
	srv := grpc.NewServer()
	etcdserverpb.RegisterAuthServer(srv, m)
	chainfirev1.RegisterClusterServer(srv, m)
	served := make(chan error, 1)
	go func() { served <- srv.Serve(lis) }()
	conn, err := grpc.NewClient("passthrough:///m", append(l.DialOptions(), grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(context.Context, string) (net.Conn, error) { return lis.Dial() }))...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := conn.Close(); err != nil {
			t.Error(err)
		}
		srv.Stop()
		if err := <-served; err != nil {
			t.Error(err)
		}
	})
	return chainfirev1.NewClusterClient(conn)
}

func ask(t *testing.T, c chainfirev1.ClusterClient) error {
	t.Helper()
	_, err := c.Status(t.Context(), &chainfirev1.StatusRequest{})
	return err
}

func follow(t *testing.T, c chainfirev1.ClusterClient) error {
	t.Helper()
	s, err := c.MemberAdd(t.Context(), &chainfirev1.MemberAddRequest{})
	if err == nil {
		_, err = s.Recv()
	}
	return err
}

func parsed(t *testing.T, user string) *Login {
	t.Helper()
	l, err := ParseLogin(user, "")
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func TestLogin(t *testing.T) {
	m := &guardedMember{}
	l := parsed(t, "ada:p:w")
	one := m.session(t, l)
	for range 2 {
		if err := ask(t, one); err != nil {
			t.Fatal(err)
		}
		if err := follow(t, one); err != nil {
			t.Fatal(err)
		}
	}
	if m.logins != 1 {
		t.Errorf("%d logins", m.logins)
	}
	if err := ask(t, m.session(t, l)); err != nil || m.logins != 1 {
		t.Errorf("another connection: %v, %d logins", err, m.logins)
	}
	m.know() // it was started again
	if err := ask(t, one); err != nil || m.logins != 2 {
		t.Errorf("a token that is not known any more: %v, %d logins", err, m.logins)
	}
	m.know()
	if err := follow(t, one); status.Code(err) != codes.Unavailable {
		t.Errorf("a stream with such a token: %v", err)
	}
	if err := follow(t, one); err != nil || m.logins != 3 {
		t.Errorf("the stream after that: %v, %d logins", err, m.logins)
	}
	if err := ask(t, m.session(t, nil)); status.Code(err) != codes.PermissionDenied {
		t.Errorf("nobody: %v", err)
	}
}

// A token is shown again now and then before a stream depends on it.
func TestLoginChecksOldTokens(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := &guardedMember{}
		l := parsed(t, "ada:p:w")
		one := m.session(t, l)
		if err := follow(t, one); err != nil {
			t.Fatal(err)
		}
		m.know()
		<-time.After(trustFor + time.Second)
		if err := follow(t, one); err != nil || m.logins != 2 {
			t.Errorf("after a while: %v, %d logins", err, m.logins)
		}
		synctest.Wait()
	})
}

func TestLoginAtALearner(t *testing.T) {
	voter, learner := &guardedMember{}, &guardedMember{learner: true}
	l := parsed(t, "ada:p:w")
	at := learner.session(t, l)
	if err := ask(t, at); status.Code(err) != codes.Unavailable {
		t.Errorf("a learner logs in nobody: %v", err)
	}
	if err := ask(t, voter.session(t, l)); err != nil {
		t.Fatal(err)
	}
	learner.know(voter.tokens...)
	if err := ask(t, at); err != nil {
		t.Errorf("a voter's token at a learner: %v", err)
	}
}

func TestLoginThatIsNotTaken(t *testing.T) {
	for name, c := range map[string]struct {
		user string
		says error
		want codes.Code
	}{
		"wrong password":    {"ada:other", nil, codes.PermissionDenied},
		"nobody asks":       {"ada:p:w", rpctypes.ErrGRPCAuthNotEnabled, codes.PermissionDenied}, // by the member's own guard
		"a member's own":    {"ada:p:w", status.Error(codes.Unimplemented, ""), codes.PermissionDenied},
		"no leader, though": {"ada:p:w", rpctypes.ErrGRPCNoLeader, codes.Unavailable},
	} {
		m := &guardedMember{loginAs: c.says}
		one := m.session(t, parsed(t, c.user))
		for _, call := range []func(*testing.T, chainfirev1.ClusterClient) error{ask, follow} {
			if err := call(t, one); status.Code(err) != c.want {
				t.Errorf("%s: %v", name, err)
			}
		}
	}
	for _, words := range [][2]string{{"ada", ""}, {":pw", ""}, {":pw", "pw"}, {"ada:pw", "pw"}, {"", "pw"}} {
		if _, err := ParseLogin(words[0], words[1]); !fault.Is(err, fault.Usage) {
			t.Errorf("%q: %v", words, err)
		}
	}
	for _, words := range [][2]string{{"ada:p:w", ""}, {"ada", "p:w"}} {
		if l, err := ParseLogin(words[0], words[1]); err != nil || l.name != "ada" || l.password != "p:w" {
			t.Errorf("%q: %v", words, err)
		}
	}
	if l, err := ParseLogin("", ""); l != nil || err != nil || l.DialOptions() != nil {
		t.Errorf("%v, %v", l, err)
	}
}
