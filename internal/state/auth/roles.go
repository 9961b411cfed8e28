package auth

import (
	"bytes"
	"slices"

	"go.etcd.io/etcd/api/v3/authpb"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"

	"github.com/chainfire/cfseed/internal/state/store"
)

// mustRole gives a role or refuses.
func mustRole(r Reader, name string) (*authpb.Role, error) {
	role, err := findRole(r, name)
	if err == nil && role == nil {
		return nil, rpctypes.ErrGRPCRoleNotFound
	}
	return role, err
}

// changeRole writes a role and raises the revision.
func changeRole(b Batch, r *authpb.Role) error {
	if err := putRole(b, r); err != nil {
		return err
	}
	return touch(b)
}

// RoleAdd adds a role without permissions.
func RoleAdd(b Batch, req *pb.AuthRoleAddRequest) (*pb.AuthRoleAddResponse, *Change, error) {
	if req.GetName() == "" {
		return nil, nil, rpctypes.ErrGRPCRoleEmpty
	}
	old, err := findRole(b, req.GetName())
	switch {
	case err != nil:
		return nil, nil, err
	case old != nil:
		return nil, nil, rpctypes.ErrGRPCRoleAlreadyExist
	}
	if err := changeRole(b, &authpb.Role{Name: []byte(req.GetName())}); err != nil {
		return nil, nil, err
	}
	h, err := header(b)
	return &pb.AuthRoleAddResponse{Header: h}, nil, err
}

// RoleDelete deletes a role and takes it from all users, but not root while
// permissions are asked for.
func RoleDelete(b Batch, req *pb.AuthRoleDeleteRequest) (*pb.AuthRoleDeleteResponse, *Change, error) {
	s, err := readSettings(b)
	if err != nil {
		return nil, nil, err
	}
	if s.enabled && req.GetRole() == rootName {
		return nil, nil, rpctypes.ErrGRPCInvalidAuthMgmt
	}
	if _, err := mustRole(b, req.GetRole()); err != nil {
		return nil, nil, err
	}
	if err := b.Delete(store.AuthRoles, []byte(req.GetRole())); err != nil {
		return nil, nil, err
	}
	users, err := allUsers(b)
	if err != nil {
		return nil, nil, err
	}
	for _, u := range users {
		if i, has := slices.BinarySearch(u.GetRoles(), req.GetRole()); has {
			u.Roles = slices.Delete(u.Roles, i, i+1)
			if err := putUser(b, u); err != nil {
				return nil, nil, err
			}
		}
	}
	if err := touch(b); err != nil {
		return nil, nil, err
	}
	h, err := header(b)
	return &pb.AuthRoleDeleteResponse{Header: h}, nil, err
}

// RoleGrantPermission gives a role a permission on a range, in place of one on
// exactly that range.
func RoleGrantPermission(b Batch, req *pb.AuthRoleGrantPermissionRequest) (*pb.AuthRoleGrantPermissionResponse, *Change, error) {
	perm := req.GetPerm()
	switch {
	case perm == nil:
		return nil, nil, rpctypes.ErrGRPCPermissionNotGiven
	case !validRange(perm.GetKey(), perm.GetRangeEnd()):
		return nil, nil, rpctypes.ErrGRPCInvalidAuthMgmt
	}
	role, err := mustRole(b, req.GetName())
	if err != nil {
		return nil, nil, err
	}
	perm = &authpb.Permission{PermType: perm.GetPermType(), Key: perm.GetKey(), RangeEnd: perm.GetRangeEnd()}
	i, has := slices.BinarySearchFunc(role.GetKeyPermission(), perm, comparePermissions)
	if has {
		role.KeyPermission[i] = perm
	} else {
		role.KeyPermission = slices.Insert(role.KeyPermission, i, perm)
	}
	if err := changeRole(b, role); err != nil {
		return nil, nil, err
	}
	h, err := header(b)
	return &pb.AuthRoleGrantPermissionResponse{Header: h}, nil, err
}

// RoleRevokePermission takes a role's permission on exactly a range.
func RoleRevokePermission(b Batch, req *pb.AuthRoleRevokePermissionRequest) (*pb.AuthRoleRevokePermissionResponse, *Change, error) {
	role, err := mustRole(b, req.GetRole())
	if err != nil {
		return nil, nil, err
	}
	before := len(role.GetKeyPermission())
	role.KeyPermission = slices.DeleteFunc(role.KeyPermission, func(p *authpb.Permission) bool {
		return bytes.Equal(p.GetKey(), req.GetKey()) && bytes.Equal(p.GetRangeEnd(), req.GetRangeEnd())
	})
	if len(role.KeyPermission) == before {
		return nil, nil, rpctypes.ErrGRPCPermissionNotGranted
	}
	if err := changeRole(b, role); err != nil {
		return nil, nil, err
	}
	h, err := header(b)
	return &pb.AuthRoleRevokePermissionResponse{Header: h}, nil, err
}
