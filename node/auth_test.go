package node

import (
	"context"
	"errors"
	"path/filepath"
	"testing"

	"go.etcd.io/etcd/api/v3/authpb"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/chainfire/cfseed/internal/fault"
	"github.com/chainfire/cfseed/internal/netsec"
	chainfirev1 "github.com/chainfire/cfseed/proto/chainfire/v1"
	"github.com/chainfire/cfseed/proto/v3electionpb"
	"github.com/chainfire/cfseed/proto/v3lockpb"
)

// enableAuth makes root, ada who may read and write what begins with a, and op who
// may seed; the password of each is its name. Permissions are asked for then.
func enableAuth(t *testing.T, c *clientv3.Client) {
	t.Helper()
	ctx := within(t)
	var errs []error
	try := func(_ any, err error) { errs = append(errs, err) }
	for _, name := range []string{"root", "ada", "op"} {
		try(c.UserAdd(ctx, name, name))
	}
	try(c.UserGrantRole(ctx, "root", "root"))
	for user, role := range map[string]string{"ada": "data", "op": SeedRole} {
		try(c.RoleAdd(ctx, role))
		try(c.UserGrantRole(ctx, user, role))
	}
	try(c.RoleGrantPermission(ctx, "data", "a", "b", clientv3.PermissionType(authpb.Permission_READWRITE)))
	try(c.AuthEnable(ctx))
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
}

