//go:build e2e

package e2e

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
)

const (
	notInSync  = "etcdserver: can only promote a learner member which is in sync with leader"
	notLearner = "etcdserver: can only promote a learner member"
	notFound   = "etcdserver: member not found"
	urlExists  = "etcdserver: Peer URLs already exists"
)

// ctlMembers adds a voter and a learner with etcdctl alone, and removes both.
func ctlMembers(t *testing.T, c *Cluster, e etcdctl) {
	t.Helper()
	founders := c.Running()
	e.refused(urlExists, "member", "add", "taken", "--peer-urls", founders[0].Peer)
	voter, learner := c.New("voter"), c.New("learner")
	voter.ID, voter.Env = e.addMember(voter)
	learner.ID, learner.Env = e.addMember(learner, "--learner")
	if env := strings.Join(learner.Env, "\n"); !strings.Contains(env, ",="+voter.Peer) && !strings.Contains(env, "=="+voter.Peer) {
		t.Errorf("no member that has not started in %s", env)
	}
	for _, n := range []*Node{voter, learner} {
		if got, want := ctlMember(e, n), (&pb.Member{PeerURLs: []string{n.Peer}, IsLearner: true}); !sameMember(got, want) {
			t.Errorf("reserved as %v", got)
		}
		e.refused(notInSync, "member", "promote", n.ID)
	}
	e.must("put", "a reservation", "blocks nobody")

	ctlLearner(t, c, e, learner)
	voter.Spawn()
	voter.WaitReady(startPatience)
	c.AwaitRole("voter", voter, learner)
	e.refused(notLearner, "member", "promote", voter.ID)
	for _, n := range append(founders, voter, learner) {
		want := &pb.Member{Name: n.Name, PeerURLs: []string{n.Peer}, ClientURLs: []string{n.Client}}
		c.Eventually(n.Name+" in the member list", func() error {
			if got := ctlMember(e, n); !sameMember(got, want) {
				return fmt.Errorf("%v, want %v", got, want)
			}
			return nil
		})
		row := fmt.Sprintf("%s, started, %s, %s, %s, false\n", short(n.ID), n.Name, n.Peer, n.Client)
		if text := e.must("member", "list"); !strings.Contains(text, row) {
			t.Errorf("member list: %s\nwant %s", text, row)
		}
		cells := []string{short(n.ID), "started", n.Name, n.Peer, n.Client, "false"}
		if text := e.must("member", "list", "-w", "table"); !slices.ContainsFunc(strings.Split(text, "\n"), func(line string) bool {
			return slices.Equal(strings.Fields(strings.ReplaceAll(line, "│", " ")), cells)
		}) {
			t.Errorf("member list: %s\nwant %s", text, cells)
		}
	}
	if got := e.must("endpoint", "health", "--cluster"); strings.Count(got, " is healthy: ") != 5 {
		t.Errorf("health of five: %s", got)
	}
	ctlUpdateAndRemove(t, e, voter, founders[0])
	e.must("member", "remove", learner.ID)
	for _, n := range []*Node{voter, learner} {
		if code, log := n.WaitExit(30 * time.Second); code == 0 || !strings.Contains(log, "removed") {
			t.Errorf("%s was removed and ended with %d:\n%s", n.Name, code, log)
		}
	}
}

// ctlLearner starts a learner, asks it what a learner answers, and promotes it.
func ctlLearner(t *testing.T, c *Cluster, e etcdctl, learner *Node) {
	t.Helper()
	learner.Spawn()
	learner.WaitReady(startPatience)
	c.AwaitRole("learner", learner)
	at := e.at(learner)
	const notHere = "etcdserver: rpc not supported for learner"
	at.refused(notHere, "get", "one")
	at.refused(notHere, "put", "one", "x")
	at.refused(notHere, "member", "list")
	at.says(says{"get one --consistency s", "one\nmore\n"})
	var status []endpointStatus
	at.json(&status, "endpoint", "status")
	if st := status[0].Status; !st.GetIsLearner() || fmt.Sprintf("%016x", st.GetHeader().GetMemberId()) != learner.ID || st.GetLeader() == 0 {
		t.Errorf("status of a learner: %v", st)
	}

	learner.Kill()
	c.awaitSilence(learner)
	e.refused(notInSync, "member", "promote", learner.ID)
	learner.Restart()
	c.Eventually("promotion", func() error {
		r := e.run("member", "promote", learner.ID)
		if r.Code != 0 && !strings.HasSuffix(r.Stderr, "Error: "+notInSync+"\n") || r.Code == 0 && !strings.HasPrefix(r.Stdout, sentence(learner, "promoted in")) {
			t.Errorf("promote: %s", r)
		}
		if r.Code != 0 {
			return errors.New(r.String())
		}
		return nil
	})
	// The member that was asked shows what the leader has done.
	if m := ctlMember(e, learner); m.GetIsLearner() {
		t.Errorf("promoted, and listed as %v", m)
	}
	e.refused(notLearner, "member", "promote", learner.ID)
}

