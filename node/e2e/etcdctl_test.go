//go:build e2e

package e2e

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
)

// TestEtcdctl runs etcd's own command line tool against processes: what it prints
// is what it prints for etcd. Every command and flag that its help tells of is
// run, or refused.
func TestEtcdctl(t *testing.T) {
	t.Parallel()
	e := etcdctl{t: t, path: buildEtcdctl(t), runs: &ctlRuns{}}
	t.Run("parts", func(t *testing.T) {
		for _, part := range []struct {
			name string
			run  func(t *testing.T, e etcdctl)
		}{
			{"cluster", ctlCluster},
			{"alone", ctlAlone},
			{"secured", ctlSecured},
			{"mirror", ctlMirror},
			{"check", ctlCheck},
			{"itself", ctlItself},
		} {
			t.Run(part.name, func(t *testing.T) {
				t.Parallel()
				part.run(t, e.in(t))
			})
		}
	})
	t.Run("every command", func(t *testing.T) {
		for _, name := range e.runs.untried(e.in(t).commands(), ctlRefused, ctlLeftOut) {
			t.Errorf("etcdctl %s", name)
		}
	})
}

// ctlCluster is of three members, at a follower.
func ctlCluster(t *testing.T, e etcdctl) {
	c, nodes := static(t)
	leader := c.Leader()
	others := slices.DeleteFunc(slices.Clone(nodes), func(n *Node) bool { return n == leader })
	e = e.at(others[0])

	ctlKeys(t, e, others[0])
	ctlWatch(t, e)
	ctlTxn(e)
	ctlCompaction(e)
	ctlWatchMore(t, e)
	ctlLease(e)
	ctlLocks(e)
	ctlEndpoints(t, c, e, nodes)
	ctlMaintenance(c, e, nodes)
	ctlMembers(t, c, e)
	ctlAuth(e)
	ctlQuorum(c, e, others[1])
}

// says is a command and all that it prints.
type says struct {
	args   string
	stdout string
}

func (e etcdctl) says(list ...says) {
	e.t.Helper()
	for _, s := range list {
		if got := e.must(strings.Fields(s.args)...); got != s.stdout {
			e.t.Errorf("etcdctl %s:\n%q, want\n%q", s.args, got, s.stdout)
		}
	}
}

// ctlKeys leaves a/0 to a/3 at revision 6.
func ctlKeys(t *testing.T, e etcdctl, asked *Node) {
	e.says(
		says{"put a/1 one", "OK\n"},
		says{"put a/1 two --prev-kv", "OK\na/1\none\n"},
		says{"put a/2 three", "OK\n"},
		says{"put a/3 four", "OK\n"},
		says{"put a/0 zero", "OK\n"},
		says{"get a/1", "a/1\ntwo\n"},
		says{"get a/1 --consistency s", "a/1\ntwo\n"},
		says{"get absent", ""},
		says{"get a/1 --rev 2", "a/1\none\n"},
		says{"get a --prefix", "a/0\nzero\na/1\ntwo\na/2\nthree\na/3\nfour\n"},
		says{"get a --prefix --rev 3", "a/1\ntwo\n"},
		says{"get a/1 a/3", "a/1\ntwo\na/2\nthree\n"},
		says{"get a/2 --from-key", "a/2\nthree\na/3\nfour\n"},
		says{"get a --prefix --keys-only", "a/0\n\na/1\n\na/2\n\na/3\n\n"},
		says{"get a --prefix --print-value-only", "zero\ntwo\nthree\nfour\n"},
		says{"get a --prefix --limit 1", "a/0\nzero\n"},
		says{"get a --prefix --min-mod-rev 5", "a/0\nzero\na/3\nfour\n"},
		says{"get a --prefix --sort-by VALUE --keys-only", "a/3\n\na/2\n\na/1\n\na/0\n\n"},
		says{"get a --prefix --sort-by KEY --order DESCEND --keys-only", "a/3\n\na/2\n\na/1\n\na/0\n\n"},
		says{"get a --prefix --sort-by VERSION --keys-only", "a/0\n\na/2\n\na/3\n\na/1\n\n"},
		says{"get a --prefix --sort-by CREATE --keys-only", "a/1\n\na/2\n\na/3\n\na/0\n\n"},
		says{"get a --prefix --sort-by MODIFY --order DESCEND --limit 2 --keys-only", "a/0\n\na/3\n\n"},
	)
	if got := e.must("get", "a", "--prefix", "--count-only", "-w", "fields"); !strings.Contains(got, "\"Count\" : 4\n") || strings.Contains(got, "Key") {
		t.Errorf("count only: %s", got)
	}
	var res pb.RangeResponse
	e.json(&res, "get", "a", "--prefix", "--limit", "2")
	if h := res.GetHeader(); fmt.Sprintf("%016x", h.GetMemberId()) != asked.ID || h.GetClusterId() == 0 || h.GetRevision() != 6 || h.GetRaftTerm() == 0 {
		t.Errorf("header %v", h)
	}
	if kv := res.GetKvs()[1]; res.GetCount() != 4 || !res.GetMore() || string(kv.GetKey()) != "a/1" || string(kv.GetValue()) != "two" ||
		kv.GetCreateRevision() != 2 || kv.GetModRevision() != 3 || kv.GetVersion() != 2 {
		t.Errorf("as JSON: %v", &res)
	}
	e.refused("etcdserver: mvcc: required revision is a future revision", "get", "a/1", "--rev", "1000")
	e.refused("etcdserver: key is not provided", "put", "", "x")
	e.refused("etcdserver: key not found", "put", "absent", "--ignore-value")
	e.refused("etcdserver: requested lease not found", "put", "a/1", "x", "--lease", "1234")
}

