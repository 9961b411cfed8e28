//go:build e2e

package e2e

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
)

// ctlAuth manages users with etcdctl, uses them, and ends with nobody being asked.
func ctlAuth(e etcdctl) {
	e.t.Helper()
	e.refused("etcdserver: root user does not exist", "auth", "enable")
	e.says(
		says{"auth status", "Authentication Status: false\nAuthRevision: 1\n"},
		says{"user add root:rootpw", "User root created\n"},
		says{"user grant-role root root", "Role root is granted to user root\n"},
		says{"user add ada --new-user-password adapw", "User ada created\n"},
		says{"user add plain --no-password", "User plain created\n"},
		says{"role add data", "Role data created\n"},
		says{"role grant-permission data readwrite u/ v", "Role data updated\n"},
		says{"role grant-permission data read r/ --prefix", "Role data updated\n"},
		says{"user grant-role ada data", "Role data is granted to user ada\n"},
		says{"auth enable", "Authentication Enabled\n"},
	)
	e.refused("etcdserver: user name is empty", "put", "u/1", "x")
	e.refused("etcdserver: user name is empty", "user", "list")
	e.notKnown("ada:wrong")
	e.refused("etcdserver: permission denied", "put", "r/1", "x", "--user", "ada:adapw")
	e.refused("etcdserver: permission denied", "get", "u/1", "w", "--user", "ada:adapw")
	e.refused("etcdserver: permission denied", "user", "add", "bob:x", "--user", "ada:adapw")
	e.refused("etcdserver: permission denied", "compaction", "12", "--user", "ada:adapw")
	e.refused("etcdserver: invalid auth management", "user", "delete", "root", "--user", "root:rootpw")
	e.says(
		says{"put u/1 x --user ada:adapw", "OK\n"},
		says{"get u/1 --user ada:adapw", "u/1\nx\n"},
		says{"get r/ --prefix --user ada:adapw", ""},
		says{"get u/1 --user root:rootpw", "u/1\nx\n"},
		says{"auth status --user ada:adapw", "Authentication Status: true\nAuthRevision: 9\n"},
		says{"user list --user root:rootpw", "ada\nplain\nroot\n"},
		says{"role list --user root:rootpw", "data\n"},
		says{"user get ada --user ada:adapw", "User: ada\nRoles: data\n"},
		says{"role get data --user ada:adapw", "Role data\nKV Read:\n\t[r/, r0) (prefix r/)\n\t[u/, v)\nKV Write:\n\t[u/, v)\n"},
		says{"role revoke-permission data u/ v --user root:rootpw", "Permission of range [u/, v) is revoked from role data\n"},
	)
	e.refused("etcdserver: permission denied", "put", "u/1", "y", "--user", "ada:adapw")
	if r := e.input("newpw\n", "user", "passwd", "ada", "--interactive=false", "--user", "root:rootpw"); r.Code != 0 || r.Stdout != "Password updated\n" {
		e.t.Errorf("user passwd: %s", r)
	}
	e.notKnown("ada:adapw")
	e.says(
		says{"get r/1 --user ada:newpw", ""},
		says{"user revoke-role ada data --user root:rootpw", "Role data is revoked from user ada\n"},
		says{"role delete data --user root:rootpw", "Role data deleted\n"},
		says{"user delete ada --user root:rootpw", "User ada deleted\n"},
		says{"auth disable --user root:rootpw", "Authentication Disabled\n"},
		says{"put any x", "OK\n"},
	)
}

// notKnown wants a user and password to be refused.
func (e etcdctl) notKnown(user string) {
	e.t.Helper()
	const words = "Error: etcdserver: authentication failed, invalid user ID or password\n"
	if r := e.run("get", "u/1", "--user", user); r.Code != 2 || r.Stdout != "" || !strings.HasSuffix(r.Stderr, words) {
		e.t.Errorf("etcdctl as %s: %s", user, r)
	}
}

// user makes the arguments of a cfseed command that asks as a user.
func user(name string, args ...string) []string { return append(args, "--user", name+":"+name) }

