package sim

import (
	"testing"

	"go.etcd.io/raft/v3/raftpb"
)

// TestElectionOvertakesACommit: a keep-alive takes a checkpoint back and is
// answered, and its leader crashes before another member hears that the entry is
// committed. The next one has the entry in its log and applies it as leader; the
// lease has all its time there.
func TestElectionOvertakesACommit(t *testing.T) {
	const ttl = 30
	h := found(t, "a", "b", "c")
	a := h.Node("a")
	grant := h.Grant("a", 1, ttl)
	h.waitFor("the grant", func() bool { return grant.Outcome == OK })
	left := func(node string) int64 {
		all, err := h.Node(node).machine.Leases()
		h.must(err)
		if len(all) != 1 {
			t.Fatalf("%s has %d leases", node, len(all))
		}
		return all[0].Remaining
	}
	h.waitFor("a checkpoint with little left", func() bool {
		return left("a") > 0 && left("a") < ttl/2 && left("b") == left("a") && left("c") == left("a")
	})
	commit := a.Status().Commit
	h.Intercept(func(_ *Node, m *raftpb.Message) bool { return m.GetFrom() != a.ID() || m.GetCommit() <= commit })
	call := h.KeepAlive("a", 1)
	h.waitFor("the keep-alive", func() bool { return call.Outcome != Pending })
	if call.Outcome != OK || call.TTL != ttl || left("a") != 0 || left("b") == 0 || left("c") == 0 {
		t.Fatalf("%+v, %d left at the leader, %d and %d at the others", call, left("a"), left("b"), left("c"))
	}
	h.must(a.Crash(0))
	h.Intercept(nil)
	h.waitFor("the next leader", func() bool { return h.Leader() != nil })
	h.waitFor("the end of the lease", func() bool { _, ended := h.leases.ended[1]; return ended })
	for _, broken := range h.Check() {
		t.Error(broken)
	}
}
