package etcdapi

import (
	"context"
	"strings"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"

	"github.com/chainfire/cfseed/internal/state/auth"
	"github.com/chainfire/cfseed/internal/state/envelope"
)

// gatewayHeader marks what etcd's HTTP gateway passes on: the certificate is the
// gateway's there.
const gatewayHeader = "grpcgateway-accept"

// Client says whose call ctx is of: by its token, else, where that is configured,
// by its certificate. It is nobody's while permissions are not asked for, and where
// neither is shown. A token that is not known is refused.
func (s *Server) Client(ctx context.Context) (envelope.Client, error) {
	rules := s.backend.Auth()
	if !rules.Enabled {
		return envelope.Client{}, nil
	}
	md, _ := metadata.FromIncomingContext(ctx)
	for _, field := range [...]string{rpctypes.TokenFieldNameGRPC, rpctypes.TokenFieldNameSwagger} {
		shown := md.Get(field)
		if len(shown) == 0 {
			continue
		}
		if s.opts.Tokens != nil {
			if c, ok := s.opts.Tokens.Client(ctx, strings.TrimPrefix(shown[0], "Bearer ")); ok {
				return c, nil
			}
		}
		return envelope.Client{}, rpctypes.ErrGRPCInvalidAuthToken
	}
	if !s.opts.ClientCertAuth || len(md.Get(gatewayHeader)) > 0 {
		return envelope.Client{}, nil
	}
	name, found := commonName(ctx)
	switch {
	case !found:
		return envelope.Client{}, nil
	case len(name) > envelope.MaxName:
		return envelope.Client{}, rpctypes.ErrGRPCPermissionDenied
	}
	return envelope.Client{Name: name, Revision: rules.Revision}, nil
}

// commonName is that of the client's certificate, which was verified.
func commonName(ctx context.Context) (name string, found bool) {
	p, ok := peer.FromContext(ctx)
	if !ok {
		return "", false
	}
	tls, ok := p.AuthInfo.(credentials.TLSInfo)
	if !ok {
		return "", false
	}
	for _, chain := range tls.State.VerifiedChains {
		if len(chain) > 0 {
			return chain[0].Subject.CommonName, true
		}
	}
	return "", false
}

// need is what a call asks of its client before anything else.
type need int

const (
	nothing need = iota // or what its keys ask for
	someone             // a user, or a certificate
	root                // the role root
)

// needOf says what etcd asks of a call. What reads or writes keys, or users and
// roles, is asked about where that is done.
func needOf(method string, req any) need {
	name, plain := strings.CutPrefix(method, etcdPrefix)
	if !plain {
		return someone // of Lock and Election, which read and write keys as a client
	}
	switch name {
	case "KV/Compact",
		"Cluster/MemberAdd", "Cluster/MemberRemove", "Cluster/MemberUpdate", "Cluster/MemberPromote",
		"Maintenance/Defragment", "Maintenance/Hash", "Maintenance/HashKV", "Maintenance/Snapshot",
		"Maintenance/MoveLeader", "Maintenance/Downgrade",
		"Auth/AuthEnable", "Auth/AuthDisable", "Auth/UserAdd", "Auth/UserDelete", "Auth/UserList", "Auth/UserChangePassword",
		"Auth/UserGrantRole", "Auth/UserRevokeRole", "Auth/RoleAdd", "Auth/RoleDelete", "Auth/RoleList",
		"Auth/RoleGrantPermission", "Auth/RoleRevokePermission":
		return root
	case "Maintenance/Alarm":
		if r, ok := req.(*pb.AlarmRequest); ok && r.GetAction() != pb.AlarmRequest_GET {
			return root
		}
		return someone
	case "Maintenance/Status", "Cluster/MemberList", "Lease/LeaseGrant", "Lease/LeaseRevoke", "Lease/LeaseTimeToLive":
		return someone
	}
	return nothing
}

// admit refuses a call whose client has not what it needs.
func (s *Server) admit(ctx context.Context, method string, req any) error {
	want := needOf(method, req)
	if want == nothing {
		return nil
	}
	c, err := s.Client(ctx)
	if err != nil {
		return err
	}
	if want == root {
		return s.backend.Auth().Admin(c)
	}
	return s.backend.Auth().Known(c)
}

// reading holds a read against what its client may do, before it and, by the
// revision of users and roles, after it: what was read may be newer than what was
// asked about.
func (s *Server) reading(ctx context.Context, check func(*auth.Rules, envelope.Client) error, get func() error) error {
	c, err := s.Client(ctx)
	if err != nil {
		return err
	}
	if err := check(s.backend.Auth(), c); err != nil {
		return err
	}
	if err := get(); err != nil {
		return err
	}
	if c.Revision != 0 && c.Revision != s.backend.Auth().Revision {
		return rpctypes.ErrGRPCAuthOldRevision
	}
	return nil
}
