package auth

import (
	"slices"

	"go.etcd.io/etcd/api/v3/authpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"

	"github.com/chainfire/cfseed/internal/state/envelope"
)

// Rules are the users and roles as of one applied entry. They never change and
// may be asked from any goroutine; what they give is not to be changed.
type Rules struct {
	Enabled  bool
	Revision uint64 // from 1

	users     map[string]*user
	roles     map[string][]*authpb.Permission
	userNames []string // ascending
	roleNames []string // ascending
}

// user is a user with what its roles allow.
type user struct {
	roles       []string // ascending
	hash        []byte
	noPassword  bool
	root        bool
	read, write spans
}

// Load reads the rules from one view of the tables.
func Load(r Reader) (*Rules, error) {
	s, err := readSettings(r)
	if err != nil {
		return nil, err
	}
	users, err := allUsers(r)
	if err != nil {
		return nil, err
	}
	roles, err := allRoles(r)
	if err != nil {
		return nil, err
	}
	out := &Rules{Enabled: s.enabled, Revision: s.revision, users: make(map[string]*user, len(users)),
		roles: make(map[string][]*authpb.Permission, len(roles))}
	for _, role := range roles {
		out.roles[string(role.GetName())] = role.GetKeyPermission()
		out.roleNames = append(out.roleNames, string(role.GetName()))
	}
	for _, u := range users {
		out.users[string(u.GetName())] = out.newUser(u)
		out.userNames = append(out.userNames, string(u.GetName()))
	}
	return out, nil
}

// newUser merges what the user's roles allow. A role that there is not, as root
// need not be, allows nothing here.
func (r *Rules) newUser(rec *authpb.User) *user {
	u := &user{roles: rec.GetRoles(), hash: rec.GetPassword(), noPassword: rec.GetOptions().GetNoPassword()}
	var read, write []span
	for _, role := range u.roles {
		u.root = u.root || role == rootName
		for _, p := range r.roles[role] {
			s := spanOf(p.GetKey(), p.GetRangeEnd())
			switch p.GetPermType() {
			case authpb.Permission_READ:
				read = append(read, s)
			case authpb.Permission_WRITE:
				write = append(write, s)
			case authpb.Permission_READWRITE:
				read, write = append(read, s), append(write, s)
			}
		}
	}
	u.read, u.write = merge(read), merge(write)
	return u
}

// Users and Roles give all names in order.
func (r *Rules) Users() []string { return r.userNames }

// Roles gives the names of all roles in order.
func (r *Rules) Roles() []string { return r.roleNames }

// User gives the roles of a user.
func (r *Rules) User(name string) (roles []string, found bool) {
	u := r.users[name]
	if u == nil {
		return nil, false
	}
	return u.roles, true
}

// Role gives the permissions of a role; of root, etcd's word for everything.
func (r *Rules) Role(name string) (perms []*authpb.Permission, found bool) {
	perms, found = r.roles[name]
	if found && name == rootName {
		perms = []*authpb.Permission{{PermType: authpb.Permission_READWRITE, Key: []byte{}, RangeEnd: []byte{0}}}
	}
	return perms, found
}

// HasRole reports whether a user has a role.
func (r *Rules) HasRole(name, role string) bool {
	u := r.users[name]
	return u != nil && slices.Contains(u.roles, role)
}

// Password gives the hash of a user's password; none when there is no such user
// or it has no password.
func (r *Rules) Password(name string) (hash []byte, found bool) {
	u := r.users[name]
	if u == nil || u.noPassword {
		return nil, false
	}
	return u.hash, true
}

// Known refuses nobody while permissions are asked for.
func (r *Rules) Known(c envelope.Client) error {
	if r.Enabled && c == (envelope.Client{}) {
		return rpctypes.ErrGRPCUserEmpty
	}
	return nil
}

// Admin refuses who does not have the role root. As in etcd, it does not matter
// at which revision the client was known.
func (r *Rules) Admin(c envelope.Client) error {
	if !r.Enabled {
		return nil
	}
	if c.Name == "" {
		return rpctypes.ErrGRPCUserEmpty
	}
	u := r.users[c.Name]
	switch {
	case u == nil:
		return rpctypes.ErrGRPCUserNotFound
	case !u.root:
		return rpctypes.ErrGRPCPermissionDenied
	}
	return nil
}

// Current refuses a client that was known before the last change of users and
// roles: its permissions, or its being who it says, may be of then.
func (r *Rules) Current(c envelope.Client) error {
	switch {
	case !r.Enabled:
		return nil
	case c.Revision == 0:
		return rpctypes.ErrGRPCUserEmpty
	case c.Revision < r.Revision:
		return rpctypes.ErrGRPCAuthOldRevision
	}
	return nil
}

// MayRead refuses a client that may not read all of a range.
func (r *Rules) MayRead(c envelope.Client, key, end []byte) error {
	return r.may(c, key, end, func(u *user) spans { return u.read })
}

// MayWrite refuses a client that may not write all of a range.
func (r *Rules) MayWrite(c envelope.Client, key, end []byte) error {
	return r.may(c, key, end, func(u *user) spans { return u.write })
}

func (r *Rules) may(c envelope.Client, key, end []byte, granted func(*user) spans) error {
	if !r.Enabled {
		return nil
	}
	if err := r.Current(c); err != nil {
		return err
	}
	u := r.users[c.Name]
	if u == nil || !u.root && !granted(u).contain(spanOf(key, end)) {
		return rpctypes.ErrGRPCPermissionDenied
	}
	return nil
}
