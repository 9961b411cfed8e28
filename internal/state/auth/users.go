package auth

import (
	"encoding/base64"
	"encoding/hex"
	"slices"

	"go.etcd.io/etcd/api/v3/authpb"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"

	"github.com/chainfire/cfseed/internal/state/envelope"
	"github.com/chainfire/cfseed/internal/state/store"
)

// rootName is the user that must exist, and the role that may do everything.
const rootName = "root"

// SumSize is the length of a token's sum in bytes: SHA-256.
const SumSize = 32

// Change is what an entry did to the tokens that members know.
type Change struct {
	User string // whose; "" = everybody's
	// Sum is of a token that User was given; nil: all tokens of User are void.
	Sum []byte
}

// Enable makes members ask for permissions from now on.
func Enable(b Batch, _ *pb.AuthEnableRequest) (*pb.AuthEnableResponse, *Change, error) {
	s, err := readSettings(b)
	if err != nil {
		return nil, nil, err
	}
	if !s.enabled {
		root, err := findUser(b, rootName)
		switch {
		case err != nil:
			return nil, nil, err
		case root == nil:
			return nil, nil, rpctypes.ErrGRPCRootUserNotExist
		case !slices.Contains(root.GetRoles(), rootName):
			return nil, nil, rpctypes.ErrGRPCRootRoleNotExist
		}
		if err := b.Set(store.AuthMeta, []byte(enabledKey), []byte{enabledFlag}); err != nil {
			return nil, nil, err
		}
	}
	h, err := header(b)
	return &pb.AuthEnableResponse{Header: h}, nil, err
}

// Disable lets everybody do everything, and ends all tokens.
func Disable(b Batch, _ *pb.AuthDisableRequest) (*pb.AuthDisableResponse, *Change, error) {
	s, err := readSettings(b)
	if err != nil {
		return nil, nil, err
	}
	var change *Change
	if s.enabled {
		if err := b.Delete(store.AuthMeta, []byte(enabledKey)); err != nil {
			return nil, nil, err
		}
		if err := touch(b); err != nil {
			return nil, nil, err
		}
		change = &Change{}
	}
	h, err := header(b)
	return &pb.AuthDisableResponse{Header: h}, change, err
}

// Authenticate makes a token known whose password the member asked has checked,
// at the revision that the client carries: what has changed since may have been
// that password. The request has the token's sum in hex.
func Authenticate(b Batch, c envelope.Client, req *pb.InternalAuthenticateRequest) (*pb.AuthenticateResponse, *Change, error) {
	s, err := readSettings(b)
	if err != nil {
		return nil, nil, err
	}
	if !s.enabled {
		return nil, nil, rpctypes.ErrGRPCAuthNotEnabled
	}
	u, err := findUser(b, req.GetName())
	if err != nil {
		return nil, nil, err
	}
	sum, herr := hex.DecodeString(req.GetSimpleToken())
	switch {
	case u == nil || u.GetOptions().GetNoPassword() || c.Name != req.GetName() || herr != nil || len(sum) != SumSize:
		return nil, nil, rpctypes.ErrGRPCAuthFailed
	case c.Revision != s.revision:
		return nil, nil, rpctypes.ErrGRPCAuthOldRevision
	}
	h, err := header(b)
	return &pb.AuthenticateResponse{Header: h}, &Change{User: req.GetName(), Sum: sum}, err
}

// hashOf reads the hash of a password as it stands in a request.
func hashOf(encoded string) ([]byte, error) {
	hash, err := base64.StdEncoding.DecodeString(encoded)
	if err != nil {
		return nil, rpctypes.ErrGRPCInvalidAuthMgmt
	}
	return hash, nil
}

// UserAdd adds a user without roles.
func UserAdd(b Batch, req *pb.AuthUserAddRequest) (*pb.AuthUserAddResponse, *Change, error) {
	switch {
	case req.GetName() == "":
		return nil, nil, rpctypes.ErrGRPCUserEmpty
	case len(req.GetName()) > envelope.MaxName:
		return nil, nil, rpctypes.ErrGRPCInvalidAuthMgmt
	}
	old, err := findUser(b, req.GetName())
	switch {
	case err != nil:
		return nil, nil, err
	case old != nil:
		return nil, nil, rpctypes.ErrGRPCUserAlreadyExist
	}
	u := &authpb.User{Name: []byte(req.GetName())}
	if req.GetOptions().GetNoPassword() {
		u.Options = &authpb.UserAddOptions{NoPassword: true}
	} else if u.Password, err = hashOf(req.GetHashedPassword()); err != nil {
		return nil, nil, err
	}
	if err := changeUser(b, u); err != nil {
		return nil, nil, err
	}
	h, err := header(b)
	return &pb.AuthUserAddResponse{Header: h}, nil, err
}

