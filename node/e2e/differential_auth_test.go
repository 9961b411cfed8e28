//go:build e2e

package e2e

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"go.etcd.io/etcd/api/v3/authpb"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
)

// TestDifferentialAuth tells an etcd and one of ours the same of users, roles and
// permissions, at random, and lets the users try keys and leases: every answer is
// compared.
func TestDifferentialAuth(t *testing.T) {
	binary := buildEtcd(t)
	c := NewCluster(t, "--bcrypt-cost", "4")
	ours := newTokenSide(t, c.Start("ours").Client)
	etcd := newTokenSide(t, startEtcd(c, binary, "--bcrypt-cost", "4"))
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	d := authDraw{rand.New(rand.NewPCG(seed, 0))}
	heard := map[string]int{}
	for i := range 3000 {
		if i%150 == 0 {
			ours.begin()
			etcd.begin()
		}
		as, method, req, resp := d.next()
		if as == "stale" && i%20 == 0 { // a token that will be void sooner or later
			ours.tokens[as], etcd.tokens[as] = ours.tokens["ada"], etcd.tokens["ada"]
		}
		want, got := etcd.do(t, as, method, req, proto.CloneOf(resp)), ours.do(t, as, method, req, resp)
		if got != want {
			t.Errorf("%d: %s as %s %v:\nours %s\netcd %s", i, method, as, req, got, want)
		}
		if word, _, failed := strings.Cut(want, "!"); failed {
			heard[word]++
		} else {
			heard["answered"]++
		}
		if t.Failed() {
			break
		}
	}
	t.Log(heard)
	for _, want := range []error{rpctypes.ErrGRPCPermissionDenied, rpctypes.ErrGRPCInvalidAuthToken, rpctypes.ErrGRPCUserEmpty, rpctypes.ErrGRPCAuthFailed,
		rpctypes.ErrGRPCUserNotFound, rpctypes.ErrGRPCRoleNotFound, rpctypes.ErrGRPCInvalidAuthMgmt, rpctypes.ErrGRPCRoleAlreadyExist} {
		if heard[status.Convert(want).Message()] == 0 && !t.Failed() {
			t.Errorf("nobody heard %v", want)
		}
	}
	if heard["answered"] < 300 && !t.Failed() {
		t.Errorf("%d requests were answered", heard["answered"])
	}
}

// tokenSide is a server with the tokens of its users.
type tokenSide struct {
	conn   *grpc.ClientConn
	tokens map[string]string
}

// newTokenSide connects without etcd's client, which tries a token that is not known
// again and again.
func newTokenSide(t *testing.T, url string) *tokenSide {
	t.Helper()
	conn, err := grpc.NewClient("passthrough:///"+strings.TrimPrefix(url, "http://"), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := conn.Close(); err != nil {
			t.Error(err)
		}
	})
	return &tokenSide{conn: conn, tokens: map[string]string{}}
}

// do makes a call and gives the answer as it is compared: "word!" of a failure.
func (s *tokenSide) do(t *testing.T, as, method string, req, resp proto.Message) string {
	ctx, cancel := context.WithTimeout(t.Context(), answerPatience)
	defer cancel()
	if token := s.tokens[as]; token != "" {
		ctx = metadata.AppendToOutgoingContext(ctx, rpctypes.TokenFieldNameGRPC, token)
	}
	if err := s.conn.Invoke(ctx, "/etcdserverpb."+method, req, resp); err != nil {
		return fmt.Sprintf("%s! %s", status.Convert(err).Message(), status.Code(err))
	}
	switch r := resp.(type) {
	case *pb.AuthenticateResponse:
		s.tokens[req.(*pb.AuthenticateRequest).GetName()] = r.GetToken()
		r.Token = ""
	case *pb.LeaseLeasesResponse:
		slices.SortFunc(r.Leases, func(a, b *pb.LeaseStatus) int { return cmp.Compare(a.GetID(), b.GetID()) })
	case *pb.LeaseTimeToLiveResponse:
		slices.SortFunc(r.Keys, bytes.Compare)
		r.TTL = 0
	}
	if h, ok := resp.(interface{ GetHeader() *pb.ResponseHeader }); ok && h.GetHeader() != nil {
		h.GetHeader().ClusterId, h.GetHeader().MemberId, h.GetHeader().RaftTerm = 0, 0, 0
	}
	b, err := proto.MarshalOptions{Deterministic: true}.Marshal(resp)
	if err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("%x", b)
}

