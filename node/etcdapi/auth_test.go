package etcdapi_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"strings"
	"sync"
	"testing"
	"time"

	"go.etcd.io/etcd/api/v3/authpb"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/emptypb"

	"github.com/chainfire/cfseed/internal/state"
	"github.com/chainfire/cfseed/internal/state/auth"
	"github.com/chainfire/cfseed/internal/state/envelope"
	"github.com/chainfire/cfseed/node/etcdapi"
	"github.com/chainfire/cfseed/node/token"
)

// guarded is a server with the users root and ada; ada may read and write what
// begins with a. Permissions are asked for.
func guarded(t *testing.T, opts etcdapi.Options) *server {
	t.Helper()
	s := withUsers(t, opts)
	s.must(envelope.AuthEnable, &pb.AuthEnableRequest{})
	return s
}

func withUsers(t *testing.T, opts etcdapi.Options) *server {
	t.Helper()
	l := newLocal(t)
	l.tokens = token.NewSimple(0)
	if opts.Tokens == nil {
		opts.Tokens = l.tokens
	}
	opts.BcryptCost = 4
	s := serveBackend(t, l, l, opts, nil)
	for _, name := range []string{"root", "ada"} {
		if _, err := s.cli.UserAdd(ctx(t), name, "pw of "+name); err != nil {
			t.Fatal(err)
		}
	}
	s.must(envelope.UserGrantRole, &pb.AuthUserGrantRoleRequest{User: "root", Role: "root"})
	s.must(envelope.RoleAdd, &pb.AuthRoleAddRequest{Name: "a"})
	s.must(envelope.RoleGrantPermission, &pb.AuthRoleGrantPermissionRequest{Name: "a",
		Perm: &authpb.Permission{PermType: authpb.Permission_READWRITE, Key: []byte("a"), RangeEnd: []byte("b")}})
	s.must(envelope.UserGrantRole, &pb.AuthUserGrantRoleRequest{User: "ada", Role: "a"})
	return s
}

// as is a client of etcd's that logs in.
func (s *server) as(name, password string) (*clientv3.Client, error) {
	cli, err := clientv3.New(clientv3.Config{Endpoints: s.cli.Endpoints(), Username: name, Password: password, Logger: zap.NewNop(), DialTimeout: 20 * time.Second})
	if err == nil {
		s.t.Cleanup(func() {
			if err := cli.Close(); err != nil {
				s.t.Error(err)
			}
		})
	}
	return cli, err
}

func (s *server) mustAs(name string) *clientv3.Client {
	s.t.Helper()
	cli, err := s.as(name, "pw of "+name)
	if err != nil {
		s.t.Fatal(err)
	}
	return cli
}

// login gives a context with a user's token.
func (s *server) login(name string) context.Context {
	s.t.Helper()
	resp, err := pb.NewAuthClient(s.conn).Authenticate(ctx(s.t), &pb.AuthenticateRequest{Name: name, Password: "pw of " + name})
	if err != nil {
		s.t.Fatal(err)
	}
	return metadata.AppendToOutgoingContext(ctx(s.t), rpctypes.TokenFieldNameGRPC, resp.GetToken())
}

// asRoot applies an entry of root.
func (s *server) asRoot(kind envelope.Kind, body proto.Message) {
	s.t.Helper()
	res, err := s.applyFor(&envelope.Client{Name: "root", Revision: s.m.Auth().Revision}, kind, body, nil)
	if err := errors.Join(err, res.Err); err != nil {
		s.t.Fatal(kind, err)
	}
}

func wantErr(t *testing.T, what string, err, want error) {
	t.Helper()
	if want == nil {
		if err != nil {
			t.Errorf("%s: %v", what, err)
		}
		return
	}
	if status.Convert(err).Message() != status.Convert(want).Message() && rpctypes.ErrorDesc(err) != rpctypes.ErrorDesc(want) && !errors.Is(err, rpctypes.Error(want)) {
		t.Errorf("%s: %v, want %v", what, err, want)
	}
}

