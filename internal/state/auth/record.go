package auth

import (
	"bytes"
	"encoding/binary"
	"fmt"

	"go.etcd.io/etcd/api/v3/authpb"
	"google.golang.org/protobuf/proto"

	"github.com/chainfire/cfseed/internal/fault"
	"github.com/chainfire/cfseed/internal/state/envelope"
	"github.com/chainfire/cfseed/internal/state/store"
)

// Keys of the AuthMeta table and the value of the first. Part of the format.
const (
	enabledKey  = "enabled"
	revisionKey = "revision"
	enabledFlag = 0x01
)

// firstRevision is that of a cluster whose users and roles never changed; etcd's.
const firstRevision = 1

func encode(m proto.Message) ([]byte, error) {
	b, err := proto.MarshalOptions{Deterministic: true}.Marshal(m)
	if err != nil {
		return nil, fmt.Errorf("encode %T: %w", m, err)
	}
	return b, nil
}

// decodeUser reads a row of the AuthUsers table.
func decodeUser(key, value []byte) (*authpb.User, error) {
	u := &authpb.User{}
	if err := proto.Unmarshal(value, u); err != nil {
		return nil, err
	}
	switch {
	case len(key) == 0 || len(key) > envelope.MaxName || !bytes.Equal(key, u.GetName()):
		return nil, fmt.Errorf("user %q stands under key %q", u.GetName(), key)
	case !ascending(u.GetRoles()):
		return nil, fmt.Errorf("roles %q of user %q are out of order", u.GetRoles(), key)
	case u.Options != nil && !u.Options.GetNoPassword():
		return nil, fmt.Errorf("user %q has options that say nothing", key)
	}
	return u, nil
}

// decodeRole reads a row of the AuthRoles table.
func decodeRole(key, value []byte) (*authpb.Role, error) {
	r := &authpb.Role{}
	if err := proto.Unmarshal(value, r); err != nil {
		return nil, err
	}
	if len(key) == 0 || !bytes.Equal(key, r.GetName()) {
		return nil, fmt.Errorf("role %q stands under key %q", r.GetName(), key)
	}
	for i, p := range r.GetKeyPermission() {
		if !validRange(p.GetKey(), p.GetRangeEnd()) {
			return nil, fmt.Errorf("role %q has a permission on %q to %q", key, p.GetKey(), p.GetRangeEnd())
		}
		if i > 0 && comparePermissions(r.GetKeyPermission()[i-1], p) >= 0 {
			return nil, fmt.Errorf("permissions of role %q are out of order", key)
		}
	}
	return r, nil
}

func ascending(names []string) bool {
	for i := 1; i < len(names); i++ {
		if names[i-1] >= names[i] {
			return false
		}
	}
	return true
}

func comparePermissions(a, b *authpb.Permission) int {
	if c := bytes.Compare(a.GetKey(), b.GetKey()); c != 0 {
		return c
	}
	return bytes.Compare(a.GetRangeEnd(), b.GetRangeEnd())
}

func encodeRevision(rev uint64) []byte { return binary.BigEndian.AppendUint64(nil, rev) }

// decodeMeta reads a row of the AuthMeta table into s.
func decodeMeta(key, value []byte, s *settings) error {
	switch string(key) {
	case enabledKey:
		if len(value) != 1 || value[0] != enabledFlag {
			return fmt.Errorf("value %x", value)
		}
		s.enabled = true
	case revisionKey:
		if len(value) != 8 {
			return fmt.Errorf("value of %d bytes", len(value))
		}
		if s.revision = binary.BigEndian.Uint64(value); s.revision <= firstRevision {
			return fmt.Errorf("revision %d", s.revision)
		}
	default:
		return fmt.Errorf("unknown setting")
	}
	return nil
}

func damaged(t store.Table, key []byte, err error) error {
	return fault.Newf(fault.Corrupt, "read users and roles", "row %x of table %s: %w", key, t, err)
}
