//go:build e2e

package e2e

import (
	"fmt"
	"strings"
	"testing"
	"time"
)

// TestMemberAddNobodyThere: nobody at the URL is exit 3, the command to start
// the newcomer, and nothing changed.
func TestMemberAddNobodyThere(t *testing.T) {
	t.Parallel()
	c := NewCluster(t)
	first := c.Start("n1")
	before := c.MustAsk("member", "list").Stdout
	nobody := c.New("n2")
	r := c.Ask("member", "add", nobody.Name, "--peer-urls", nobody.Peer)
	hint := r.Str("error", "hint")
	if r.Code != 3 || r.Str("error", "code") != "unreachable" || !strings.Contains(hint, "cfseed node --name n2 --await-seed") ||
		!strings.Contains(hint, nobody.Peer) {
		t.Errorf("member add: %s", r)
	}
	if after := c.MustAsk("member", "list").Stdout; after != before {
		t.Errorf("the member list was %s, is %s", before, after)
	}
	// What the hint says works: its flags bring the newcomer in.
	flags := strings.Fields(hint[strings.Index(hint, "--await-seed"):strings.Index(hint, ";")])
	nobody.Spawn(flags...)
	nobody.WaitLine("waiting for seed", startPatience)
	c.add(nobody)
	c.AwaitRole("voter", first, nobody)
}

// TestMemberAddNoSeed only reserves; the node that comes then has the ID.
func TestMemberAddNoSeed(t *testing.T) {
	t.Parallel()
	c := NewCluster(t)
	first := c.Start("n1")
	n := c.New("n2")
	r := c.MustAsk("member", "add", n.Name, "--peer-urls", n.Peer, "--no-seed")
	id := r.Str("member_id")
	if m := memberIn(c.MustAsk("member", "list"), id); m.Str("state") != "reserved" || m.Str("name") != n.Name {
		t.Fatalf("member add --no-seed: %s\nlisted as %v", r, m.JSON)
	}
	w := c.StartWriter(1, 100)
	w.AwaitMore(20) // a reservation does not count for the quorum
	n.Spawn("--join", first.Client)
	n.WaitReady(startPatience)
	if n.ID != id {
		t.Errorf("reserved %s, became %s", id, n.ID)
	}
	c.AwaitRole("voter", n)
	w.CheckOn()
}

// TestMemberLifecycle goes through list, promote, update and remove with their
// JSON and exit codes.
func TestMemberLifecycle(t *testing.T) {
	t.Parallel()
	c := NewCluster(t)
	first := c.Start("n1")
	w := c.StartWriter(1, 100)
	w.AwaitMore(20)
	n := c.StartAwaiting("n2")
	r := c.MustAsk("member", "add", n.Name, "--peer-urls", n.Peer, "--learner")
	n.WaitReady(startPatience)
	if r.Str("role") != "learner" {
		t.Errorf("member add --learner: %s", r)
	}
	c.AwaitRole("learner", n)
	c.AwaitRole("voter", first)

	// A learner is asked like any member; the leader does what only it can.
	// It waits until the learner has been caught up for a while.
	if r := c.CLI("member", "promote", n.ID, "--endpoints", n.Client); r.Code != 0 || memberIn(r, n.ID).Str("role") != "voter" {
		t.Errorf("promote: %s", r)
	}
	refused(t, "promote a voter", c.Ask("member", "promote", n.ID), "refused")
	wrong(t, "an ID of nobody", c.Ask("member", "promote", "00000000000000ff"))
	if bad := c.Ask("member", "remove", "n2"); bad.Code != 2 || bad.Str("error", "code") != "usage" {
		t.Errorf("remove by name: %s", bad)
	}

	// It moves: first the new URL is made known, then it is started there.
	moved := c.New("n2")
	updated := c.Ask("member", "update", n.ID, "--peer-urls", moved.Peer)
	if m := memberIn(updated, n.ID); updated.Code != 0 || fmt.Sprint(m.Path("peer_urls")) != fmt.Sprint([]string{moved.Peer}) || m.Str("role") != "voter" {
		t.Fatalf("update: %s", updated)
	}
	n.Stop()
	n.Peer = moved.Peer
	n.Restart()
	w.AwaitMore(20)

	third := c.StartAwaiting("n3")
	c.add(third)
	removed := c.Ask("member", "remove", n.ID)
	if removed.Code != 0 || memberIn(removed, n.ID).JSON != nil {
		t.Fatalf("remove: %s", removed)
	}
	if code, log := n.WaitExit(30 * time.Second); code == 0 || !strings.Contains(log, "removed") {
		t.Errorf("the removed node ended with %d:\n%s", code, log)
	}
	// Started again it learns that it was removed, and never disturbs anybody.
	term := c.term(c.Leader())
	n.Spawn()
	if code, log := n.WaitExit(30 * time.Second); code == 0 || !strings.Contains(log, "removed") {
		t.Errorf("the removed node, started again, ended with %d:\n%s", code, log)
	}
	if now := c.term(c.Leader()); now != term {
		t.Errorf("a removed node raised the term from %d to %d", term, now)
	}
	wrong(t, "remove twice", c.Ask("member", "remove", n.ID))
	w.CheckOn(first, third)

	list := c.MustAsk("member", "list")
	if members, _ := list.Path("members").([]any); len(members) != 2 || memberIn(list, n.ID).JSON != nil {
		t.Errorf("member list: %s", list)
	}
}

// wrong wants a command to have failed with a typed error.
func wrong(t *testing.T, what string, r Result) {
	t.Helper()
	if r.Code == 0 || r.Str("error", "code") == "" || r.Str("error", "code") == "internal" || r.Str("error", "message") == "" {
		t.Errorf("%s: want a typed error, got %s", what, r)
	}
}

// TestEndedReservation: the ID of a reservation that was removed is never used
// again. A node that was seeded under it joins under a new one, with the bytes
// it has.
func TestEndedReservation(t *testing.T) {
	t.Parallel()
	c := NewCluster(t)
	first := c.Start("n1")
	w := c.StartWriter(1, 1000)
	w.AwaitMore(100)
	n := c.New("n2")
	pulled := c.CLI("pull", "--from", first.Client, "--data-dir", n.DataDir, "--name", n.Name)
	if pulled.Code != 0 {
		t.Fatalf("pull: %s", pulled)
	}
	if r := c.Ask("member", "remove", pulled.Str("member_id")); r.Code != 0 {
		t.Fatalf("remove: %s", r)
	}
	c.AwaitNoLease() // the hold has ended with the reservation
	n.Spawn("--join", first.Client)
	n.WaitReady(startPatience)
	if n.ID == pulled.Str("member_id") {
		t.Errorf("%s was removed and is a member again", n.ID)
	}
	c.AwaitRole("voter", n)
	if got := first.Metric(snapshotsSent, "to="+n.ID); got != 0 {
		t.Errorf("%v Raft snapshots sent", got)
	}
	if members, _ := c.MustAsk("member", "list").Path("members").([]any); len(members) != 2 {
		t.Errorf("members: %v", members)
	}
	w.CheckOn()
	c.AwaitNoLease()
}
