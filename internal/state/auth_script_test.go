package state_test

import (
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/cockroachdb/datadriven"
	"github.com/cockroachdb/pebble/v2/vfs"
	"go.etcd.io/etcd/api/v3/authpb"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/protobuf/proto"

	"github.com/chainfire/cfseed/internal/state"
	"github.com/chainfire/cfseed/internal/state/envelope"
)

// TestAuth reads testdata/auth: what entries do to users and roles, and what they
// may do. Each line of a command is an entry:
//
//	enable | disable
//	user add <name> [<password>]       without a password the user has none
//	user delete|passwd|grant|revoke <name> [<password> or <role>]
//	role add|delete <name>
//	role grant <name> read|write|readwrite <key> [<end>]
//	role revoke <name> <key> [<end>]
//	token <name> <sum>
//	put <key> [lease=<n>] [prev]
//	delete <key> [<end>] [prev]
//	txn [if <key>] [get <key>] [put <key>]
//	compact <revision>
//	lease grant|revoke <id>
//
// The argument of the command is the client: as=<user> with the present revision,
// as=<user>@<revision>, as=nobody; without it the entry is the cluster's own. An end
// of \0 is no end. The commands rules and restart are no entries.
func TestAuth(t *testing.T) {
	datadriven.Walk(t, "testdata/auth", func(t *testing.T, path string) {
		f := open(t, vfs.NewMem())
		datadriven.RunTest(t, path, func(t *testing.T, d *datadriven.TestData) string {
			f.TB = t
			switch d.Cmd {
			case "rules":
				return f.rulesText()
			case "restart":
				f.close()
				f.load()
				return f.rulesText()
			}
			var out strings.Builder
			for line := range strings.Lines(d.Input) {
				out.WriteString(f.authLine(d, strings.Fields(line)))
			}
			return out.String()
		})
	})
}

func (f *fixture) rulesText() string {
	var out strings.Builder
	r := f.m.Auth()
	fmt.Fprintf(&out, "enabled %v, revision %d\n", r.Enabled, r.Revision)
	for _, name := range r.Users() {
		roles, _ := r.User(name)
		hash, has := r.Password(name)
		fmt.Fprintf(&out, "user %s: roles %q, password %q %v\n", name, roles, hash, has)
	}
	for _, name := range r.Roles() {
		perms, _ := r.Role(name)
		fmt.Fprintf(&out, "role %s:", name)
		for _, p := range perms {
			fmt.Fprintf(&out, " %s %q %q", p.GetPermType(), p.GetKey(), p.GetRangeEnd())
		}
		out.WriteString("\n")
	}
	return out.String()
}

// client reads the argument as.
func (f *fixture) client(d *datadriven.TestData) *envelope.Client {
	if !d.HasArg("as") {
		return nil
	}
	var as string
	d.ScanArgs(f, "as", &as)
	if as == "nobody" {
		return &envelope.Client{}
	}
	c := &envelope.Client{Name: as, Revision: f.m.Auth().Revision}
	if name, rev, ok := strings.Cut(as, "@"); ok {
		c.Name = name
		if _, err := fmt.Sscan(rev, &c.Revision); err != nil {
			f.Fatal(err)
		}
	}
	return c
}

func (f *fixture) authLine(d *datadriven.TestData, words []string) string {
	f.Helper()
	kind, body := authEntry(words)
	if body == nil {
		d.Fatalf(f, "what is %q", words)
	}
	b, err := proto.Marshal(body)
	if err != nil {
		f.Fatal(err)
	}
	before := f.m.Auth()
	e := envelope.Envelope{Kind: kind, RequestID: 7, Client: f.client(d), Body: b}
	res, err := f.m.Apply(state.Entry{Index: f.m.Applied().Index + 1, Term: 1, Data: e.Append(nil)})
	if err != nil {
		f.Fatal(err)
	}
	if res.Kind != kind {
		f.Fatalf("%s is said to be a %s", kind, res.Kind)
	}
	if res.Err != nil {
		if f.m.Auth() != before || res.Tokens != nil {
			f.Fatal("what was refused changed the rules")
		}
		return "refused: " + rpctypes.ErrorDesc(res.Err) + "\n"
	}
	out := fmt.Sprintf("ok, revision %d", f.m.Auth().Revision)
	if c := res.Tokens; c != nil {
		out += fmt.Sprintf("; tokens of %q, sum %x", c.User, c.Sum)
	}
	return out + "\n"
}

