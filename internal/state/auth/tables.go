package auth

import (
	"fmt"

	"go.etcd.io/etcd/api/v3/authpb"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"github.com/chainfire/cfseed/internal/state/store"
)

// Reader is what the read functions need: a store.View, or the store.Batch of an
// entry.
type Reader interface {
	Get(t store.Table, key []byte) ([]byte, error)
	Scan(t store.Table, prefix []byte, fn func(key, value []byte) error) error
}

// Batch is what entries need: the store.Batch of one of them.
type Batch interface {
	Reader
	Set(t store.Table, key, value []byte) error
	Delete(t store.Table, key []byte) error
	Revisions() (current, compacted int64, err error)
}

var _ Batch = (*store.Batch)(nil)

// settings are the rows of the AuthMeta table.
type settings struct {
	enabled  bool
	revision uint64
}

func readSettings(r Reader) (settings, error) {
	s := settings{revision: firstRevision}
	err := r.Scan(store.AuthMeta, nil, func(key, value []byte) error {
		if err := decodeMeta(key, value, &s); err != nil {
			return damaged(store.AuthMeta, key, err)
		}
		return nil
	})
	return s, err
}

// touch gives the users and roles the next revision.
func touch(b Batch) error {
	s, err := readSettings(b)
	if err != nil {
		return err
	}
	return b.Set(store.AuthMeta, []byte(revisionKey), encodeRevision(s.revision+1))
}

// findUser gives a user, nil when there is none.
func findUser(r Reader, name string) (*authpb.User, error) {
	key := []byte(name)
	value, err := r.Get(store.AuthUsers, key)
	if err != nil || value == nil {
		return nil, err
	}
	u, err := decodeUser(key, value)
	if err != nil {
		return nil, damaged(store.AuthUsers, key, err)
	}
	return u, nil
}

// findRole gives a role, nil when there is none.
func findRole(r Reader, name string) (*authpb.Role, error) {
	key := []byte(name)
	value, err := r.Get(store.AuthRoles, key)
	if err != nil || value == nil {
		return nil, err
	}
	role, err := decodeRole(key, value)
	if err != nil {
		return nil, damaged(store.AuthRoles, key, err)
	}
	return role, nil
}

// allUsers gives every user, by name.
func allUsers(r Reader) (out []*authpb.User, err error) {
	err = r.Scan(store.AuthUsers, nil, func(key, value []byte) error {
		u, err := decodeUser(key, value)
		if err != nil {
			return damaged(store.AuthUsers, key, err)
		}
		out = append(out, u)
		return nil
	})
	return out, err
}

// allRoles gives every role, by name.
func allRoles(r Reader) (out []*authpb.Role, err error) {
	err = r.Scan(store.AuthRoles, nil, func(key, value []byte) error {
		role, err := decodeRole(key, value)
		if err != nil {
			return damaged(store.AuthRoles, key, err)
		}
		out = append(out, role)
		return nil
	})
	return out, err
}

func putUser(b Batch, u *authpb.User) error {
	value, err := encode(u)
	if err != nil {
		return err
	}
	return b.Set(store.AuthUsers, u.GetName(), value)
}

func putRole(b Batch, r *authpb.Role) error {
	value, err := encode(r)
	if err != nil {
		return err
	}
	return b.Set(store.AuthRoles, r.GetName(), value)
}

func header(b Batch) (*pb.ResponseHeader, error) {
	current, _, err := b.Revisions()
	return &pb.ResponseHeader{Revision: current}, err
}

// Differences says what is wrong with the tables as of one view: a healthy state
// has nothing. An error of class fault.Corrupt is a row that can not be read. The
// property: while permissions are asked for there is a user root with the role
// root, since nobody could manage them otherwise. It also gives the numbers of
// users and roles, and whether permissions are asked for.
func Differences(r Reader) (found []string, users, roles int, enabled bool, err error) {
	rules, err := Load(r)
	if err != nil {
		return nil, 0, 0, false, err
	}
	if rules.Enabled && !rules.HasRole(rootName, rootName) {
		found = append(found, fmt.Sprintf("permissions are asked for and user %s does not have the role %s", rootName, rootName))
	}
	return found, len(rules.userNames), len(rules.roleNames), rules.Enabled, nil
}
