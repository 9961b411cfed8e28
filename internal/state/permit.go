package state

import (
	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/protobuf/proto"

	"github.com/chainfire/cfseed/internal/state/auth"
	"github.com/chainfire/cfseed/internal/state/envelope"
	"github.com/chainfire/cfseed/internal/state/lease"
	"github.com/chainfire/cfseed/internal/state/mvcc"
	"github.com/chainfire/cfseed/internal/state/store"
)

// isAuth reports whether entries of the kind belong to package auth.
func isAuth(k envelope.Kind) bool { return k >= envelope.AuthEnable && k <= envelope.Authenticate }

// writesAuth reports whether entries of the kind change the tables of package auth.
func writesAuth(k envelope.Kind) bool { return isAuth(k) && k != envelope.Authenticate }

// clientOf is whom an entry is of; nobody, when it does not say.
func clientOf(env envelope.Envelope) envelope.Client {
	if env.Client == nil {
		return envelope.Client{}
	}
	return *env.Client
}

// permitted puts the question whether the entry's client may before do.
func permitted[Req, Resp any](m *Machine, env envelope.Envelope, check func(*auth.Rules, envelope.Client, Req, auth.KeysOf) error,
	do func(mvcc.Batch, Req) (Resp, error),
) func(mvcc.Batch, Req) (Resp, error) {
	if !m.rules.Enabled {
		return do
	}
	return func(b mvcc.Batch, req Req) (none Resp, err error) {
		if err := check(m.rules, clientOf(env), req, m.keysOf); err != nil {
			return none, err
		}
		return do(b, req)
	}
}

// keysOf is auth.KeysOf as of the entry before.
func (m *Machine) keysOf(id int64, fn func(key []byte) error) error {
	return lease.EachKey(m.batch, id, fn)
}

// revokeOf ends a lease and deletes its keys. c is nil where the cluster does so
// because the lease has run out.
func (m *Machine) revokeOf(c *envelope.Client) func(lease.Batch, *etcdserverpb.LeaseRevokeRequest) (*etcdserverpb.LeaseRevokeResponse, []lease.Change, error) {
	return func(b lease.Batch, req *etcdserverpb.LeaseRevokeRequest) (*etcdserverpb.LeaseRevokeResponse, []lease.Change, error) {
		if c != nil {
			if err := m.rules.CheckLease(*c, req.GetID(), m.keysOf); err != nil {
				return nil, nil, err
			}
		}
		return lease.Revoke(b, req, func(keys [][]byte) error { return mvcc.DeleteKeys(m.batch, keys) })
	}
}

// manage carries out an entry of package auth.
func (m *Machine) manage(index uint64, env envelope.Envelope, res *Result) (proto.Message, error) {
	b, c := m.batch, clientOf(env)
	if env.Kind == envelope.Authenticate {
		return runAuth(b, index, env, new(etcdserverpb.InternalAuthenticateRequest), res,
			func(b auth.Batch, req *etcdserverpb.InternalAuthenticateRequest) (*etcdserverpb.AuthenticateResponse, *auth.Change, error) {
				return auth.Authenticate(b, c, req)
			})
	}
	if err := m.rules.Admin(c); err != nil {
		return nil, err
	}
	switch env.Kind {
	case envelope.AuthEnable:
		return runAuth(b, index, env, new(etcdserverpb.AuthEnableRequest), res, auth.Enable)
	case envelope.AuthDisable:
		return runAuth(b, index, env, new(etcdserverpb.AuthDisableRequest), res, auth.Disable)
	case envelope.UserAdd:
		return runAuth(b, index, env, new(etcdserverpb.AuthUserAddRequest), res, auth.UserAdd)
	case envelope.UserDelete:
		return runAuth(b, index, env, new(etcdserverpb.AuthUserDeleteRequest), res, auth.UserDelete)
	case envelope.UserChangePassword:
		return runAuth(b, index, env, new(etcdserverpb.AuthUserChangePasswordRequest), res, auth.UserChangePassword)
	case envelope.UserGrantRole:
		return runAuth(b, index, env, new(etcdserverpb.AuthUserGrantRoleRequest), res, auth.UserGrantRole)
	case envelope.UserRevokeRole:
		return runAuth(b, index, env, new(etcdserverpb.AuthUserRevokeRoleRequest), res, auth.UserRevokeRole)
	case envelope.RoleAdd:
		return runAuth(b, index, env, new(etcdserverpb.AuthRoleAddRequest), res, auth.RoleAdd)
	case envelope.RoleDelete:
		return runAuth(b, index, env, new(etcdserverpb.AuthRoleDeleteRequest), res, auth.RoleDelete)
	case envelope.RoleGrantPermission:
		return runAuth(b, index, env, new(etcdserverpb.AuthRoleGrantPermissionRequest), res, auth.RoleGrantPermission)
	default:
		return runAuth(b, index, env, new(etcdserverpb.AuthRoleRevokePermissionRequest), res, auth.RoleRevokePermission)
	}
}

// runAuth is run for a request of package auth.
func runAuth[Req, Resp proto.Message](b *store.Batch, index uint64, env envelope.Envelope, req Req, res *Result,
	do func(auth.Batch, Req) (Resp, *auth.Change, error),
) (proto.Message, error) {
	var change *auth.Change
	resp, err := run(b, index, env, req, func(_ mvcc.Batch, req Req) (resp Resp, err error) {
		resp, change, err = do(b, req)
		return resp, err
	})
	if err == nil {
		res.Tokens = change
	}
	return resp, err
}