// authEntry makes the entry of a line; nil of what it does not know.
func authEntry(words []string) (envelope.Kind, proto.Message) {
	word := func(i int) string {
		if i < len(words) {
			return strings.ReplaceAll(words[i], `\0`, "\x00")
		}
		return ""
	}
	switch two := word(0) + " " + word(1); two {
	case "user add":
		r := &pb.AuthUserAddRequest{Name: word(2), HashedPassword: base64.StdEncoding.EncodeToString([]byte(word(3)))}
		if word(3) == "" {
			r.Options = &authpb.UserAddOptions{NoPassword: true}
		}
		return envelope.UserAdd, r
	case "user delete":
		return envelope.UserDelete, &pb.AuthUserDeleteRequest{Name: word(2)}
	case "user passwd":
		return envelope.UserChangePassword, &pb.AuthUserChangePasswordRequest{Name: word(2), HashedPassword: base64.StdEncoding.EncodeToString([]byte(word(3)))}
	case "user badhash":
		return envelope.UserChangePassword, &pb.AuthUserChangePasswordRequest{Name: word(2), HashedPassword: "!"}
	case "user grant":
		return envelope.UserGrantRole, &pb.AuthUserGrantRoleRequest{User: word(2), Role: word(3)}
	case "user revoke":
		return envelope.UserRevokeRole, &pb.AuthUserRevokeRoleRequest{Name: word(2), Role: word(3)}
	case "role add":
		return envelope.RoleAdd, &pb.AuthRoleAddRequest{Name: word(2)}
	case "role delete":
		return envelope.RoleDelete, &pb.AuthRoleDeleteRequest{Role: word(2)}
	case "role grant":
		r := &pb.AuthRoleGrantPermissionRequest{Name: word(2)}
		if typ, ok := authpb.Permission_Type_value[strings.ToUpper(word(3))]; ok {
			r.Perm = &authpb.Permission{PermType: authpb.Permission_Type(typ), Key: []byte(word(4)), RangeEnd: []byte(word(5))}
		}
		return envelope.RoleGrantPermission, r
	case "role revoke":
		return envelope.RoleRevokePermission, &pb.AuthRoleRevokePermissionRequest{Role: word(2), Key: []byte(word(3)), RangeEnd: []byte(word(4))}
	case "lease grant":
		r := &pb.LeaseGrantRequest{TTL: 60}
		_, _ = fmt.Sscan(word(2), &r.ID)
		return envelope.LeaseGrant, r
	case "lease revoke":
		r := &pb.LeaseRevokeRequest{}
		_, _ = fmt.Sscan(word(2), &r.ID)
		return envelope.LeaseRevoke, r
	}
	prev := slices.Contains(words, "prev")
	switch word(0) {
	case "enable":
		return envelope.AuthEnable, &pb.AuthEnableRequest{}
	case "disable":
		return envelope.AuthDisable, &pb.AuthDisableRequest{}
	case "token":
		sum := hex.EncodeToString([]byte(strings.Repeat(word(2), 32)))
		return envelope.Authenticate, &pb.InternalAuthenticateRequest{Name: word(1), SimpleToken: sum}
	case "put":
		r := put(word(1), "v")
		r.PrevKv = prev
		if id, ok := strings.CutPrefix(word(2), "lease="); ok {
			_, _ = fmt.Sscan(id, &r.Lease)
		}
		return envelope.Put, r
	case "delete":
		r := &pb.DeleteRangeRequest{Key: []byte(word(1)), PrevKv: prev}
		if word(2) != "prev" {
			r.RangeEnd = []byte(word(2))
		}
		return envelope.DeleteRange, r
	case "compact":
		r := &pb.CompactionRequest{}
		_, _ = fmt.Sscan(word(1), &r.Revision)
		return envelope.Compact, r
	case "txn":
		r := &pb.TxnRequest{}
		for i := 1; i+1 < len(words); i += 2 {
			switch key := []byte(word(i + 1)); words[i] {
			case "if":
				r.Compare = append(r.Compare, &pb.Compare{Key: key, Target: pb.Compare_VERSION, TargetUnion: &pb.Compare_Version{}})
			case "get":
				r.Success = append(r.Success, &pb.RequestOp{Request: &pb.RequestOp_RequestRange{RequestRange: &pb.RangeRequest{Key: key}}})
			case "put":
				r.Success = append(r.Success, &pb.RequestOp{Request: &pb.RequestOp_RequestPut{RequestPut: put(string(key), "v")}})
			}
		}
		return envelope.Txn, r
	}
	return 0, nil
}