// changeUser writes a user and raises the revision.
func changeUser(b Batch, u *authpb.User) error {
	if err := putUser(b, u); err != nil {
		return err
	}
	return touch(b)
}

// UserDelete deletes a user, but not root while permissions are asked for.
func UserDelete(b Batch, req *pb.AuthUserDeleteRequest) (*pb.AuthUserDeleteResponse, *Change, error) {
	s, err := readSettings(b)
	if err != nil {
		return nil, nil, err
	}
	if s.enabled && req.GetName() == rootName {
		return nil, nil, rpctypes.ErrGRPCInvalidAuthMgmt
	}
	if _, err := mustUser(b, req.GetName()); err != nil {
		return nil, nil, err
	}
	if err := b.Delete(store.AuthUsers, []byte(req.GetName())); err != nil {
		return nil, nil, err
	}
	if err := touch(b); err != nil {
		return nil, nil, err
	}
	h, err := header(b)
	return &pb.AuthUserDeleteResponse{Header: h}, &Change{User: req.GetName()}, err
}

// mustUser gives a user or refuses.
func mustUser(r Reader, name string) (*authpb.User, error) {
	u, err := findUser(r, name)
	if err == nil && u == nil {
		return nil, rpctypes.ErrGRPCUserNotFound
	}
	return u, err
}

// UserChangePassword replaces the hash of a user's password. A user without a
// password goes on without.
func UserChangePassword(b Batch, req *pb.AuthUserChangePasswordRequest) (*pb.AuthUserChangePasswordResponse, *Change, error) {
	u, err := mustUser(b, req.GetName())
	if err != nil {
		return nil, nil, err
	}
	if u.Password = nil; !u.GetOptions().GetNoPassword() {
		if u.Password, err = hashOf(req.GetHashedPassword()); err != nil {
			return nil, nil, err
		}
	}
	if err := changeUser(b, u); err != nil {
		return nil, nil, err
	}
	h, err := header(b)
	return &pb.AuthUserChangePasswordResponse{Header: h}, &Change{User: req.GetName()}, err
}

// UserGrantRole gives a user a role. The role root need not exist; one that the
// user has is no change.
func UserGrantRole(b Batch, req *pb.AuthUserGrantRoleRequest) (*pb.AuthUserGrantRoleResponse, *Change, error) {
	u, err := mustUser(b, req.GetUser())
	if err != nil {
		return nil, nil, err
	}
	if req.GetRole() != rootName {
		if _, err := mustRole(b, req.GetRole()); err != nil {
			return nil, nil, err
		}
	}
	if i, has := slices.BinarySearch(u.GetRoles(), req.GetRole()); !has {
		u.Roles = slices.Insert(u.Roles, i, req.GetRole())
		if err := changeUser(b, u); err != nil {
			return nil, nil, err
		}
	}
	h, err := header(b)
	return &pb.AuthUserGrantRoleResponse{Header: h}, nil, err
}

// UserRevokeRole takes a role from a user, but not root's from root while
// permissions are asked for.
func UserRevokeRole(b Batch, req *pb.AuthUserRevokeRoleRequest) (*pb.AuthUserRevokeRoleResponse, *Change, error) {
	s, err := readSettings(b)
	if err != nil {
		return nil, nil, err
	}
	if s.enabled && req.GetName() == rootName && req.GetRole() == rootName {
		return nil, nil, rpctypes.ErrGRPCInvalidAuthMgmt
	}
	u, err := mustUser(b, req.GetName())
	if err != nil {
		return nil, nil, err
	}
	i, has := slices.BinarySearch(u.GetRoles(), req.GetRole())
	if !has {
		return nil, nil, rpctypes.ErrGRPCRoleNotGranted
	}
	u.Roles = slices.Delete(u.Roles, i, i+1)
	if err := changeUser(b, u); err != nil {
		return nil, nil, err
	}
	h, err := header(b)
	return &pb.AuthUserRevokeRoleResponse{Header: h}, nil, err
}
