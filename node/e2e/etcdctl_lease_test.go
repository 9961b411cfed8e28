//go:build e2e

package e2e

import (
	"fmt"
	"regexp"
	"slices"
	"strings"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
)

var (
	printedLease = regexp.MustCompile(`^lease ([0-9a-f]{16}) granted with TTL\(([0-9]+)s\)\n$`)
	printedLeft  = regexp.MustCompile(`^lease ([0-9a-f]{16}) granted with TTL\(([0-9]+)s\), remaining\(([0-9]+)s\)(, attached keys\(\[(.*)\]\))?\n$`)
)

// ctlLease is every command of etcdctl that speaks of leases; it leaves none.
func ctlLease(e etcdctl) {
	e.t.Helper()
	granted := printedLease.FindStringSubmatch(e.must("lease", "grant", "600"))
	if granted == nil || granted[2] != "600" {
		e.t.Fatalf("lease grant: %q", granted)
	}
	id := granted[1]
	e.says(
		says{"put leased/b one --lease " + id, "OK\n"},
		says{"put leased/a two --lease " + id, "OK\n"},
		says{"put leased/free three --lease " + id, "OK\n"},
		says{"put leased/free three", "OK\n"}, // the newest put says whose it is
		says{"put leased/b four --ignore-lease", "OK\n"},
		says{"lease list", "found 1 leases\n" + id + "\n"},
		says{"lease keep-alive " + id + " --once", "lease " + id + " keepalived with TTL(600)\n"},
	)
	ctlTimeToLive(e, id)
	var kv pb.RangeResponse
	if e.json(&kv, "get", "leased/b"); len(kv.GetKvs()) != 1 || fmt.Sprintf("%016x", kv.GetKvs()[0].GetLease()) != id {
		e.t.Errorf("the key's lease: %v", &kv)
	}
	e.says(
		says{"lease revoke " + id, "lease " + id + " revoked\n"},
		says{"get leased --prefix", "leased/free\nthree\n"},
		says{"lease timetolive " + id, "lease " + id + " already expired\n"},
		says{"lease keep-alive " + id, "lease " + id + " expired or revoked.\n"},
		says{"lease list", "found 0 leases\n"},
		says{"del leased/free", "1\n"},
	)
	e.refused("failed to revoke lease (etcdserver: requested lease not found)", "lease", "revoke", id)
	e.refused("etcdserver: requested lease not found", "put", "leased/b", "x", "--lease", id)
	e.refused("failed to grant lease (etcdserver: too large lease TTL)", "lease", "grant", "9000000001")
}

// ctlTimeToLive wants what is left of the lease and its keys, in order.
func ctlTimeToLive(e etcdctl, id string) {
	e.t.Helper()
	for _, keys := range []bool{false, true} {
		args := []string{"lease", "timetolive", id}
		if keys {
			args = append(args, "--keys")
		}
		text := e.must(args...)
		m := printedLeft.FindStringSubmatch(text)
		if m == nil || m[1] != id || m[2] != "600" || (m[5] == "leased/a leased/b") != keys {
			e.t.Errorf("etcdctl %s: %q", strings.Join(args, " "), text)
		}
	}
	var res struct {
		ID         int64
		TTL        int64
		GrantedTTL int64 `json:"granted-ttl"`
		Keys       [][]byte
	}
	e.json(&res, "lease", "timetolive", id, "--keys")
	if fmt.Sprintf("%016x", res.ID) != id || res.GrantedTTL != 600 || res.TTL <= 0 || res.TTL > 600 ||
		!slices.EqualFunc(res.Keys, []string{"leased/a", "leased/b"}, func(a []byte, b string) bool { return string(a) == b }) {
		e.t.Errorf("as JSON: %+v", res)
	}
}