// ctlTxn changes and deletes until revision 10 what ctlKeys left.
func ctlTxn(e etcdctl) {
	e.t.Helper()
	txn := func(in, want string) {
		e.t.Helper()
		if r := e.input(in, "txn"); r.Code != 0 || r.Stdout != want {
			e.t.Errorf("txn %q: want %q, got %s", in, want, r)
		}
	}
	const request = "ver(\"a/1\") = \"2\"\nvalue(\"a/2\") = \"three\"\n\nput a/1 \"new value\"\nget a/2\ndel a/3 --prev-kv\n\nget a/1\n\n"
	txn(request, "SUCCESS\n\nOK\n\na/2\nthree\n\n1\na/3\nfour\n")
	txn(request, "FAILURE\n\na/1\nnew value\n")
	const twice = "\n\nput d x\nput d y\n\n\n"
	if r := e.input(twice, "txn"); r.Code != 1 || !strings.HasSuffix(r.Stderr, "Error: etcdserver: duplicate key given in txn request\n") {
		e.t.Errorf("txn %q: %s", twice, r)
	}
	e.says(
		says{"del a/1 --prev-kv", "1\na/1\nnew value\n"},
		says{"del a/1", "0\n"},
		says{"put b/1 x", "OK\n"},
		says{"del a --prefix --prev-kv", "2\na/0\nzero\na/2\nthree\n"},
		says{"get a --prefix", ""},
		says{"get a --prefix --rev 6 --keys-only", "a/0\n\na/1\n\na/2\n\na/3\n\n"},
	)
	e.refused("etcdserver: key is not provided", "del", "")
}

func ctlCompaction(e etcdctl) {
	e.t.Helper()
	const compacted, future = "etcdserver: mvcc: required revision has been compacted", "etcdserver: mvcc: required revision is a future revision"
	e.says(says{"compaction 6", "compacted revision 6\n"})
	e.refused(compacted, "compaction", "6")
	e.refused(future, "compaction", "1000")
	e.refused(compacted, "get", "a/1", "--rev", "5")
	e.says(
		says{"get a/1 --rev 6", "a/1\ntwo\n"},
		says{"compaction 10 --physical", "compacted revision 10\n"},
	)
	e.refused(compacted, "get", "a/1", "--rev", "6")
}

// endpointStatus is what endpoint status tells of one endpoint.
type endpointStatus struct {
	Endpoint string
	Status   *pb.StatusResponse
}

// ctlEndpoints holds what the members say of themselves against each other and
// against what is known of them.
func ctlEndpoints(t *testing.T, c *Cluster, e etcdctl, nodes []*Node) {
	t.Helper()
	c.Eventually("statuses that agree", func() error {
		leader := c.Leader()
		var before, after []endpointStatus
		e.json(&before, "endpoint", "status", "--cluster")
		e.must("put", "one", "more")
		e.json(&after, "endpoint", "status", "--cluster")
		if len(before) != len(nodes) || len(after) != len(nodes) {
			return fmt.Errorf("%v, %v", before, after)
		}
		for i, st := range after {
			n := nodes[slices.IndexFunc(nodes, func(n *Node) bool { return n.Client == st.Endpoint })]
			s, was := st.Status, before[i].Status
			if fmt.Sprintf("%016x", s.GetHeader().GetMemberId()) != n.ID || s.GetIsLearner() || len(s.GetErrors()) > 0 || s.GetVersion() == "" ||
				s.GetDbSizeInUse() <= 0 || s.GetDbSizeInUse() > s.GetDbSize() || s.GetDbSizeQuota() != 2<<30 || s.GetStorageVersion() != "" ||
				s.GetRaftAppliedIndex() > s.GetRaftIndex() || s.GetRaftIndex() < was.GetRaftIndex() || s.GetDowngradeInfo().GetEnabled() {
				t.Errorf("status of %s: was %v, is %v", n.Name, was, s)
			}
			// One write is one entry and one revision, while nobody else writes or leads.
			if fmt.Sprintf("%016x", s.GetLeader()) != leader.ID || s.GetRaftTerm() != was.GetRaftTerm() || s.GetRaftTerm() != after[0].Status.GetRaftTerm() ||
				n == leader && (s.GetRaftIndex() != was.GetRaftIndex()+1 || s.GetHeader().GetRevision() != was.GetHeader().GetRevision()+1) {
				return fmt.Errorf("status of %s: was %v, is %v", n.Name, was, s)
			}
		}
		return nil
	})
	table := e.must("endpoint", "status", "--cluster", "-w", "table")
	health := e.must("endpoint", "health", "--cluster")
	for _, n := range nodes {
		if !strings.Contains(table, n.Client) || !strings.Contains(table, short(n.ID)) {
			t.Errorf("%s is not in the table\n%s", n.Name, table)
		}
		if !strings.Contains(health, n.Client+" is healthy: successfully committed proposal") {
			t.Errorf("%s is not healthy: %s", n.Name, health)
		}
	}
	e.says(says{"alarm list", ""})
}
