package auth

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"testing"

	"go.etcd.io/etcd/api/v3/authpb"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"pgregory.net/rapid"

	"github.com/chainfire/cfseed/internal/state/envelope"
)

// rulesOf makes rules of one revision without a store.
func rulesOf(users []*authpb.User, roles ...*authpb.Role) *Rules {
	r := &Rules{Enabled: true, Revision: 5, users: map[string]*user{}, roles: map[string][]*authpb.Permission{}}
	for _, role := range roles {
		r.roles[string(role.GetName())] = role.GetKeyPermission()
	}
	for _, u := range users {
		r.users[string(u.GetName())] = r.newUser(u)
	}
	return r
}

var (
	who  = envelope.Client{Name: "u", Revision: 5}
	none = func(int64, func([]byte) error) error { return nil }
)

// keyspace are the keys of the model: every string of up to two letters of "abc",
// and those with a zero behind, in which ranges begin after a key.
func keyspace() (keys []string) {
	letters := []string{"", "a", "b", "c"}
	for _, x := range letters[1:] {
		for _, y := range letters {
			keys = append(keys, x+y, x+y+"\x00")
		}
	}
	return keys
}

func within(key, lo, end string) bool {
	switch end {
	case "":
		return key == lo
	case "\x00":
		return key >= lo
	}
	return key >= lo && key < end
}

// TestPermissionsAgainstModel compares merged ranges with a look at each key: a
// client may do to a range what it may do to every key in it. Whatever is missing
// begins where a range begins or ends, and all of those are looked at.
func TestPermissionsAgainstModel(t *testing.T) {
	keys := keyspace()
	asked := map[bool]int{}
	looked := []string{"d"}
	for _, k := range keys {
		looked = append(looked, k, k+"\x00")
	}
	rapid.Check(t, func(t *rapid.T) {
		key := rapid.SampledFrom(keys)
		end := rapid.SampledFrom(append([]string{"", "\x00", "d"}, keys...))
		draw := func(what string) (lo, hi string) {
			for {
				lo, hi = key.Draw(t, what), end.Draw(t, what+" end")
				if validRange([]byte(lo), []byte(hi)) {
					return lo, hi
				}
			}
		}
		var roles []*authpb.Role
		var names []string
		for i := range rapid.IntRange(0, 3).Draw(t, "roles") {
			role := &authpb.Role{Name: fmt.Appendf(nil, "r%d", i)}
			for range rapid.IntRange(0, 4).Draw(t, "permissions") {
				lo, hi := draw("permission")
				role.KeyPermission = append(role.KeyPermission, perm(authpb.Permission_Type(rapid.IntRange(0, 3).Draw(t, "type")), lo, hi))
			}
			roles, names = append(roles, role), append(names, string(role.GetName()))
		}
		r := rulesOf([]*authpb.User{{Name: []byte("u"), Roles: names}}, roles...)
		allowed := func(key string, want authpb.Permission_Type) bool {
			for _, role := range roles {
				for _, p := range role.GetKeyPermission() {
					if (p.GetPermType() == want || p.GetPermType() == authpb.Permission_READWRITE) && within(key, string(p.GetKey()), string(p.GetRangeEnd())) {
						return true
					}
				}
			}
			return false
		}
		lo, hi := draw("asked")
		for want, may := range map[authpb.Permission_Type]func(envelope.Client, []byte, []byte) error{
			authpb.Permission_READ: r.MayRead, authpb.Permission_WRITE: r.MayWrite} {
			all := true
			for _, k := range looked {
				all = all && (!within(k, lo, hi) || allowed(k, want))
			}
			err := may(who, []byte(lo), []byte(hi))
			if all != (err == nil) || err != nil && !errors.Is(err, rpctypes.ErrGRPCPermissionDenied) {
				t.Fatalf("%s of %q to %q: %v, by key %v; roles %v", want, lo, hi, err, all, roles)
			}
			asked[all]++
		}
	})
	if asked[true] == 0 || asked[false] == 0 {
		t.Error("the model meets one answer only:", asked)
	}
}