// makeUsers makes root, ada for keys and op for seeding; the password of each is its
// name, or a certificate is.
func makeUsers(t *testing.T, client *clientv3.Client, seedRole string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	var errs []error
	try := func(_ any, err error) { errs = append(errs, err) }
	for _, name := range []string{"root", "ada", "op"} {
		try(client.UserAdd(ctx, name, name))
	}
	try(client.UserGrantRole(ctx, "root", "root"))
	for name, role := range map[string]string{"ada": "data", "op": seedRole} {
		try(client.RoleAdd(ctx, role))
		try(client.UserGrantRole(ctx, name, role))
	}
	try(client.RoleGrantPermission(ctx, "data", "a", "b", clientv3.PermissionType(clientv3.PermReadWrite)))
	try(client.AuthEnable(ctx))
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
}

// TestUsers runs the commands against a cluster that asks who calls: what they may
// do with each user, joins of every kind, a leader that is killed.
func TestUsers(t *testing.T) {
	t.Parallel()
	c := NewCluster(t, "--bcrypt-cost", "4")
	first := c.Start("n1")
	c.MustAsk("put", "a/1", "before")
	makeUsers(t, first.client(), "cfseed-seed")

	at := func(n *Node, args ...string) []string { return append(args, "--endpoints", n.Client) }
	for _, tc := range []struct {
		args []string
		code int
		says string // error code
	}{
		{at(first, "put", "a/1", "x"), 1, "permission"},
		{user("ada", at(first, "put", "b", "x")...), 1, "permission"},
		{user("ada", at(first, "member", "list")...), 1, "permission"},
		{user("op", at(first, "get", "a/1")...), 1, "permission"},
		{user("op", at(first, "member", "remove", first.ID)...), 1, "permission"},
		{at(first, "status"), 1, "permission"},
		{append(at(first, "get", "a/1"), "--user", "ada:wrong"), 1, "permission"},
		{append(at(first, "get", "a/1"), "--user", "ada"), 2, "usage"},
		{[]string{"pull", "--from", first.Client, "--data-dir", filepath.Join(t.TempDir(), "stolen")}, 1, "permission"},
		{user("ada", "pull", "--from", first.Client, "--data-dir", filepath.Join(t.TempDir(), "stolen")), 1, "permission"},
		{user("ada", at(first, "push", "--to", "http://127.0.0.1:1")...), 1, "permission"},
		{user("ada", at(first, "put", "a/1", "x")...), 0, ""},
		{user("ada", at(first, "get", "a/1")...), 0, ""},
		{user("op", at(first, "member", "list")...), 0, ""},
		{user("op", at(first, "status")...), 0, ""},
		{user("op", "verify", "--cluster", first.Client), 0, ""},
	} {
		if r := c.CLI(tc.args...); r.Code != tc.code || tc.says != "" && r.Str("error", "code") != tc.says {
			t.Errorf("%v: %s", tc.args, r)
		}
	}

	c.Secure = []string{"--user", "op:op"}
	second := c.StartAwaiting("n2")
	c.add(second)
	third := c.New("n3")
	third.Env = []string{"CFSEED_USER=op", "CFSEED_PASSWORD=op"}
	third.Spawn("--join", first.Client)
	third.WaitReady(startPatience)
	fourth := c.New("n4")
	if r := c.CLI(user("op", "pull", "--from", first.Client, "--data-dir", fourth.DataDir, "--name", fourth.Name)...); r.Code != 0 {
		t.Fatalf("pull: %s", r)
	}
	fourth.Env = third.Env
	fourth.Spawn("--join", first.Client)
	fourth.WaitReady(startPatience)
	c.AwaitRole("voter", first, second, third, fourth)
	fifth := c.StartAwaiting("n5")
	if r := c.CLI(user("op", "push", "--endpoints", second.Client, "--to", fifth.Peer)...); r.Code != 0 {
		t.Fatalf("push: %s", r)
	}
	c.add(fifth)

	all := []*Node{first, second, third, fourth, fifth}
	leads := c.MustAsk("status").Str("leader")
	leader := all[slices.IndexFunc(all, func(n *Node) bool { return n.ID == leads })]
	leader.Kill()
	rest := slices.DeleteFunc(slices.Clone(all), func(n *Node) bool { return n == leader })
	c.Eventually("reads without the leader", func() error {
		for _, n := range rest {
			if r := c.CLI(user("ada", at(n, "get", "a/1")...)...); r.Code != 0 {
				return fmt.Errorf("%s: %s", n.Name, r)
			}
		}
		return nil
	})
	leader.Restart()
	leader.Stop()
	if r := c.CLI("verify", "--data-dir", leader.DataDir); r.Code != 0 || !strings.Contains(r.Stdout, "3 users, 2 roles, permissions are asked for") {
		t.Errorf("verify: %s", r)
	}
}