func loginAs(t *testing.T, name string) *netsec.Login {
	t.Helper()
	l, err := netsec.ParseLogin(name, name)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// clientAs is etcd's client with a user.
func clientAs(t *testing.T, name string, nodes ...*running) *clientv3.Client {
	t.Helper()
	var endpoints []string
	for _, n := range nodes {
		endpoints = append(endpoints, n.client)
	}
	c, err := clientv3.New(clientv3.Config{Endpoints: endpoints, Username: name, Password: name, DialTimeout: patience, Logger: zap.NewNop()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

// clusterAs is the cluster service at a client address; no name is nobody.
func clusterAs(t *testing.T, name string, at *running) chainfirev1.ClusterClient {
	t.Helper()
	var login *netsec.Login
	if name != "" {
		login = loginAs(t, name)
	}
	conn, err := netsec.Dial(at.client, netsec.Files{}, login.DialOptions()...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return chainfirev1.NewClusterClient(conn)
}

// TestUsersOfACluster: users are part of what is seeded and replicated; a cluster
// that asks for them grows in each way, and they are known everywhere and after a
// restart.
func TestUsersOfACluster(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "one")
	cfg := several(Config{DataDir: dir, BcryptCost: 4})
	one := start(t, "one", cfg).ready()
	enableAuth(t, etcdClient(t, one))

	stranger := start(t, "stranger", Config{Join: []string{one.client}})
	<-stranger.ended
	if !fault.Is(stranger.err, fault.Permission) {
		t.Errorf("who joins as nobody ends with %v", stranger.err)
	}
	two := start(t, "two", several(Config{Join: []string{one.client}, User: loginAs(t, "op"), BcryptCost: 4})).ready()
	three := start(t, "three", several(Config{AwaitSeed: true, BcryptCost: 4})).waiting()
	stream, err := clusterAs(t, "op", two).MemberAdd(within(t), &chainfirev1.MemberAddRequest{Name: "three", PeerUrls: []string{three.peer}})
	for err == nil {
		var msg *chainfirev1.MemberAddResponse
		if msg, err = stream.Recv(); msg.GetResult() != nil {
			break
		}
	}
	if err != nil {
		t.Fatal(err)
	}
	three.ready()

	ada := clientAs(t, "ada", one, two, three)
	for _, n := range []*running{one, two, three} {
		at := clientAs(t, "ada", n)
		put(t, at, "a", n.client)
		if _, err := at.Put(within(t), "b", ""); !errors.Is(err, rpctypes.ErrPermissionDenied) {
			t.Errorf("%s: %v", n.client, err)
		}
		if _, err := etcdClient(t, n).Get(within(t), "a"); !errors.Is(err, rpctypes.ErrUserEmpty) {
			t.Errorf("%s: nobody reads: %v", n.client, err)
		}
	}
	put(t, ada, "a", "1")
	one.closes(patience)
	cfg.Join = []string{two.client} // ignored by a member
	one = start(t, "one", cfg).ready()
	res, err := clientAs(t, "ada", one).Get(within(t), "a")
	if err != nil || len(res.Kvs) != 1 || string(res.Kvs[0].Value) != "1" {
		t.Errorf("after the restart: %v, %v", res, err)
	}
	put(t, ada, "a", "2")
}

// TestTokenOfOneMember is known to the others, also to one that is behind.
func TestTokenOfOneMember(t *testing.T) {
	one := start(t, "one", several(Config{BcryptCost: 4})).ready()
	two := start(t, "two", several(Config{Join: []string{one.client}, BcryptCost: 4})).ready()
	enableAuth(t, etcdClient(t, one))
	for range 5 {
		resp, err := pb.NewAuthClient(connect(t, one.client)).Authenticate(within(t), &pb.AuthenticateRequest{Name: "ada", Password: "ada"})
		if err != nil {
			t.Fatal(err)
		}
		ctx := metadata.AppendToOutgoingContext(within(t), rpctypes.TokenFieldNameGRPC, resp.GetToken())
		if _, err := pb.NewKVClient(connect(t, two.client)).Range(ctx, &pb.RangeRequest{Key: []byte("a"), Serializable: true}); err != nil {
			t.Fatal(err)
		}
	}
}

// TestSeedPermission: what a client address asks of the callers of our services,
// and that members' own addresses do not.
func TestSeedPermission(t *testing.T) {
	one := start(t, "one", Config{BcryptCost: 4}).ready()
	call := func(conn grpc.ClientConnInterface, method string) codes.Code {
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		defer cancel()
		return status.Code(conn.Invoke(ctx, method, &chainfirev1.StatusRequest{}, &chainfirev1.StatusResponse{}))
	}
	connAs := func(name, url string) *grpc.ClientConn {
		var login *netsec.Login
		if name != "" {
			login = loginAs(t, name)
		}
		conn, err := netsec.Dial(url, netsec.Files{}, login.DialOptions()...)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = conn.Close() })
		return conn
	}
	forSeeds := []string{chainfirev1.Seed_OpenSeed_FullMethodName, chainfirev1.Seed_DigestAt_FullMethodName, chainfirev1.Seed_GetTail_FullMethodName,
		chainfirev1.Cluster_Status_FullMethodName, chainfirev1.Cluster_MemberList_FullMethodName, chainfirev1.Admission_Reserve_FullMethodName}
	roots := []string{chainfirev1.Cluster_MemberRemove_FullMethodName, chainfirev1.Cluster_MemberPromote_FullMethodName, chainfirev1.Cluster_MemberUpdate_FullMethodName}
	check := func(what string, conn *grpc.ClientConn, seeds, manages bool) {
		t.Helper()
		for _, method := range forSeeds {
			if got := call(conn, method) != codes.PermissionDenied; got != seeds {
				t.Errorf("%s: %s: %v", what, method, got)
			}
		}
		for _, method := range roots {
			if got := call(conn, method) != codes.PermissionDenied; got != manages {
				t.Errorf("%s: %s: %v", what, method, got)
			}
		}
	}
	check("nobody is asked", connAs("", one.client), true, true)
	enableAuth(t, etcdClient(t, one))
	check("nobody", connAs("", one.client), false, false)
	check("ada", connAs("ada", one.client), false, false)
	check("op", connAs("op", one.client), true, false)
	check("root", connAs("root", one.client), true, true)
	check("a member's own address", connAs("", one.peer), true, true)

	conn := connAs("op", one.client)
	if got := call(conn, chainfirev1.Seed_DigestAt_FullMethodName); got == codes.PermissionDenied {
		t.Fatal(got)
	}
	if _, err := clientAs(t, "root", one).UserRevokeRole(within(t), "op", SeedRole); err != nil {
		t.Fatal(err)
	}
	check("op without the role", conn, false, false)
}

// TestLocksOfUsers: Lock and Election do for a user what the user may do.
func TestLocksOfUsers(t *testing.T) {
	one := start(t, "one", Config{BcryptCost: 4}).ready()
	enableAuth(t, etcdClient(t, one))
	conn := connect(t, one.client)
	token, err := pb.NewAuthClient(conn).Authenticate(within(t), &pb.AuthenticateRequest{Name: "ada", Password: "ada"})
	if err != nil {
		t.Fatal(err)
	}
	ada := metadata.AppendToOutgoingContext(within(t), rpctypes.TokenFieldNameGRPC, token.GetToken())
	for name, c := range map[string]struct {
		ctx  context.Context
		lock string
		want error
	}{"nobody": {within(t), "a", rpctypes.ErrGRPCUserEmpty}, "ada": {ada, "a", nil}, "ada of another key": {ada, "x", rpctypes.ErrGRPCPermissionDenied}} {
		_, err := v3lockpb.NewLockClient(conn).Lock(c.ctx, &v3lockpb.LockRequest{Name: []byte(c.lock)})
		if status.Convert(err).Message() != status.Convert(c.want).Message() {
			t.Errorf("lock, %s: %v", name, err)
		}
		_, err = v3electionpb.NewElectionClient(conn).Campaign(c.ctx, &v3electionpb.CampaignRequest{Name: []byte(c.lock + "e")})
		if status.Convert(err).Message() != status.Convert(c.want).Message() {
			t.Errorf("campaign, %s: %v", name, err)
		}
	}
	if l, err := clientAs(t, "root", one).Leases(within(t)); err != nil || len(l.Leases) != 4 {
		t.Errorf("nobody has left a lease: %v, %v", l, err)
	}
}