// Merged ranges are disjoint, in order, and do not touch.
func TestMerge(t *testing.T) {
	in := []span{spanOf([]byte("c"), []byte("d")), spanOf([]byte("a"), nil), spanOf([]byte("a\x00"), []byte("b")), spanOf([]byte("ab"), []byte("ac")),
		spanOf([]byte("e"), []byte("\x00")), spanOf([]byte("f"), nil)}
	got := fmt.Sprintf("%q", merge(in))
	if want := fmt.Sprintf("%q", []span{{[]byte("a"), []byte("b")}, {[]byte("c"), []byte("d")}, {[]byte("e"), nil}}); got != want {
		t.Errorf("%s, want %s", got, want)
	}
	whole := spans{{lo: []byte("a"), hi: []byte("m")}}
	for _, c := range []struct {
		key, end string
		want     bool
	}{{"b", "c", true}, {"a", "m", true}, {"a", "m\x00", false}, {"A", "c", false}, {"b", "\x00", false}, {"c", "b", true}, {"n", "b", false}, {"c", "A", true}, {"A", "b", false}} {
		if got := whole.contain(spanOf([]byte(c.key), []byte(c.end))); got != c.want {
			t.Errorf("a to m has %q to %q: %v", c.key, c.end, got)
		}
	}
}

func TestRefusals(t *testing.T) {
	r := rulesOf([]*authpb.User{{Name: []byte("root"), Roles: []string{"root"}}, {Name: []byte("u"), Roles: []string{"gone", "r"}}},
		&authpb.Role{Name: []byte("r"), KeyPermission: []*authpb.Permission{perm(authpb.Permission_READWRITE, "k", "")}})
	root := envelope.Client{Name: "root", Revision: 5}
	old := envelope.Client{Name: "root", Revision: 4}
	for name, c := range map[string]struct{ got, want error }{
		"a user's key":             {r.MayWrite(who, []byte("k"), nil), nil},
		"another key":              {r.MayWrite(who, []byte("l"), nil), rpctypes.ErrGRPCPermissionDenied},
		"root's any key":           {r.MayRead(root, []byte("x"), []byte("\x00")), nil},
		"an old revision":          {r.MayRead(old, []byte("x"), nil), rpctypes.ErrGRPCAuthOldRevision},
		"a later revision":         {r.MayRead(envelope.Client{Name: "u", Revision: 6}, []byte("k"), nil), nil},
		"nobody":                   {r.MayRead(envelope.Client{}, []byte("k"), nil), rpctypes.ErrGRPCUserEmpty},
		"a user that is gone":      {r.MayRead(envelope.Client{Name: "x", Revision: 5}, []byte("k"), nil), rpctypes.ErrGRPCPermissionDenied},
		"admin":                    {r.Admin(root), nil},
		"admin, known earlier":     {r.Admin(old), nil},
		"admin: a user":            {r.Admin(who), rpctypes.ErrGRPCPermissionDenied},
		"admin: nobody":            {r.Admin(envelope.Client{}), rpctypes.ErrGRPCUserEmpty},
		"admin: gone":              {r.Admin(envelope.Client{Name: "x"}), rpctypes.ErrGRPCUserNotFound},
		"known: nobody":            {r.Known(envelope.Client{}), rpctypes.ErrGRPCUserEmpty},
		"known: a user":            {r.Known(who), nil},
		"known: without a name":    {r.Known(envelope.Client{Revision: 5}), nil},
		"nothing asked, no client": {(&Rules{}).MayWrite(envelope.Client{}, []byte("k"), nil), nil},
		"nothing asked, admin":     {(&Rules{}).Admin(envelope.Client{}), nil},
	} {
		if !errors.Is(c.got, c.want) {
			t.Errorf("%s: %v, want %v", name, c.got, c.want)
		}
	}
	if hash, found := r.Password("x"); found || hash != nil {
		t.Error("a user that there is not has a password")
	}
}

