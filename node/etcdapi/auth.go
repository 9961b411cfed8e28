package etcdapi

import (
	"context"
	"encoding/base64"
	"encoding/hex"
	"errors"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"golang.org/x/crypto/bcrypt"
	"google.golang.org/protobuf/proto"

	"github.com/chainfire/cfseed/internal/fault"
	"github.com/chainfire/cfseed/internal/state/auth"
	"github.com/chainfire/cfseed/internal/state/envelope"
)

type authServer struct {
	pb.UnimplementedAuthServer
	s *Server
}

// headed is an answer of the service.
type headed interface {
	proto.Message
	GetHeader() *pb.ResponseHeader
}

// change replicates a request that changes users or roles.
func change[R headed](ctx context.Context, a authServer, kind envelope.Kind, req proto.Message) (R, error) {
	resp, err := propose[R](ctx, a.s, kind, req)
	if err == nil {
		h := a.s.header(resp.GetHeader())
		proto.Reset(resp.GetHeader())
		proto.Merge(resp.GetHeader(), h)
	}
	return resp, err
}

func (a authServer) AuthEnable(ctx context.Context, r *pb.AuthEnableRequest) (*pb.AuthEnableResponse, error) {
	return change[*pb.AuthEnableResponse](ctx, a, envelope.AuthEnable, r)
}

func (a authServer) AuthDisable(ctx context.Context, r *pb.AuthDisableRequest) (*pb.AuthDisableResponse, error) {
	return change[*pb.AuthDisableResponse](ctx, a, envelope.AuthDisable, r)
}

func (a authServer) AuthStatus(ctx context.Context, _ *pb.AuthStatusRequest) (*pb.AuthStatusResponse, error) {
	rules, _, err := a.rules(ctx)
	if err != nil {
		return nil, err
	}
	return &pb.AuthStatusResponse{Header: a.s.header(nil), Enabled: rules.Enabled, AuthRevision: rules.Revision}, nil
}

// rules gives the rules that hold now, and who asks.
func (a authServer) rules(ctx context.Context) (*auth.Rules, envelope.Client, error) {
	if err := a.s.backend.ReadIndex(ctx); err != nil {
		return nil, envelope.Client{}, a.s.fail(err)
	}
	c, err := a.s.Client(ctx)
	return a.s.backend.Auth(), c, err
}

// Authenticate compares the password here, outside the log. The entry that makes
// the token known carries the revision at which it was right, and is refused when
// users and roles have changed since: then it is compared again.
func (a authServer) Authenticate(ctx context.Context, r *pb.AuthenticateRequest) (*pb.AuthenticateResponse, error) {
	if err := a.s.backend.ReadIndex(ctx); err != nil {
		return nil, a.s.fail(err)
	}
	for {
		rules := a.s.backend.Auth()
		if !rules.Enabled {
			return nil, rpctypes.ErrGRPCAuthNotEnabled
		}
		hash, found := rules.Password(r.GetName())
		if a.s.opts.Tokens == nil || !found || bcrypt.CompareHashAndPassword(hash, []byte(r.GetPassword())) != nil {
			return nil, rpctypes.ErrGRPCAuthFailed
		}
		c := envelope.Client{Name: r.GetName(), Revision: rules.Revision}
		token, err := a.s.opts.Tokens.Assign(c, func(sum []byte) (uint64, error) {
			res, err := a.s.backend.Propose(ctx, &c, envelope.Authenticate,
				&pb.InternalAuthenticateRequest{Name: c.Name, SimpleToken: hex.EncodeToString(sum)})
			return res.Index, errors.Join(err, res.Err)
		})
		switch {
		case err == nil:
			return &pb.AuthenticateResponse{Header: a.s.header(nil), Token: token}, nil
		case !errors.Is(err, rpctypes.ErrGRPCAuthOldRevision) || ctx.Err() != nil:
			return nil, a.s.fail(err)
		}
	}
}

// hash makes the form in which a password is replicated.
func (a authServer) hash(password string) (string, error) {
	hash, err := bcrypt.GenerateFromPassword([]byte(password), a.s.opts.BcryptCost)
	if err != nil {
		return "", a.s.fail(fault.New(fault.Usage, "hash password", err))
	}
	return base64.StdEncoding.EncodeToString(hash), nil
}

func (a authServer) UserAdd(ctx context.Context, r *pb.AuthUserAddRequest) (*pb.AuthUserAddResponse, error) {
	if r.GetName() == "" {
		return nil, rpctypes.ErrGRPCUserEmpty
	}
	req := &pb.AuthUserAddRequest{Name: r.GetName(), Options: r.GetOptions()}
	if !r.GetOptions().GetNoPassword() {
		var err error
		if req.HashedPassword, err = a.hash(r.GetPassword()); err != nil {
			return nil, err
		}
	}
	return change[*pb.AuthUserAddResponse](ctx, a, envelope.UserAdd, req)
}

