//go:build e2e

package e2e

import (
	"bytes"
	"crypto/rand"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"testing"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
)

// page asks for an HTTP page; config may be nil.
func page(t *testing.T, url string, config *tls.Config) (code int, body string, err error) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, http.NoBody)
	if err != nil {
		t.Fatal(err)
	}
	transport := &http.Transport{TLSClientConfig: config, DisableKeepAlives: true}
	res, err := (&http.Client{Transport: transport, Timeout: cliDeadline}).Do(req)
	if err != nil {
		return 0, "", err
	}
	text, err := io.ReadAll(res.Body)
	return res.StatusCode, string(text), errors.Join(err, res.Body.Close())
}

var finished = regexp.MustCompile(`(?m)^Finished defragmenting etcd member\[(.*)\]. took .*$`)

// ctlMaintenance is etcdctl's part for who looks after a cluster; it leaves the
// leader as it was.
func ctlMaintenance(c *Cluster, e etcdctl, nodes []*Node) {
	e.t.Helper()
	type endpointHash struct {
		Endpoint string
		HashKV   *pb.HashKVResponse
	}
	// All members have applied what a linearizable read at each has seen.
	for _, n := range nodes {
		e.at(n).must("get", "absent")
	}
	var hashes []endpointHash
	e.json(&hashes, "endpoint", "hashkv", "--cluster")
	if len(hashes) != len(nodes) {
		e.t.Fatalf("%v", hashes)
	}
	for _, h := range hashes {
		if first := hashes[0].HashKV; h.HashKV.GetHash() != first.GetHash() || h.HashKV.GetHashRevision() != first.GetHashRevision() ||
			h.HashKV.GetCompactRevision() != first.GetCompactRevision() || h.HashKV.GetHash() == 0 {
			e.t.Errorf("hashes %v", hashes)
		}
	}
	if done := finished.FindAllStringSubmatch(e.must("defrag", "--cluster"), -1); len(done) != len(nodes) {
		e.t.Errorf("defragmented: %v", done)
	}
	e.refused("rpc error: code = Unimplemented desc = etcdserver: downgrade is not supported: an earlier program reads what it knows, or refuses to start", "downgrade", "validate", "3.6.0")
	e.says(says{"alarm list", ""}, says{"alarm disarm", ""})

	leader := c.Leader()
	to := nodes[(slices.Index(nodes, leader)+1)%len(nodes)]
	all := e.at(nodes...)
	move := func(from, to *Node) {
		e.t.Helper()
		if got, want := all.must("move-leader", to.ID), fmt.Sprintf("Leadership transferred from %s to %s\n", short(from.ID), short(to.ID)); got != want {
			e.t.Errorf("move-leader: %q, want %q", got, want)
		}
		if now := c.Leader(); now != to {
			e.t.Errorf("%s leads", now.Name)
		}
	}
	move(leader, to)
	all.refused("etcdserver: bad leader transferee", "move-leader", "1234")
	move(to, leader)
}

var printedAlarm = regexp.MustCompile(`^memberID:[0-9]+ +alarm:NOSPACE *\n$`)

// TestNoSpace fills members to their quota: puts are refused, all the same at
// every member, until room is made and the alarm disarmed.
func TestNoSpace(t *testing.T) {
	t.Parallel()
	e := etcdctl{t: t, path: buildEtcdctl(t)}
	c := NewCluster(t, "--quota-backend-bytes", "4194304")
	first := c.Start("n1")
	second := c.Spawn("n2", "--join", first.Client)
	second.WaitReady(startPatience)
	c.AwaitRole("voter", first, second)
	e = e.at(first)
	value := make([]byte, 256<<10)
	for i := 0; ; i++ {
		if _, err := rand.Read(value); err != nil {
			t.Fatal(err)
		}
		_, err := c.Client(first).Put(t.Context(), fmt.Sprintf("fill/%03d", i), string(value))
		if errors.Is(err, rpctypes.ErrNoSpace) {
			break
		}
		if err != nil || i > 100 {
			t.Fatalf("put %d: %v", i, err)
		}
	}
	const full = "etcdserver: mvcc: database space exceeded"
	for _, n := range []*Node{first, second} {
		if got := e.at(n).must("alarm", "list"); !slices.ContainsFunc(strings.SplitAfter(got, "\n"), printedAlarm.MatchString) {
			t.Errorf("alarm list: %q", got)
		}
		e.at(n).refused(full, "put", "k", "v")
		e.at(n).refused("failed to grant lease ("+full+")", "lease", "grant", "60")
		if code, body, err := page(t, n.Client+"/health", nil); err != nil || code != 503 || body != `{"health":"false","reason":"ALARM NOSPACE"}`+"\n" {
			t.Errorf("%d %q, %v", code, body, err)
		}
		if code, body, err := page(t, n.Metrics+"/health?exclude=NOSPACE", nil); err != nil || code != 200 {
			t.Errorf("%d %q, %v", code, body, err)
		}
	}
	if got := e.must("get", "fill/000", "--print-value-only"); len(got) < len(value) || bytes.Equal([]byte(got), value) {
		t.Errorf("%d bytes are read", len(got))
	}
	e.must("del", "fill", "--prefix")
	var at struct{ Header struct{ Revision int64 } }
	e.json(&at, "get", "absent")
	e.says(says{fmt.Sprintf("compaction %d", at.Header.Revision), fmt.Sprintf("compacted revision %d\n", at.Header.Revision)})
	e.must("defrag", "--cluster")
	e.refused(full, "put", "k", "v")
	e.must("alarm", "disarm")
	e.says(says{"alarm list", ""}, says{"put k v", "OK\n"})
	for _, n := range []*Node{first, second} {
		st, err := n.client().Status(t.Context(), n.Client)
		if err != nil || st.DbSizeInUse > 1<<20 || st.DbSizeQuota != 4<<20 || len(st.Errors) > 0 {
			t.Errorf("%s: %v, %v", n.Name, st, err)
		}
	}
}

// TestHealthPages: whoever probes a member hears what etcd says, and a member
// that lost its leader is alive and not ready.
func TestHealthPages(t *testing.T) {
	t.Parallel()
	c, nodes := static(t)
	check := func(n *Node, path string, code int, body string) {
		t.Helper()
		c.Eventually(n.Name+path, func() error {
			if got, text, err := page(t, n.Client+path, nil); err != nil || got != code || text != body {
				return fmt.Errorf("%d %q, %w", got, text, err)
			}
			return nil
		})
	}
	for _, n := range nodes {
		check(n, "/health", 200, `{"health":"true","reason":""}`)
		check(n, "/readyz", 200, "ok\n")
		check(n, "/version", 200, `{"etcdserver":"3.7.3","etcdcluster":"3.7.0","storage":"unknown"}`)
		if code, body, err := page(t, n.Client+"/metrics", nil); err != nil || code != 200 || !strings.Contains(body, "cfseed_applied_index") {
			t.Errorf("metrics: %d, %v", code, err)
		}
	}
	nodes[1].Kill()
	nodes[2].Kill()
	check(nodes[0], "/health", 503, `{"health":"false","reason":"RAFT NO LEADER"}`+"\n")
	check(nodes[0], "/health?serializable=true", 200, `{"health":"true","reason":""}`)
	check(nodes[0], "/livez", 200, "ok\n")
	check(nodes[0], "/readyz/linearizable_read", 503, "[-]linearizable_read failed: etcdserver: no leader\n\n")
	nodes[1].Restart()
	check(nodes[0], "/readyz", 200, "ok\n")
}
