//go:build e2e

package e2e

import (
	"fmt"
	"testing"
	"time"
)

// TestStatusShowsSeedsOfFollowers: a seed that a follower serves, pulled or
// pushed, is in progress for whoever asks any member.
func TestStatusShowsSeedsOfFollowers(t *testing.T) {
	t.Parallel()
	c, _ := three(t)
	c.load(16)
	source := c.Followers()[0]
	pulled, pushed := c.New("pulled"), c.StartAwaiting("pushed")
	for _, seeding := range []struct {
		target *Node
		begin  func() *command
	}{
		{pulled, func() *command {
			return c.pull(pulled, source.Client, "--rate-limit", "512KiB", "--name", pulled.Name)
		}},
		{pushed, func() *command {
			return c.begin("push", "--from", source.Client, "--to", pushed.Peer, "--rate-limit", "512KiB", "--compression", "none")
		}},
	} {
		command := seeding.begin()
		lease := c.seedOf(source, seeding.target)
		percent := lease.Num("percent")
		if rate := lease.Num("bytes_per_second"); rate <= 0 || rate > 16<<20 {
			t.Errorf("%s gets %v bytes a second, want about 512 KiB", seeding.target.Name, rate)
		}
		c.Eventually("progress of "+seeding.target.Name, func() error {
			now := c.seedOf(source, seeding.target).Num("percent")
			if now <= percent || now > 100 {
				return fmt.Errorf("%v %% now, %v %% before", now, percent)
			}
			return nil
		})
		command.kill()
	}
	c.EventuallyIn(time.Minute, "no seed in progress", func() error {
		if seeds, ok := c.MustAsk("status").Path("seeds").([]any); !ok || len(seeds) > 0 {
			return fmt.Errorf("seeds %v", seeds)
		}
		return nil
	})
}

// seedOf waits for the seed on its way from a member to a node, as every other
// member tells it, and gives it.
func (c *Cluster) seedOf(source, target *Node) Result {
	c.t.Helper()
	var found Result
	c.Eventually("a seed for "+target.Name, func() error {
		for _, n := range c.Running() {
			r := c.CLI("status", "--endpoints", n.Client)
			found = Result{}
			for _, lease := range objects(r, "leases") {
				for _, seed := range objects(r, "seeds") {
					if lease.Str("source_id") == source.ID && lease.Str("id") == seed.Str("lease_id") && target.is(seed.Str("target")) {
						found = seed
					}
				}
			}
			if found.Num("percent") <= 0 {
				return fmt.Errorf("asked %s: %s", n.Name, r)
			}
		}
		return nil
	})
	return found
}

// is reports whether a seed's target is the node: a push knows its address only.
func (n *Node) is(target string) bool { return target == n.Name || target == n.Peer }

// objects gives the objects of a list in a result.
func objects(r Result, key string) []Result {
	list, _ := r.Path(key).([]any)
	var out []Result
	for _, item := range list {
		if object, ok := item.(map[string]any); ok {
			out = append(out, Result{JSON: object})
		}
	}
	return out
}
