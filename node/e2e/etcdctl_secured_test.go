//go:build e2e

package e2e

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"
)

// ctlSecured is of a member with TLS, clients' certificates, users and signed
// tokens; make-mirror fills it from one without any.
func ctlSecured(t *testing.T, e etcdctl) {
	clients, members := newAuthority(t, t.TempDir(), "clients"), newAuthority(t, t.TempDir(), "members")
	c := NewCluster(t, append(append(clients.nodeFlags(""), members.nodeFlags("peer-")...), "--bcrypt-cost", "4", "--auth-token", signedTokens(t))...)
	c.Scheme, c.TLS = "https", clients.clientTLS(clients, "root")
	n := c.Start("n1")
	makeUsers(t, n.client(), "cfseed-seed")
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	token, err := n.client().Authenticate(ctx, "ada", "ada")
	if err != nil {
		t.Fatal(err)
	}

	e = e.at(n)
	cert, key := clients.issue("nobody")
	pair := []string{"--cert", cert, "--key", key}
	secure := append([]string{"--insecure-transport=false", "--cacert", clients.ca()}, pair...)
	with := func(more ...string) func(args ...string) []string {
		return func(args ...string) []string { return slices.Concat(args, more) }
	}
	says := func(want string, args []string) {
		t.Helper()
		if got := e.must(args...); got != want {
			t.Errorf("etcdctl %v: %q, want %q", args, got, want)
		}
	}
	ada := with(append(slices.Clone(secure), "--user", "ada", "--password", "ada")...)
	says("OK\n", ada("put", "a/1", "x"))
	says("a/1\nx\n", ada("get", "a/1"))
	e.refused("etcdserver: permission denied", ada("get", "b")...)
	says("a/1\nx\n", with(append(slices.Clone(secure), "--auth-jwt-token", token.Token)...)("get", "a/1"))
	e.refused("etcdserver: invalid auth token", with(append(slices.Clone(secure), "--auth-jwt-token", token.Token+"x")...)("get", "a/1")...)
	unverified := append([]string{"--insecure-transport=false", "--insecure-skip-tls-verify", "--user", "ada:ada"}, pair...)
	says("a/1\nx\n", with(unverified...)("get", "a/1"))
	strangers := newAuthority(t, t.TempDir(), "strangers")
	for what, flags := range map[string][]string{
		"an authority that is not ours": append([]string{"--cacert", strangers.ca(), "--user", "ada:ada"}, pair...),
		"no certificate":                {"--cacert", clients.ca(), "--user", "ada:ada"},
	} {
		if r := e.run(with(append(flags, "--command-timeout", "1s", "--dial-timeout", "1s")...)("get", "a/1")...); r.Code == 0 || r.Stdout != "" {
			t.Errorf("%s: %s", what, r)
		}
	}

	source := NewCluster(t).Start("source")
	dest := []string{"--dest-insecure-transport=false", "--dest-cacert", clients.ca(), "--dest-cert", cert, "--dest-key", key, "--dest-user", "ada"}
	ctlMirrorInto(c, e.at(source), n.Client, dest, func() string { return e.must(ada("get", "a/2")...) })
}

// ctlMirrorInto mirrors from who lets everybody in to who asks; read reads a/2
// there.
func ctlMirrorInto(c *Cluster, from etcdctl, target string, dest []string, read func() string) {
	t := from.t
	t.Helper()
	mirror := func(prefix, password string) []string {
		return slices.Concat([]string{"make-mirror", "--prefix", prefix}, dest, []string{"--dest-password", password, target})
	}
	from.must("put", "a/2", "mirrored")
	from.must("put", "b/1", "is not ada's")
	going := from.begin(mirror("a/", "ada")...)
	c.Eventually("the mirror", func() error {
		if got := read(); got != "a/2\nmirrored\n" {
			return fmt.Errorf("%q", got)
		}
		return nil
	})
	going.did()
	going.interrupt()
	from.refused("etcdserver: permission denied", mirror("b/", "ada")...)
	if r := from.run(mirror("a/", "wrong")...); r.Code == 0 || !strings.Contains(r.Stderr, "etcdserver: authentication failed, invalid user ID or password") {
		t.Errorf("make-mirror with a wrong password: %s", r)
	}
}