// TestUsersWithEtcdsClient manages users as etcdctl does and uses them.
func TestUsersWithEtcdsClient(t *testing.T) {
	s := withUsers(t, etcdapi.Options{})
	if _, err := s.as("root", "pw of root"); err != nil { // etcd's client goes on without a token
		t.Errorf("a password that nobody asks for: %v", err)
	}
	st, err := s.cli.AuthStatus(ctx(t))
	if err != nil || st.Enabled || st.AuthRevision != 7 {
		t.Errorf("%v, %v", st, err)
	}
	if _, err := s.cli.AuthEnable(ctx(t)); err != nil {
		t.Fatal(err)
	}
	_, err = s.as("root", "wrong")
	wantErr(t, "a wrong password", err, rpctypes.ErrGRPCAuthFailed)
	_, err = s.as("ghost", "x")
	wantErr(t, "nobody we know", err, rpctypes.ErrGRPCAuthFailed)
	_, err = s.cli.Put(ctx(t), "a", "v")
	wantErr(t, "nobody", err, rpctypes.ErrGRPCUserEmpty)

	root, ada := s.mustAs("root"), s.mustAs("ada")
	if resp, err := root.UserAdd(ctx(t), "plain", "x"); err != nil || resp.Header.GetClusterId() != clusterID || resp.Header.GetMemberId() != selfID {
		t.Errorf("%v, %v", resp, err)
	}
	users, err := root.UserList(ctx(t))
	roles, rerr := root.RoleList(ctx(t))
	if err := errors.Join(err, rerr); err != nil || strings.Join(users.Users, " ") != "ada plain root" || strings.Join(roles.Roles, " ") != "a" {
		t.Errorf("%v, %v, %v", users, roles, err)
	}
	_, err = ada.UserList(ctx(t))
	wantErr(t, "ada lists users", err, rpctypes.ErrGRPCPermissionDenied)
	own, err := ada.UserGet(ctx(t), "ada")
	if err != nil || strings.Join(own.Roles, " ") != "a" {
		t.Errorf("ada of herself: %v, %v", own, err)
	}
	_, err = ada.UserGet(ctx(t), "plain")
	wantErr(t, "ada of others", err, rpctypes.ErrGRPCPermissionDenied)
	if role, err := ada.RoleGet(ctx(t), "a"); err != nil || len(role.Perm) != 1 {
		t.Errorf("ada of her role: %v, %v", role, err)
	}
	_, err = ada.RoleGet(ctx(t), "root")
	wantErr(t, "ada of another role", err, rpctypes.ErrGRPCPermissionDenied)
	_, err = root.RoleGet(ctx(t), "gone")
	wantErr(t, "no such role", err, rpctypes.ErrGRPCRoleNotFound)
	_, err = root.UserGet(ctx(t), "gone")
	wantErr(t, "no such user", err, rpctypes.ErrGRPCUserNotFound)

	for _, cli := range []*clientv3.Client{root, ada} {
		if _, err := cli.Put(ctx(t), "a1", "v"); err != nil {
			t.Error(err)
		}
	}
	_, err = ada.Put(ctx(t), "b", "v")
	wantErr(t, "ada of another key", err, rpctypes.ErrGRPCPermissionDenied)
	// What a role is given counts at once, with the token she has.
	if _, err := root.RoleGrantPermission(ctx(t), "a", "b", "", clientv3.PermissionType(clientv3.PermReadWrite)); err != nil {
		t.Error(err)
	}
	_, err = ada.Put(ctx(t), "b", "v")
	wantErr(t, "ada of the key she was given", err, nil)
	if _, err := root.UserChangePassword(ctx(t), "ada", "new"); err != nil {
		t.Error(err)
	}
	_, err = ada.Put(ctx(t), "a", "v") // her token is void and her client knows the old password only
	wantErr(t, "ada with a password of before", err, rpctypes.ErrGRPCAuthFailed)
	if ada, err = s.as("ada", "new"); err != nil {
		t.Fatal(err)
	}
	if _, err := root.UserDelete(ctx(t), "ada"); err != nil {
		t.Error(err)
	}
	if _, err = ada.Get(ctx(t), "a"); err == nil {
		t.Error("a user that is gone reads")
	}
	_, err = root.UserDelete(ctx(t), "root")
	wantErr(t, "root deletes itself", err, rpctypes.ErrGRPCInvalidAuthMgmt)
	if _, err := root.AuthDisable(ctx(t)); err != nil {
		t.Error(err)
	}
	_, err = s.cli.Put(ctx(t), "any", "v")
	wantErr(t, "nobody is asked any more", err, nil)
}

