//go:build e2e

package e2e

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/chainfire/cfseed/internal/shape"
)

// interrupted is how much of a seed may come twice for each interruption.
const interrupted = 5.0 // percent

// TestTargetKilledMidPull kills the pull at random bytes and runs it again: it
// goes on where it was, and there is never half a node.
func TestTargetKilledMidPull(t *testing.T) {
	t.Parallel()
	c := NewCluster(t)
	source, line := c.behind("n1")
	data := c.load(96)
	line.Rate(shape.Down, 64<<20)
	for _, name := range []string{"early", "late"} {
		n := c.New(name)
		line.Recount()
		at := int64(8<<20) + rand.Int64N(30<<20)
		if name == "late" {
			at += 48 << 20
		}
		first := c.pull(n, line.Addr())
		first.await(line.HoldAfter(at), "the kill")
		first.kill()
		gone(line)
		notANode(t, n.DataDir)
		before := line.Bytes(shape.Down)
		r := c.pull(n, line.Addr()).ok(60 * time.Second)
		resent := resentPercent(line.Bytes(shape.Down), uint64(r.Num("bytes_total")))
		t.Logf("killed after %d bytes, %d counted; the second run says %.0f of %.0f bytes were there; %.2f %% came twice",
			at, before, r.Num("bytes_reused"), r.Num("bytes_total"), resent)
		if resent > interrupted {
			t.Errorf("%.2f %% of the bytes came twice", resent)
		}
		if r.Num("bytes_reused") <= 0 || r.Num("bytes_total") < 90<<20 {
			t.Errorf("nothing was resumed: %s", r)
		}
		if code := c.CLI("verify", "--data-dir", n.DataDir).Code; code != 0 {
			t.Errorf("verify: exit %d", code)
		}
		if name == "late" {
			n.joins(source)
			data.checkOn(source, n)
		}
	}
}

// gone ends the hole in which a line has kept a pull at one byte until an end of
// it was killed; what the hole has taken is lost.
func gone(line *shape.Proxy) {
	line.Reset()
	line.Resume()
}

// TestSourceKilledMidPull kills the only source with SIGKILL and starts it
// again: the same pull goes on.
func TestSourceKilledMidPull(t *testing.T) {
	t.Parallel()
	sourceEndsMidPull(t, func(source *Node) { source.Kill() })
}

// TestSourceStoppedMidPull stops it in order (SIGTERM), which is no reason to
// begin again either. Once nobody needs the seed any more, its files go.
func TestSourceStoppedMidPull(t *testing.T) {
	t.Parallel()
	source := sourceEndsMidPull(t, func(source *Node) {
		if code := source.Stop(); code != 0 {
			t.Errorf("the source ended with %d", code)
		}
		if names := seedsOf(t, source); len(names) != 1 {
			t.Errorf("%v outlive the stop", names)
		}
	})
	source.c.Eventually("an empty seeds/", func() error {
		if names := seedsOf(t, source); len(names) != 0 {
			return fmt.Errorf("%v", names)
		}
		return nil
	})
}

// sourceEndsMidPull ends the only source of a pull in the middle and starts it
// again: it serves the same seed, of which hardly anything comes twice.
func sourceEndsMidPull(t *testing.T, end func(source *Node)) *Node {
	t.Helper()
	c := NewCluster(t)
	source, line := c.behind("n1")
	data := c.load(96)
	line.Rate(shape.Down, 64<<20)
	n := c.New("n2")
	pull := c.pull(n, line.Addr())
	at := int64(20<<20) + rand.Int64N(50<<20)
	pull.await(line.NoticeAfter(at), "the kill")
	end(source)
	source.startBehind(line)
	r := pull.ok(60 * time.Second)
	resent := resentPercent(line.Bytes(shape.Down), uint64(r.Num("bytes_total")))
	if strings.Contains(r.Stderr, "event=restaged") {
		t.Errorf("the source serves another seed than before it ended: %s", r.Stderr)
	}
	t.Logf("source ended after %d bytes; %.2f %% of %.0f bytes came twice", at, resent, r.Num("bytes_total"))
	if resent > interrupted {
		t.Errorf("%.2f %% of the bytes came twice: %s", resent, r.Stderr)
	}
	n.joins(source)
	data.checkOn(source, n)
	return source
}