// TestUsersByCertificate: a client's certificate says who it is; a token goes before
// it.
func TestUsersByCertificate(t *testing.T) {
	t.Parallel()
	clients, members := newAuthority(t, t.TempDir(), "clients"), newAuthority(t, t.TempDir(), "members")
	c := NewCluster(t, append(append(clients.nodeFlags(""), members.nodeFlags("peer-")...), "--bcrypt-cost", "4")...)
	c.Scheme, c.TLS, c.Secure = "https", clients.clientTLS(clients, "root"), clients.commandFlags(clients, "root")
	n := c.Start("n1")
	makeUsers(t, n.client(), "cfseed-seed")

	as := func(cn string, more ...string) Result {
		return c.CLI(append(append([]string{"put", "--endpoints", n.Client}, more...), clients.commandFlags(clients, cn)...)...)
	}
	if r := as("ada", "a/1", "x"); r.Code != 0 {
		t.Errorf("ada's key: %s", r)
	}
	if r := as("ada", "b", "x"); r.Str("error", "code") != "permission" {
		t.Errorf("another key: %s", r)
	}
	if r := as("ghost", "a/1", "x"); r.Str("error", "code") != "permission" {
		t.Errorf("nobody we know: %s", r)
	}
	if r := as("ada", "b", "x", "--user", "root:root"); r.Code != 0 {
		t.Errorf("with a token as well: %s", r)
	}
	if r := c.CLI(append([]string{"member", "list", "--endpoints", n.Client}, clients.commandFlags(clients, "op")...)...); r.Code != 0 {
		t.Errorf("op: %s", r)
	}
}

// signedTokens makes keys and gives the --auth-token that signs with them.
func signedTokens(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	write := func(name, kind string, der []byte, err error) string {
		t.Helper()
		path := filepath.Join(dir, name)
		if err = errors.Join(err, os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600)); err != nil {
			t.Fatal(err)
		}
		return path
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	priv := write("priv.pem", "PRIVATE KEY", der, err)
	der, err = x509.MarshalPKIXPublicKey(key.Public())
	pub := write("pub.pem", "PUBLIC KEY", der, err)
	return "jwt,sign-method=ES256,pub-key=" + pub + ",priv-key=" + priv + ",ttl=10m"
}

// TestSignedTokens: a token that one member has signed is good at the others, also
// after they were started again, until users change.
func TestSignedTokens(t *testing.T) {
	t.Parallel()
	c := NewCluster(t, "--bcrypt-cost", "4", "--auth-token", signedTokens(t))
	first := c.Start("n1")
	second := c.Spawn("n2", "--join", first.Client)
	second.WaitReady(startPatience)
	makeUsers(t, first.client(), "cfseed-seed")

	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	resp, err := first.client().Authenticate(ctx, "ada", "ada")
	if err != nil || strings.Count(resp.Token, ".") != 2 {
		t.Fatalf("%v, %v", resp, err)
	}
	second.Stop()
	second.Restart()
	bearer, err := clientv3.New(clientv3.Config{Endpoints: []string{second.Client}, Token: resp.Token, Logger: zap.NewNop(), DialTimeout: time.Minute})
	if err != nil {
		t.Fatal(err)
	}
	defer bearer.Close() //nolint:errcheck // ends with "context canceled" by design
	if _, err := bearer.Put(ctx, "a/1", "x"); err != nil {
		t.Errorf("a token of another member: %v", err)
	}
	ada, err := clientv3.New(clientv3.Config{Endpoints: []string{second.Client}, Username: "ada", Password: "ada", Logger: zap.NewNop(), DialTimeout: time.Minute})
	if err != nil {
		t.Fatal(err)
	}
	defer ada.Close() //nolint:errcheck // as above
	root, err := clientv3.New(clientv3.Config{Endpoints: []string{first.Client}, Username: "root", Password: "root", Logger: zap.NewNop(), DialTimeout: time.Minute})
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close() //nolint:errcheck // as above
	if _, err := root.RoleAdd(ctx, "more"); err != nil {
		t.Fatal(err)
	}
	if _, err := bearer.Put(ctx, "a/1", "y"); !errors.Is(err, rpctypes.ErrAuthOldRevision) {
		t.Errorf("a token of before the change: %v", err)
	}
	if _, err := ada.Put(ctx, "a/1", "z"); err != nil {
		t.Errorf("a client that authenticates anew: %v", err)
	}
}