// TestEveryRPCIsGuarded holds each method of etcd's services against what etcd asks
// of its client. A method without a row fails.
func TestEveryRPCIsGuarded(t *testing.T) {
	s := guarded(t, etcdapi.Options{})
	key, other := []byte("a"), []byte("x")
	const (
		forRoot = iota // nobody and ada are refused
		forAll         // nobody is refused
		forKeys        // nobody and ada are refused, for the key x
		open
	)
	type row struct {
		needs int
		req   proto.Message
	}
	watch := func(key []byte) *pb.WatchRequest {
		return &pb.WatchRequest{RequestUnion: &pb.WatchRequest_CreateRequest{CreateRequest: &pb.WatchCreateRequest{Key: key}}}
	}
	s.must(envelope.LeaseGrant, &pb.LeaseGrantRequest{ID: 9, TTL: 600})
	res, err := s.applyFor(&envelope.Client{Name: "root", Revision: 99}, envelope.Put, &pb.PutRequest{Key: other, Lease: 9}, nil)
	if err := errors.Join(err, res.Err); err != nil {
		t.Fatal(err)
	}
	table := map[string]row{
		"KV/Range": {forKeys, &pb.RangeRequest{Key: other}}, "KV/RangeStream": {forKeys, &pb.RangeRequest{Key: key, RangeEnd: other}},
		"KV/Put": {forKeys, &pb.PutRequest{Key: other}}, "KV/DeleteRange": {forKeys, &pb.DeleteRangeRequest{Key: key, RangeEnd: []byte{0}}},
		"KV/Txn":     {forKeys, &pb.TxnRequest{Compare: []*pb.Compare{{Key: other}}}},
		"KV/Compact": {forRoot, &pb.CompactionRequest{Revision: 1}}, "Watch/Watch": {forKeys, watch(other)},
		"Lease/LeaseGrant": {forAll, &pb.LeaseGrantRequest{TTL: 60}}, "Lease/LeaseRevoke": {forKeys, &pb.LeaseRevokeRequest{ID: 9}},
		"Lease/LeaseKeepAlive": {forKeys, &pb.LeaseKeepAliveRequest{ID: 9}}, "Lease/LeaseTimeToLive": {forKeys, &pb.LeaseTimeToLiveRequest{ID: 9, Keys: true}},
		"Lease/LeaseLeases": {forKeys, &pb.LeaseLeasesRequest{}},
		"Cluster/MemberAdd": {forRoot, &pb.MemberAddRequest{}}, "Cluster/MemberRemove": {forRoot, &pb.MemberRemoveRequest{}},
		"Cluster/MemberUpdate": {forRoot, &pb.MemberUpdateRequest{}}, "Cluster/MemberPromote": {forRoot, &pb.MemberPromoteRequest{}},
		"Cluster/MemberList": {forAll, &pb.MemberListRequest{}}, "Maintenance/Status": {forAll, &pb.StatusRequest{}},
		"Maintenance/Alarm":      {forRoot, &pb.AlarmRequest{Action: pb.AlarmRequest_DEACTIVATE}},
		"Maintenance/Defragment": {forRoot, &pb.DefragmentRequest{}}, "Maintenance/Hash": {forRoot, &pb.HashRequest{}},
		"Maintenance/HashKV": {forRoot, &pb.HashKVRequest{}}, "Maintenance/Snapshot": {forRoot, &pb.SnapshotRequest{}},
		"Maintenance/MoveLeader": {forRoot, &pb.MoveLeaderRequest{}}, "Maintenance/Downgrade": {forRoot, &pb.DowngradeRequest{}},
		"Auth/AuthEnable": {forRoot, &pb.AuthEnableRequest{}}, "Auth/AuthDisable": {forRoot, &pb.AuthDisableRequest{}},
		"Auth/AuthStatus": {open, &pb.AuthStatusRequest{}}, "Auth/Authenticate": {open, &pb.AuthenticateRequest{Name: "ada", Password: "pw of ada"}},
		"Auth/UserAdd": {forRoot, &pb.AuthUserAddRequest{Name: "n"}}, "Auth/UserGet": {forRoot, &pb.AuthUserGetRequest{Name: "root"}},
		"Auth/UserList": {forRoot, &pb.AuthUserListRequest{}}, "Auth/UserDelete": {forRoot, &pb.AuthUserDeleteRequest{Name: "ada"}},
		"Auth/UserChangePassword": {forRoot, &pb.AuthUserChangePasswordRequest{Name: "ada"}},
		"Auth/UserGrantRole":      {forRoot, &pb.AuthUserGrantRoleRequest{User: "ada", Role: "root"}},
		"Auth/UserRevokeRole":     {forRoot, &pb.AuthUserRevokeRoleRequest{Name: "ada", Role: "a"}},
		"Auth/RoleAdd":            {forRoot, &pb.AuthRoleAddRequest{Name: "n"}}, "Auth/RoleGet": {forRoot, &pb.AuthRoleGetRequest{Role: "root"}},
		"Auth/RoleList": {forRoot, &pb.AuthRoleListRequest{}}, "Auth/RoleDelete": {forRoot, &pb.AuthRoleDeleteRequest{Role: "a"}},
		"Auth/RoleGrantPermission":  {forRoot, &pb.AuthRoleGrantPermissionRequest{Name: "a", Perm: &authpb.Permission{Key: other}}},
		"Auth/RoleRevokePermission": {forRoot, &pb.AuthRoleRevokePermissionRequest{Role: "a", Key: key, RangeEnd: []byte("b")}},
	}
	ada := s.login("ada")
	strange := metadata.AppendToOutgoingContext(ctx(t), rpctypes.TokenFieldNameGRPC, "x.1")
	before := s.m.Auth().Revision
	checked := 0
	for service, info := range s.grpc.GetServiceInfo() {
		for _, m := range info.Methods {
			name, etcds := strings.CutPrefix("/"+service+"/"+m.Name, "/etcdserverpb.")
			if !etcds {
				continue
			}
			r, ok := table[name]
			if !ok {
				t.Errorf("%s has no row", name)
				continue
			}
			checked++
			denied := map[int]error{forRoot: rpctypes.ErrGRPCPermissionDenied, forKeys: rpctypes.ErrGRPCPermissionDenied}[r.needs]
			nobody := rpctypes.ErrGRPCUserEmpty
			if r.needs == open {
				nobody = nil
			}
			invalid := rpctypes.ErrGRPCInvalidAuthToken
			if name == "Auth/Authenticate" {
				invalid = nil // whoever has no good token wants one
			}
			wantErr(t, name+" as nobody", s.call(ctx(t), name, m, r.req), nobody)
			wantErr(t, name+" as ada", s.call(ada, name, m, r.req), denied)
			wantErr(t, name+" with a strange token", s.call(strange, name, m, r.req), invalid)
		}
	}
	if checked != len(table) || s.m.Auth().Revision != before {
		t.Errorf("%d methods of %d rows; revision %d, then %d", checked, len(table), before, s.m.Auth().Revision)
	}
	if err := s.call(s.login("root"), "KV/Compact", grpc.MethodInfo{}, &pb.CompactionRequest{Revision: 1}); err != nil {
		t.Errorf("control: root compacts: %v", err)
	}
}