// TestSourceKilledFailsOver kills the source for good: the same command goes on
// at another member. Members that were seeded themselves have files in common
// with their source; how much could not be shared is told.
func TestSourceKilledFailsOver(t *testing.T) {
	t.Parallel()
	c := NewCluster(t)
	first, line1 := c.behind("n1")
	data := c.load(40)
	second, line2 := c.behind("n2", "--join", first.Client)
	third, line3 := c.behind("n3", "--join", first.Client)
	c.AwaitRole("voter", second, third)
	data.more(8)
	for _, p := range []*shape.Proxy{line1, line2, line3} {
		p.Rate(shape.Down, 24<<20)
		p.Recount()
	}
	n := c.New("n4")
	pull := c.pull(n, line2.Addr())
	pull.await(line2.HoldAfter(44<<20), "the kill") // of 48: the newest are each member's own
	second.Kill()
	gone(line2)
	r := pull.ok(60 * time.Second)
	down := line1.Bytes(shape.Down) + line2.Bytes(shape.Down) + line3.Bytes(shape.Down)
	c.tookOver(r, down)
	if line1.Bytes(shape.Down)+line3.Bytes(shape.Down) == 0 {
		t.Error("no other member has served")
	}
	n.joins(first)
	data.checkOn(first, third, n)
}

// TestLineCutMidPull breaks the connections again and again; the pull is never
// run again.
func TestLineCutMidPull(t *testing.T) {
	t.Parallel()
	c := NewCluster(t)
	source, line := c.behind("n1")
	data := c.load(96)
	line.Rate(shape.Down, 64<<20)
	n := c.New("n2")
	pull := c.pull(n, line.Addr(), "--parallel", "2")
	const cuts = 3
	for range cuts {
		pull.await(line.CutAfter(20<<20), "the cut")
		line.Resume()
	}
	r := pull.ok(60 * time.Second)
	resent := resentPercent(line.Bytes(shape.Down), uint64(r.Num("bytes_total")))
	t.Logf("%d cuts: %.2f %% of %.0f bytes came twice", cuts, resent, r.Num("bytes_total"))
	if resent > cuts*interrupted {
		t.Errorf("%.2f %% of the bytes came twice: %s", resent, r.Stderr)
	}
	n.joins(source)
	data.checkOn(source, n)
}

// TestBlackholeEndsWithTimeout lets the line swallow everything: the pull ends
// in time with a class, keeps what it has, and goes on when it is run again.
func TestBlackholeEndsWithTimeout(t *testing.T) {
	t.Parallel()
	timeout := scaled(3*time.Second, time.Minute)
	patience := timeout + 30*time.Second
	c := NewCluster(t)
	_, line := c.behind("n1")
	c.load(24)
	line.Rate(shape.Down, 32<<20)
	n := c.New("n2")
	pull := c.pull(n, line.Addr(), "--timeout", timeout.String())
	pull.await(line.HoldAfter(12<<20), "the black hole")
	began := time.Now()
	r := pull.wait(patience)
	ended(t, "pull through a black hole", r, 3, "timeout", "unreachable")
	t.Logf("ended %.1f s after the last byte", time.Since(began).Seconds())
	notANode(t, n.DataDir)
	if _, err := os.Stat(filepath.Join(n.DataDir, "staging")); err != nil {
		t.Errorf("what was staged is gone: %v", err)
	}
	ended(t, "pull from a black hole", c.pull(c.New("n3"), line.Addr(), "--timeout", timeout.String()).wait(patience), 3, "timeout", "unreachable")
	line.Resume()
	if r := c.pull(n, line.Addr(), "--timeout", timeout.String()).ok(30 * time.Second); r.Num("bytes_reused") < 4<<20 {
		t.Errorf("what was staged was not used: %s", r)
	}
}