// UserGet tells a user's roles to root and to the user.
func (a authServer) UserGet(ctx context.Context, r *pb.AuthUserGetRequest) (*pb.AuthUserGetResponse, error) {
	rules, c, err := a.rules(ctx)
	if err != nil {
		return nil, err
	}
	if err := rules.Admin(c); err != nil && c.Name != r.GetName() {
		return nil, err
	}
	roles, found := rules.User(r.GetName())
	if !found {
		return nil, rpctypes.ErrGRPCUserNotFound
	}
	return &pb.AuthUserGetResponse{Header: a.s.header(nil), Roles: roles}, nil
}

func (a authServer) UserList(ctx context.Context, _ *pb.AuthUserListRequest) (*pb.AuthUserListResponse, error) {
	rules, c, err := a.rules(ctx)
	if err == nil {
		err = rules.Admin(c)
	}
	if err != nil {
		return nil, err
	}
	return &pb.AuthUserListResponse{Header: a.s.header(nil), Users: rules.Users()}, nil
}

func (a authServer) UserDelete(ctx context.Context, r *pb.AuthUserDeleteRequest) (*pb.AuthUserDeleteResponse, error) {
	return change[*pb.AuthUserDeleteResponse](ctx, a, envelope.UserDelete, r)
}

func (a authServer) UserChangePassword(ctx context.Context, r *pb.AuthUserChangePasswordRequest) (*pb.AuthUserChangePasswordResponse, error) {
	req := &pb.AuthUserChangePasswordRequest{Name: r.GetName(), HashedPassword: r.GetHashedPassword()}
	if r.GetPassword() != "" {
		var err error
		if req.HashedPassword, err = a.hash(r.GetPassword()); err != nil {
			return nil, err
		}
	}
	return change[*pb.AuthUserChangePasswordResponse](ctx, a, envelope.UserChangePassword, req)
}

func (a authServer) UserGrantRole(ctx context.Context, r *pb.AuthUserGrantRoleRequest) (*pb.AuthUserGrantRoleResponse, error) {
	return change[*pb.AuthUserGrantRoleResponse](ctx, a, envelope.UserGrantRole, r)
}

func (a authServer) UserRevokeRole(ctx context.Context, r *pb.AuthUserRevokeRoleRequest) (*pb.AuthUserRevokeRoleResponse, error) {
	return change[*pb.AuthUserRevokeRoleResponse](ctx, a, envelope.UserRevokeRole, r)
}

func (a authServer) RoleAdd(ctx context.Context, r *pb.AuthRoleAddRequest) (*pb.AuthRoleAddResponse, error) {
	return change[*pb.AuthRoleAddResponse](ctx, a, envelope.RoleAdd, r)
}

// RoleGet tells a role's permissions to root and to users that have it.
func (a authServer) RoleGet(ctx context.Context, r *pb.AuthRoleGetRequest) (*pb.AuthRoleGetResponse, error) {
	rules, c, err := a.rules(ctx)
	if err != nil {
		return nil, err
	}
	if err := rules.Admin(c); err != nil && !rules.HasRole(c.Name, r.GetRole()) {
		return nil, err
	}
	perms, found := rules.Role(r.GetRole())
	if !found {
		return nil, rpctypes.ErrGRPCRoleNotFound
	}
	return &pb.AuthRoleGetResponse{Header: a.s.header(nil), Perm: perms}, nil
}

func (a authServer) RoleList(ctx context.Context, _ *pb.AuthRoleListRequest) (*pb.AuthRoleListResponse, error) {
	rules, c, err := a.rules(ctx)
	if err == nil {
		err = rules.Admin(c)
	}
	if err != nil {
		return nil, err
	}
	return &pb.AuthRoleListResponse{Header: a.s.header(nil), Roles: rules.Roles()}, nil
}

func (a authServer) RoleDelete(ctx context.Context, r *pb.AuthRoleDeleteRequest) (*pb.AuthRoleDeleteResponse, error) {
	return change[*pb.AuthRoleDeleteResponse](ctx, a, envelope.RoleDelete, r)
}

func (a authServer) RoleGrantPermission(ctx context.Context, r *pb.AuthRoleGrantPermissionRequest) (*pb.AuthRoleGrantPermissionResponse, error) {
	return change[*pb.AuthRoleGrantPermissionResponse](ctx, a, envelope.RoleGrantPermission, r)
}

func (a authServer) RoleRevokePermission(ctx context.Context, r *pb.AuthRoleRevokePermissionRequest) (*pb.AuthRoleRevokePermissionResponse, error) {
	return change[*pb.AuthRoleRevokePermissionResponse](ctx, a, envelope.RoleRevokePermission, r)
}