// call makes a call of any kind and gives its status; of a watch, why it ended.
func (s *server) call(ctx context.Context, method string, m grpc.MethodInfo, req proto.Message) error {
	full := "/etcdserverpb." + method
	if !m.IsClientStream && !m.IsServerStream {
		return s.conn.Invoke(ctx, full, req, &emptypb.Empty{})
	}
	stream, err := s.conn.NewStream(ctx, &grpc.StreamDesc{ClientStreams: m.IsClientStream, ServerStreams: m.IsServerStream}, full)
	if err != nil {
		return err
	}
	if err := stream.SendMsg(req); err != nil {
		return err
	}
	got := &pb.WatchResponse{}
	if method != "Watch/Watch" {
		return stream.RecvMsg(&emptypb.Empty{})
	}
	if err := stream.RecvMsg(got); err != nil {
		return err
	}
	if got.GetCanceled() {
		if !got.GetCreated() || got.GetWatchId() != -1 || got.GetHeader().GetMemberId() != selfID {
			s.t.Errorf("a watch that is refused: %v", got)
		}
		_, reason, _ := strings.Cut(got.GetCancelReason(), "desc = ")
		return status.Error(codes.Unknown, reason)
	}
	return nil
}

// TestUsersChangeMeanwhile: users that change while a request is on its way.
func TestUsersChangeMeanwhile(t *testing.T) {
	s := guarded(t, etcdapi.Options{})
	ada := s.login("ada")
	more := ""
	touch := func() {
		more += "more"
		res, err := s.applyFor(&envelope.Client{Name: "root"}, envelope.RoleAdd, &pb.AuthRoleAddRequest{Name: more}, nil)
		if err := errors.Join(err, res.Err); err != nil {
			t.Error(err)
		}
	}
	s.before.Store(&touch)
	_, err := pb.NewKVClient(s.conn).Put(ada, &pb.PutRequest{Key: []byte("a")})
	wantErr(t, "a put that was on its way", err, rpctypes.ErrGRPCAuthOldRevision)
	_, err = pb.NewKVClient(s.conn).Put(ada, &pb.PutRequest{Key: []byte("a")})
	wantErr(t, "the same put again", err, nil)

	// The password is compared again when it may have changed.
	proposals := s.proposals.Load()
	s.before.Store(&touch)
	s.login("ada")
	if n := s.proposals.Load() - proposals; n != 2 {
		t.Errorf("%d proposals", n)
	}
	other := func() {
		req := &pb.AuthUserChangePasswordRequest{Name: "ada", HashedPassword: "b3RoZXI="}
		if _, err := s.applyFor(&envelope.Client{Name: "root", Revision: 99}, envelope.UserChangePassword, req, nil); err != nil {
			t.Error(err)
		}
	}
	s.before.Store(&other)
	_, err = pb.NewAuthClient(s.conn).Authenticate(ctx(t), &pb.AuthenticateRequest{Name: "ada", Password: "pw of ada"})
	wantErr(t, "a password that changed meanwhile", err, rpctypes.ErrGRPCAuthFailed)
}