// TestRequests: what of a request needs which permission.
func TestRequests(t *testing.T) {
	r := rulesOf([]*authpb.User{{Name: []byte("u"), Roles: []string{"r"}}}, &authpb.Role{Name: []byte("r"), KeyPermission: []*authpb.Permission{
		perm(authpb.Permission_READ, "r", ""), perm(authpb.Permission_WRITE, "w", ""), perm(authpb.Permission_READWRITE, "x", "")}})
	lease := keysOf(map[int64][]string{1: {"w", "x"}, 2: {"w", "r"}})
	put := func(key string, prev bool, lease int64) *pb.PutRequest {
		return &pb.PutRequest{Key: []byte(key), PrevKv: prev, Lease: lease}
	}
	del := func(key string, prev bool) *pb.DeleteRangeRequest {
		return &pb.DeleteRangeRequest{Key: []byte(key), PrevKv: prev}
	}
	op := func(r any) []*pb.RequestOp {
		switch r := r.(type) {
		case *pb.PutRequest:
			return []*pb.RequestOp{{Request: &pb.RequestOp_RequestPut{RequestPut: r}}}
		case *pb.DeleteRangeRequest:
			return []*pb.RequestOp{{Request: &pb.RequestOp_RequestDeleteRange{RequestDeleteRange: r}}}
		case *pb.TxnRequest:
			return []*pb.RequestOp{{Request: &pb.RequestOp_RequestTxn{RequestTxn: r}}}
		}
		return []*pb.RequestOp{{Request: &pb.RequestOp_RequestRange{RequestRange: &pb.RangeRequest{Key: []byte(r.(string))}}}}
	}
	txn := func(cmp string, then, otherwise []*pb.RequestOp) *pb.TxnRequest {
		return &pb.TxnRequest{Compare: []*pb.Compare{{Key: []byte(cmp)}}, Success: then, Failure: otherwise}
	}
	check := func(r *Rules, req any) error {
		switch req := req.(type) {
		case *pb.PutRequest:
			return r.CheckPut(who, req, lease)
		case *pb.DeleteRangeRequest:
			return r.CheckDeleteRange(who, req, lease)
		}
		return r.CheckTxn(who, req.(*pb.TxnRequest), lease)
	}
	for name, c := range map[string]struct {
		req any
		may bool
	}{
		"put": {put("w", false, 0), true}, "put what may only be read": {put("r", false, 0), false},
		"put and see": {put("x", true, 0), true}, "put and see what may not be read": {put("w", true, 0), false},
		"put to a lease of own keys": {put("w", false, 1), true}, "put to a lease of others' keys": {put("w", false, 2), false},
		"put to no lease there is": {put("w", false, 9), true},
		"delete":                   {del("w", false), true}, "delete what may only be read": {del("r", false), false},
		"delete and see": {del("x", true), true}, "delete and see what may not be read": {del("w", true), false},
		"compare":                       {txn("r", nil, nil), true},
		"compare what may not be read":  {txn("w", nil, nil), false},
		"both branches":                 {txn("r", op(put("w", false, 0)), op(del("x", true))), true},
		"a branch that is not taken":    {txn("r", nil, op(put("r", false, 0))), false},
		"a range":                       {txn("r", op("r"), nil), true},
		"a range of what is not read":   {txn("r", op("w"), nil), false},
		"nested":                        {txn("r", op(txn("x", op("r"), nil)), nil), true},
		"nested, its comparison":        {txn("r", op(txn("w", nil, nil)), nil), false},
		"nested, what it puts":          {txn("r", op(txn("r", nil, op(put("r", false, 0)))), nil), false},
		"nested, what it wants to see":  {txn("r", op(txn("r", op(put("w", true, 0)), nil)), nil), false},
		"nested, the lease it puts to":  {txn("r", op(txn("r", op(put("w", false, 2)), nil)), nil), false},
		"nested, what its delete wants": {txn("r", op(txn("r", op(del("w", true)), nil)), nil), false},
	} {
		if err := check(r, c.req); c.may != (err == nil) || err != nil && !errors.Is(err, rpctypes.ErrGRPCPermissionDenied) {
			t.Errorf("%s: %v", name, err)
		}
		if err := check(&Rules{Revision: 9}, c.req); err != nil {
			t.Errorf("%s, nothing asked: %v", name, err)
		}
	}
	if err := r.CheckLeaseKeys(who, 2, lease); !errors.Is(err, rpctypes.ErrGRPCPermissionDenied) {
		t.Error("keys that may not be read:", err)
	}
	broken := errors.New("broken")
	if err := r.CheckLease(who, 1, func(int64, func([]byte) error) error { return broken }); !errors.Is(err, broken) {
		t.Error("a lease that can not be read:", err)
	}
	if err := r.CheckLease(who, 3, none); err != nil {
		t.Error("a lease that there is not:", err)
	}
}