// begin makes users that may do something, and logs them in, whatever was before.
func (s *tokenSide) begin() {
	call := func(as, method string, req, resp proto.Message) {
		ctx, cancel := context.WithTimeout(context.Background(), answerPatience)
		defer cancel()
		if token := s.tokens[as]; token != "" {
			ctx = metadata.AppendToOutgoingContext(ctx, rpctypes.TokenFieldNameGRPC, token)
		}
		_ = s.conn.Invoke(ctx, "/etcdserverpb."+method, req, resp) // much of it may be there
		if r, ok := resp.(*pb.AuthenticateResponse); ok {
			s.tokens[req.(*pb.AuthenticateRequest).GetName()] = r.GetToken()
		}
	}
	call("root", "Auth/AuthDisable", &pb.AuthDisableRequest{}, &pb.AuthDisableResponse{})
	for name, role := range map[string]string{"root": "root", "ada": "r", "bob": "s"} {
		call("", "Auth/UserAdd", &pb.AuthUserAddRequest{Name: name, Password: "p"}, &pb.AuthUserAddResponse{})
		if role != "root" {
			call("", "Auth/RoleAdd", &pb.AuthRoleAddRequest{Name: role}, &pb.AuthRoleAddResponse{})
		}
		call("", "Auth/UserGrantRole", &pb.AuthUserGrantRoleRequest{User: name, Role: role}, &pb.AuthUserGrantRoleResponse{})
	}
	call("", "Auth/RoleGrantPermission", &pb.AuthRoleGrantPermissionRequest{Name: "r",
		Perm: &authpb.Permission{Key: []byte("a"), RangeEnd: []byte("c"), PermType: authpb.Permission_READWRITE}}, &pb.AuthRoleGrantPermissionResponse{})
	call("", "Auth/AuthEnable", &pb.AuthEnableRequest{}, &pb.AuthEnableResponse{})
	for _, name := range []string{"root", "ada", "bob"} {
		call("", "Auth/Authenticate", &pb.AuthenticateRequest{Name: name, Password: "p"}, &pb.AuthenticateResponse{})
	}
}

// authDraw draws requests, and who makes them.
type authDraw struct{ *rand.Rand }

func (d authDraw) of(words ...string) string { return words[d.IntN(len(words))] }
func (d authDraw) user() string              { return d.of("root", "ada", "bob", "ada", "bob", "carl", "") }
func (d authDraw) role() string              { return d.of("root", "r", "s", "r", "s", "t", "") }
func (d authDraw) lease() int64              { return int64(d.IntN(3)) + 1 }
func (d authDraw) password() string          { return d.of("p", "p", "q") }

// keys draws a range; one that ends before it begins may be judged otherwise by
// etcd, by the shape of a tree.
func (d authDraw) keys() (key, end []byte) {
	lo, hi := d.of("a", "b", "c", "d", "a\x00", "b\x00", "bb"), d.of("", "", "b", "c", "d", "e", "\x00")
	if hi != "" && hi != "\x00" && hi <= lo {
		hi = ""
	}
	return []byte(lo), []byte(hi)
}

// permission draws the range of a permission. There is one for each key: with two,
// etcd may take a new permission on the same range for another one and keep both.
func (d authDraw) permission() (key, end []byte) {
	key, _ = d.keys()
	return key, []byte(map[string]string{"a": "c", "c": "\x00", "d": "e", "b\x00": "d"}[string(key)])
}

func (d authDraw) next() (as, method string, req, resp proto.Message) {
	as = d.of("root", "root", "root", "ada", "ada", "bob", "nobody", "stale")
	if d.IntN(5) < 2 {
		method, req, resp = d.keyRequest()
		return as, method, req, resp
	}
	method, req, resp = d.authRequest()
	if method == "Auth/Authenticate" {
		as = "nobody"
	}
	return as, method, req, resp
}

func (d authDraw) authRequest() (string, proto.Message, proto.Message) {
	switch d.IntN(22) {
	case 0, 1:
		return "Auth/AuthEnable", &pb.AuthEnableRequest{}, &pb.AuthEnableResponse{}
	case 2:
		if d.IntN(4) == 0 {
			return "Auth/AuthDisable", &pb.AuthDisableRequest{}, &pb.AuthDisableResponse{}
		}
		return "Auth/AuthStatus", &pb.AuthStatusRequest{}, &pb.AuthStatusResponse{}
	case 3, 4, 5:
		return "Auth/Authenticate", &pb.AuthenticateRequest{Name: d.of("root", "ada", "bob", ""), Password: d.password()}, &pb.AuthenticateResponse{}
	case 6:
		r := &pb.AuthUserAddRequest{Name: d.user(), Password: d.password()}
		if r.GetName() == "carl" {
			r.Options = &authpb.UserAddOptions{NoPassword: d.IntN(2) == 0}
		}
		return "Auth/UserAdd", r, &pb.AuthUserAddResponse{}
	case 7:
		return "Auth/UserDelete", &pb.AuthUserDeleteRequest{Name: d.user()}, &pb.AuthUserDeleteResponse{}
	case 8:
		return "Auth/UserChangePassword", &pb.AuthUserChangePasswordRequest{Name: d.user(), Password: d.password()}, &pb.AuthUserChangePasswordResponse{}
	case 9, 10:
		return "Auth/UserGrantRole", &pb.AuthUserGrantRoleRequest{User: d.user(), Role: d.role()}, &pb.AuthUserGrantRoleResponse{}
	case 11:
		return "Auth/UserRevokeRole", &pb.AuthUserRevokeRoleRequest{Name: d.user(), Role: d.role()}, &pb.AuthUserRevokeRoleResponse{}
	case 12:
		return "Auth/UserGet", &pb.AuthUserGetRequest{Name: d.user()}, &pb.AuthUserGetResponse{}
	case 13:
		return "Auth/UserList", &pb.AuthUserListRequest{}, &pb.AuthUserListResponse{}
	case 14:
		return "Auth/RoleAdd", &pb.AuthRoleAddRequest{Name: d.role()}, &pb.AuthRoleAddResponse{}
	case 15:
		return "Auth/RoleDelete", &pb.AuthRoleDeleteRequest{Role: d.role()}, &pb.AuthRoleDeleteResponse{}
	case 16:
		return "Auth/RoleGet", &pb.AuthRoleGetRequest{Role: d.role()}, &pb.AuthRoleGetResponse{}
	case 17:
		return "Auth/RoleList", &pb.AuthRoleListRequest{}, &pb.AuthRoleListResponse{}
	case 18:
		key, end := d.permission()
		return "Auth/RoleRevokePermission", &pb.AuthRoleRevokePermissionRequest{Role: d.role(), Key: key, RangeEnd: end}, &pb.AuthRoleRevokePermissionResponse{}
	}
	r := &pb.AuthRoleGrantPermissionRequest{Name: d.role()}
	if d.IntN(20) > 0 {
		key, end := d.permission()
		if d.IntN(10) == 0 {
			key, end = []byte("x"), key // ends before it begins
		}
		r.Perm = &authpb.Permission{Key: key, RangeEnd: end, PermType: authpb.Permission_Type(d.IntN(3))}
	}
	return "Auth/RoleGrantPermission", r, &pb.AuthRoleGrantPermissionResponse{}
}