func ctlUpdateAndRemove(t *testing.T, e etcdctl, n, other *Node) {
	t.Helper()
	e.refused(urlExists, "member", "update", n.ID, "--peer-urls", other.Peer)
	moved := fmt.Sprintf("http://127.0.0.1:%d", freePort(t))
	if got := e.must("member", "update", n.ID, "--peer-urls", moved); !strings.HasPrefix(got, sentence(n, "updated in")) {
		t.Errorf("update: %s", got)
	}
	if m := ctlMember(e, n); !slices.Equal(m.GetPeerURLs(), []string{moved}) || m.GetName() != n.Name || m.GetIsLearner() {
		t.Errorf("updated to %v", m)
	}
	e.must("member", "update", n.ID, "--peer-urls", n.Peer)

	var removed pb.MemberRemoveResponse
	e.json(&removed, "member", "remove", n.ID)
	if slices.ContainsFunc(removed.GetMembers(), func(m *pb.Member) bool { return fmt.Sprintf("%016x", m.GetID()) == n.ID }) ||
		removed.GetHeader().GetClusterId() == 0 || removed.GetHeader().GetRevision() != 0 {
		t.Errorf("remove: %v", &removed)
	}
	for _, id := range []string{n.ID, "1234"} {
		e.refused(notFound, "member", "remove", id)
		e.refused(notFound, "member", "promote", id)
		e.refused(notFound, "member", "update", id, "--peer-urls", moved)
	}
}

// ctlQuorum removes from three voters of which one is dead: a living one may not
// go, the dead one may.
func ctlQuorum(c *Cluster, e etcdctl, dead *Node) {
	e.t.Helper()
	dead.Kill()
	c.awaitSilence(dead)
	if r := e.run("endpoint", "health", "--cluster", "--command-timeout", "1s", "--dial-timeout", "1s"); r.Code != 1 ||
		!strings.Contains(r.Stderr, dead.Client+" is unhealthy: failed to commit proposal") || strings.Count(r.Stdout, " is healthy: ") != 2 {
		e.t.Errorf("health with a dead member: %s", r)
	}
	for _, n := range c.Running() {
		e.refused("etcdserver: unhealthy cluster", "member", "remove", n.ID)
	}
	if got := e.must("member", "remove", dead.ID); !strings.HasPrefix(got, sentence(dead, "removed from")) {
		e.t.Errorf("remove: %s", got)
	}
	var list pb.MemberListResponse
	e.json(&list, "member", "list")
	if len(list.GetMembers()) != 2 || list.GetHeader().GetClusterId() == 0 {
		e.t.Errorf("member list: %v", &list)
	}
	e.says(says{"put the end", "OK\n"}, says{"get the", "the\nend\n"})
}

// awaitSilence waits until the leader hears nothing of a member.
func (c *Cluster) awaitSilence(n *Node) {
	c.t.Helper()
	c.Eventually(n.Name+" out of contact", func() error {
		if r := c.Ask("status"); r.Code != 0 || memberIn(r, n.ID).Path("reachable") != false {
			return errors.New(r.String())
		}
		return nil
	})
}

// ctlMember gives a member as member list prints it as JSON; nil when it is not
// there.
func ctlMember(e etcdctl, n *Node) *pb.Member {
	e.t.Helper()
	var list pb.MemberListResponse
	e.json(&list, "member", "list")
	for _, m := range list.GetMembers() {
		if fmt.Sprintf("%016x", m.GetID()) == n.ID {
			return m
		}
	}
	return nil
}

// sameMember compares all but the ID.
func sameMember(a, b *pb.Member) bool {
	return a.GetName() == b.GetName() && slices.Equal(a.GetPeerURLs(), b.GetPeerURLs()) && slices.Equal(a.GetClientURLs(), b.GetClientURLs()) &&
		a.GetIsLearner() == b.GetIsLearner()
}