func keysOf(leases map[int64][]string) KeysOf {
	return func(id int64, fn func([]byte) error) error {
		for _, key := range leases[id] {
			if err := fn([]byte(key)); err != nil {
				return err
			}
		}
		return nil
	}
}

// A transaction looks at the keys of a lease once, however often it puts to it, and
// at none after one that the client may not write.
func TestTxnLooksAtALeaseOnce(t *testing.T) {
	r := rulesOf([]*authpb.User{{Name: []byte("u"), Roles: []string{"r"}}}, &authpb.Role{Name: []byte("r"), KeyPermission: []*authpb.Permission{
		perm(authpb.Permission_WRITE, "a", "b")}})
	all := keysOf(map[int64][]string{1: {"a", "aa"}, 2: {"ab"}, 3: {"ac", "other", "ad"}})
	var looked []string
	counted := func(id int64, fn func([]byte) error) error {
		looked = append(looked, strconv.FormatInt(id, 10))
		return all(id, func(key []byte) error { looked = append(looked, string(key)); return fn(key) })
	}
	puts := func(lease int64) (ops []*pb.RequestOp) {
		for i := range 100 {
			ops = append(ops, &pb.RequestOp{Request: &pb.RequestOp_RequestPut{RequestPut: &pb.PutRequest{Key: fmt.Appendf(nil, "a%d", i), Lease: lease}}})
		}
		return ops
	}
	nested := func(req *pb.TxnRequest) *pb.RequestOp {
		return &pb.RequestOp{Request: &pb.RequestOp_RequestTxn{RequestTxn: req}}
	}
	txn := &pb.TxnRequest{Success: append(puts(1), nested(&pb.TxnRequest{Success: puts(1), Failure: puts(2)})), Failure: puts(2)}
	for range 2 { // nothing is remembered from one transaction to the next
		looked = nil
		if err := r.CheckTxn(who, txn, counted); err != nil || !slices.Equal(looked, []string{"1", "a", "aa", "2", "ab"}) {
			t.Errorf("%v, looked at %q", err, looked)
		}
	}
	looked = nil
	txn.Failure = append(puts(3), puts(1)...)
	if err := r.CheckTxn(who, txn, counted); !errors.Is(err, rpctypes.ErrGRPCPermissionDenied) ||
		!slices.Equal(looked, []string{"1", "a", "aa", "2", "ab", "3", "ac", "other"}) {
		t.Errorf("a key that may not be written: %v, looked at %q", err, looked)
	}
}

func TestSpanOfDoesNotShare(t *testing.T) {
	key := append(make([]byte, 0, 8), 'k')
	a, b := spanOf(key, nil), spanOf(key, nil)
	if a.hi[0] = 'x'; !bytes.Equal(b.hi, []byte("k\x00")) || string(key) != "k" {
		t.Errorf("%q %q", b.hi, key)
	}
}