func (d authDraw) keyRequest() (string, proto.Message, proto.Message) {
	key, end := d.keys()
	switch d.IntN(12) {
	case 0, 1:
		return "KV/Range", &pb.RangeRequest{Key: key, RangeEnd: end, Serializable: d.IntN(2) == 0}, &pb.RangeResponse{}
	case 2:
		return "KV/DeleteRange", &pb.DeleteRangeRequest{Key: key, RangeEnd: end, PrevKv: d.IntN(3) == 0}, &pb.DeleteRangeResponse{}
	case 3, 4, 5:
		r := &pb.TxnRequest{Success: []*pb.RequestOp{d.operation(2)}}
		if d.IntN(2) == 0 {
			r.Compare = []*pb.Compare{{Key: key, RangeEnd: end}}
		}
		if d.IntN(2) == 0 {
			r.Failure = []*pb.RequestOp{d.operation(2)}
		}
		return "KV/Txn", r, &pb.TxnResponse{}
	case 6:
		return "Lease/LeaseGrant", &pb.LeaseGrantRequest{ID: d.lease(), TTL: 3600}, &pb.LeaseGrantResponse{}
	case 7:
		return "Lease/LeaseRevoke", &pb.LeaseRevokeRequest{ID: d.lease()}, &pb.LeaseRevokeResponse{}
	case 8:
		return "Lease/LeaseTimeToLive", &pb.LeaseTimeToLiveRequest{ID: d.lease(), Keys: d.IntN(2) == 0}, &pb.LeaseTimeToLiveResponse{}
	case 9:
		switch d.IntN(4) {
		case 0:
			return "Lease/LeaseLeases", &pb.LeaseLeasesRequest{}, &pb.LeaseLeasesResponse{}
		case 1:
			return "KV/Compact", &pb.CompactionRequest{Revision: int64(d.IntN(5))}, &pb.CompactionResponse{}
		case 2:
			return "Cluster/MemberRemove", &pb.MemberRemoveRequest{ID: 7}, &pb.MemberRemoveResponse{}
		}
		return "Maintenance/Alarm", &pb.AlarmRequest{}, &pb.AlarmResponse{}
	}
	r := &pb.PutRequest{Key: key, PrevKv: d.IntN(3) == 0}
	if d.IntN(2) == 0 {
		r.Lease = d.lease()
	}
	return "KV/Put", r, &pb.PutResponse{}
}

// operation draws one of a transaction's, with as many levels below it at most.
func (d authDraw) operation(levels int) *pb.RequestOp {
	key, end := d.keys()
	switch d.IntN(4) {
	case 0:
		return &pb.RequestOp{Request: &pb.RequestOp_RequestRange{RequestRange: &pb.RangeRequest{Key: key, RangeEnd: end}}}
	case 1:
		return &pb.RequestOp{Request: &pb.RequestOp_RequestDeleteRange{RequestDeleteRange: &pb.DeleteRangeRequest{Key: key, RangeEnd: end, PrevKv: d.IntN(2) == 0}}}
	case 2:
		if levels > 0 {
			return &pb.RequestOp{Request: &pb.RequestOp_RequestTxn{RequestTxn: &pb.TxnRequest{Compare: []*pb.Compare{{Key: key, RangeEnd: end}},
				Success: []*pb.RequestOp{d.operation(levels - 1)}}}}
		}
	}
	return &pb.RequestOp{Request: &pb.RequestOp_RequestPut{RequestPut: &pb.PutRequest{Key: key, PrevKv: d.IntN(3) == 0}}}
}