// recorder keeps what is proposed.
type recorder struct {
	*local
	mu   sync.Mutex
	seen bytes.Buffer
}

func (r *recorder) Propose(ctx context.Context, c *envelope.Client, kind envelope.Kind, body proto.Message) (state.Result, error) {
	b, err := proto.Marshal(body)
	if err != nil {
		return state.Result{}, err
	}
	r.mu.Lock()
	r.seen.Write(b)
	r.mu.Unlock()
	return r.local.Propose(ctx, c, kind, body)
}

// No password and no token is in any entry.
func TestSecretsAreNotReplicated(t *testing.T) {
	l := newLocal(t)
	l.tokens = token.NewSimple(0)
	r := &recorder{local: l}
	s := serveBackend(t, l, r, etcdapi.Options{Tokens: l.tokens, BcryptCost: 4}, nil)
	for _, req := range []*pb.AuthUserAddRequest{{Name: "root", Password: "pw of root"}, {Name: "plain", Password: "for nothing", Options: &authpb.UserAddOptions{NoPassword: true}}} {
		if _, err := pb.NewAuthClient(s.conn).UserAdd(ctx(t), req); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := s.cli.UserChangePassword(ctx(t), "root", "pw of root"); err != nil {
		t.Fatal(err)
	}
	l.must(envelope.UserGrantRole, &pb.AuthUserGrantRoleRequest{User: "root", Role: "root"})
	l.must(envelope.AuthEnable, &pb.AuthEnableRequest{})
	md, _ := metadata.FromOutgoingContext(s.login("root"))
	secret, _, _ := strings.Cut(md.Get("token")[0], ".")
	for _, text := range []string{"pw of root", "for nothing", secret} {
		if bytes.Contains(r.seen.Bytes(), []byte(text)) {
			t.Errorf("%q was replicated", text)
		}
	}
	if !bytes.Contains(r.seen.Bytes(), []byte("plain")) {
		t.Error("the recorder saw nothing")
	}
	_, err := pb.NewAuthClient(s.conn).UserAdd(ctx(t), &pb.AuthUserAddRequest{Name: "long", Password: strings.Repeat("x", 73)})
	if err == nil {
		t.Error("a password was cut off")
	}
	_, err = pb.NewAuthClient(s.conn).Authenticate(ctx(t), &pb.AuthenticateRequest{Name: "plain"})
	wantErr(t, "a user without a password", err, rpctypes.ErrGRPCAuthFailed)
}

// fixed are tokens that say a revision of their own, as signed ones do.
type fixed struct{ c envelope.Client }

func (f fixed) Assign(envelope.Client, func([]byte) (uint64, error)) (string, error) { return "t", nil }
func (f fixed) Client(context.Context, string) (envelope.Client, bool)               { return f.c, true }

// A token of before the last change of users does nothing to keys, but manages.
func TestTokenOfAnOldRevision(t *testing.T) {
	s := guarded(t, etcdapi.Options{Tokens: fixed{envelope.Client{Name: "root", Revision: 2}}})
	c := metadata.AppendToOutgoingContext(ctx(t), "authorization", "Bearer t")
	kv := pb.NewKVClient(s.conn)
	_, err := kv.Put(c, &pb.PutRequest{Key: []byte("a")})
	wantErr(t, "put", err, rpctypes.ErrGRPCAuthOldRevision)
	_, err = kv.Range(c, &pb.RangeRequest{Key: []byte("a"), Serializable: true})
	wantErr(t, "range", err, rpctypes.ErrGRPCAuthOldRevision)
	_, err = kv.Txn(c, &pb.TxnRequest{Compare: []*pb.Compare{{Key: []byte("a")}}})
	wantErr(t, "transaction", err, rpctypes.ErrGRPCAuthOldRevision)
	wantErr(t, "watch", s.call(c, "Watch/Watch", grpc.MethodInfo{IsClientStream: true, IsServerStream: true},
		&pb.WatchRequest{RequestUnion: &pb.WatchRequest_CreateRequest{CreateRequest: &pb.WatchCreateRequest{}}}), rpctypes.ErrGRPCAuthOldRevision)
	_, err = pb.NewAuthClient(s.conn).RoleAdd(c, &pb.AuthRoleAddRequest{Name: "more"})
	wantErr(t, "a role, as etcd", err, nil)
}

// A token is believed as of what the tokens have heard, which may be older than the
// state: one that is void in between does nothing.
func TestTokenThatIsVoidAlready(t *testing.T) {
	for name, void := range map[string]func(*server){
		"another password": func(s *server) {
			s.asRoot(envelope.UserChangePassword, &pb.AuthUserChangePasswordRequest{Name: "ada", HashedPassword: "b3RoZXI="})
		},
		"another user of the name": func(s *server) {
			s.asRoot(envelope.UserDelete, &pb.AuthUserDeleteRequest{Name: "ada"})
			s.asRoot(envelope.UserAdd, &pb.AuthUserAddRequest{Name: "ada", HashedPassword: "b3RoZXI=", Options: &authpb.UserAddOptions{}})
			s.asRoot(envelope.UserGrantRole, &pb.AuthUserGrantRoleRequest{User: "ada", Role: "a"})
		},
	} {
		s := guarded(t, etcdapi.Options{})
		ada, put := s.login("ada"), &pb.PutRequest{Key: []byte("a")}
		_, err := pb.NewKVClient(s.conn).Put(ada, put)
		wantErr(t, name+": before", err, nil)
		s.mu.Lock()
		tokens := s.tokens
		s.tokens = nil
		s.mu.Unlock()
		void(s)
		_, err = pb.NewKVClient(s.conn).Put(ada, put)
		wantErr(t, name+", not heard of", err, rpctypes.ErrGRPCAuthOldRevision)
		tokens.Apply(s.m.Applied().Index, s.m.Auth().Revision, &auth.Change{User: "ada"})
		_, err = pb.NewKVClient(s.conn).Put(ada, put)
		wantErr(t, name, err, rpctypes.ErrGRPCInvalidAuthToken)
	}
}

// TestCertificate: the common name of a verified certificate is the user, where no
// token is shown and nobody stands between.
func TestCertificate(t *testing.T) {
	s := guarded(t, etcdapi.Options{ClientCertAuth: true})
	without := guarded(t, etcdapi.Options{})
	chain := func(name string) peer.Peer {
		return peer.Peer{AuthInfo: credentials.TLSInfo{State: tls.ConnectionState{
			VerifiedChains: [][]*x509.Certificate{{}, {{Subject: pkix.Name{CommonName: name}}, {Subject: pkix.Name{CommonName: "authority"}}}}}}}
	}
	ada, nobody, unverified, plain := chain("ada"), chain(""), peer.Peer{AuthInfo: credentials.TLSInfo{}}, peer.Peer{}
	long := chain(strings.Repeat("n", envelope.MaxName+1))
	rev := s.m.Auth().Revision
	for name, c := range map[string]struct {
		on   *server
		peer *peer.Peer
		md   metadata.MD
		want envelope.Client
		err  error
	}{
		"a certificate":             {s, &ada, nil, envelope.Client{Name: "ada", Revision: rev}, nil},
		"without a name":            {s, &nobody, nil, envelope.Client{Revision: rev}, nil},
		"one that was not verified": {s, &unverified, nil, envelope.Client{}, nil},
		"none":                      {s, &plain, nil, envelope.Client{}, nil},
		"no peer":                   {s, nil, nil, envelope.Client{}, nil},
		"the gateway's":             {s, &ada, metadata.Pairs("grpcgateway-accept", "x"), envelope.Client{}, nil},
		"a token as well":           {s, &ada, metadata.Pairs("token", "x.0"), envelope.Client{}, rpctypes.ErrGRPCInvalidAuthToken},
		"a name too long":           {s, &long, nil, envelope.Client{}, rpctypes.ErrGRPCPermissionDenied},
		"not asked for":             {without, &ada, nil, envelope.Client{}, nil},
	} {
		in := metadata.NewIncomingContext(t.Context(), c.md)
		if c.peer != nil {
			in = peer.NewContext(in, c.peer)
		}
		got, err := c.on.api.Client(in)
		if got != c.want {
			t.Errorf("%s: %+v", name, got)
		}
		wantErr(t, name, err, c.err)
	}
}
