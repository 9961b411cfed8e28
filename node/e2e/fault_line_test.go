//go:build e2e

package e2e

import (
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"testing"
	"time"

	"github.com/chainfire/cfseed/internal/shape"
)

// The environment of the tests of bad lines: any value of soakEnv makes them
// take the minutes and sizes of real lines instead of what fits beside the other
// tests (make soak-net); seedEnv repeats a run.
const (
	soakEnv = "CFSEED_E2E_SOAK"
	seedEnv = "CFSEED_E2E_SEED"
)

// scaled gives the short form of a figure, or the full one for a soak.
func scaled[T any](short, full T) T {
	if os.Getenv(soakEnv) != "" {
		return full
	}
	return short
}

// gigabit is the rate of the lines below, in bytes a second.
const gigabit = 125_000_000

// through pulls over a line while something happens to it, and gives the result
// and how much came twice, in percent. What was pulled is removed.
func (c *Cluster) through(line *shape.Proxy, name string, happens func(pull *command), flags ...string) (Result, float64) {
	c.t.Helper()
	n := c.New(name)
	line.Recount()
	pull := c.pull(n, line.Addr(), flags...)
	happens(pull)
	r := pull.ok(scaled(60*time.Second, 5*time.Minute))
	resent := resentPercent(line.Bytes(shape.Down), uint64(r.Num("bytes_total")))
	c.t.Logf("%s: %.2f %% of %.0f bytes came twice; %.0f retries, %.1f s", name, resent, r.Num("bytes_total"), r.Num("retries"), r.Num("seconds"))
	if resent > interrupted {
		c.t.Errorf("%s: %.2f %% of the bytes came twice: %s", name, resent, r.Stderr)
	}
	if err := os.RemoveAll(n.DataDir); err != nil {
		c.t.Error(err)
	}
	return r, resent
}

// pass lets time pass while a pull goes on; it must not end meanwhile.
func (k *command) pass(d time.Duration, what string) {
	k.c.t.Helper()
	select {
	case <-k.done:
		k.c.t.Fatalf("the command ended during %s: %s", what, k.wait(0))
	case <-time.After(d):
	}
}

// TestBadLine pulls over lines that reset every connection again and again, that
// swallow everything for a while, or one way only, and over a long one that
// stalls. Each pull goes on by itself, and hardly anything comes twice.
func TestBadLine(t *testing.T) {
	t.Parallel()
	c := NewCluster(t)
	_, line := c.behind("n1")
	c.load(scaled(96, 512))
	timeout := scaled(6*time.Second, time.Minute)
	line.Rate(shape.Down, gigabit)

	line.ResetEach(scaled[int64](40<<20, 64<<20))
	r, _ := c.through(line, "reset-each", func(*command) {})
	if r.Num("retries") < 1 {
		t.Errorf("no connection was reset: %s", r)
	}
	line.ResetEach(0)

	// Old connections stay dead, as those of TCP do for about as long again.
	hole := scaled(4*time.Second, time.Minute)
	c.through(line, "black-hole", func(pull *command) {
		pull.await(line.HoldAfter(20<<20), "the black hole")
		pull.pass(hole, "the black hole")
		line.Strand()
		line.Resume()
	}, "--timeout", timeout.String())
	for way, name := range []string{shape.Up: "mute", shape.Down: "deaf"} {
		c.through(line, name, func(pull *command) {
			pull.await(line.HoldAfter(20<<20, shape.Way(way)), "the cut")
			pull.pass(hole/2, "the cut of one way")
			line.Resume()
		}, "--timeout", timeout.String())
	}

	// One of the connections falls silent, and is not waited for for ever.
	c.through(line, "one-dead", func(pull *command) {
		pull.await(line.StrandAfter(20<<20), "the dead connection")
	}, "--timeout", timeout.String())

	const delay = 25 * time.Millisecond
	line.Shape(shape.Up, shape.Shape{Delay: delay})
	line.Shape(shape.Down, shape.Shape{Delay: delay, Rate: gigabit, Window: 3 << 20, StallEach: 8 << 20, Stall: 200 * time.Millisecond})
	c.through(line, "long-and-lossy", func(*command) {})
	if os.Getenv(soakEnv) != "" { // four connections, of which each is to last for a while
		line.ResetEach(64 << 20)
		c.through(line, "long-lossy-reset", func(*command) {})
	}
}

// TestRandomInterruptions ends target, source and line at random points, again
// and again: each pull goes on where it was, and what comes twice is counted on
// the line. The seed of the points is told, and can be given.
func TestRandomInterruptions(t *testing.T) {
	t.Parallel()
	seed := rand.Uint64()
	if given := os.Getenv(seedEnv); given != "" {
		var err error
		if seed, err = strconv.ParseUint(given, 10, 64); err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("%s=%d", seedEnv, seed)
	random := rand.New(rand.NewPCG(seed, seed))
	c := NewCluster(t)
	source, line := c.behind("n1")
	data := c.load(scaled(128, 256))
	line.Rate(shape.Down, gigabit)
	size := int64(data.pairs) * cargoValue
	kinds := []func(name string, at int64) float64{
		func(name string, at int64) float64 { return targetKilled(c, line, name, at) },
		func(name string, at int64) float64 { return sourceKilled(c, source, line, name, at) },
		func(name string, at int64) float64 {
			_, resent := c.through(line, name, func(pull *command) {
				pull.await(line.CutAfter(at), "the cut")
				line.Resume()
			})
			return resent
		},
	}
	var worst, sum float64
	runs := scaled(len(kinds), 10*len(kinds))
	for run := range runs {
		at := size/20 + random.Int64N(size*9/10)
		kind := run % len(kinds)
		resent := kinds[kind](fmt.Sprintf("%s-%d-at-%d", []string{"target-killed", "source-killed", "line-cut"}[kind], run, at), at)
		worst, sum = max(worst, resent), sum+resent
	}
	t.Logf("%d interruptions of seeds of %d MiB: %.2f %% came twice in the mean, %.2f %% at worst", runs, size>>20, sum/float64(runs), worst)
}

// targetKilled kills a pull after at bytes and runs it again.
func targetKilled(c *Cluster, line *shape.Proxy, name string, at int64) float64 {
	c.t.Helper()
	n := c.New(name)
	line.Recount()
	first := c.pull(n, line.Addr())
	first.await(line.HoldAfter(at), "the kill")
	first.kill()
	gone(line)
	notANode(c.t, n.DataDir)
	r := c.pull(n, line.Addr()).ok(time.Minute)
	resent := resentPercent(line.Bytes(shape.Down), uint64(r.Num("bytes_total")))
	c.t.Logf("%s: %.2f %% of %.0f bytes came twice, %.0f were there", name, resent, r.Num("bytes_total"), r.Num("bytes_reused"))
	if resent > interrupted || r.Num("bytes_reused") <= 0 {
		c.t.Errorf("%s: %.2f %% of the bytes came twice: %s", name, resent, r)
	}
	if err := os.RemoveAll(n.DataDir); err != nil {
		c.t.Error(err)
	}
	return resent
}

// sourceKilled kills the source after at bytes and starts it again on its ports:
// it serves the same seed under the same lease. How soon the target goes on is
// told, counted from the source's ready line.
func sourceKilled(c *Cluster, source *Node, line *shape.Proxy, name string, at int64) float64 {
	c.t.Helper()
	r, resent := c.through(line, name, func(pull *command) {
		pull.await(line.HoldAfter(at), "the kill")
		source.Kill()
		gone(line)
		next := line.NoticeAfter(128 << 10) // more than a greeting
		source.startBehind(line)
		ready := time.Now()
		pull.await(next, "the next bytes")
		c.t.Logf("%s: the seed moves %.2f s after the source is ready again", name, time.Since(ready).Seconds())
	})
	if r.Num("bytes_discarded") != 0 {
		c.t.Errorf("%s: the source serves another seed than before it was killed: %s", name, r)
	}
	return resent
}

// tookOver checks what a pull tells of a takeover against down, the bytes that
// all lines have seen.
func (c *Cluster) tookOver(r Result, down int64) {
	c.t.Helper()
	total, discarded := r.Num("bytes_total"), r.Num("bytes_discarded")
	c.t.Logf("%.2f MiB came for a seed of %.2f MiB, of which %.2f MiB (%.1f %%) could not be shared",
		float64(down)/(1<<20), total/(1<<20), discarded/(1<<20), 100*discarded/total)
	if r.Num("failovers") < 1 {
		c.t.Errorf("no other source took over: %s", r)
	}
	if beside := 100 * (float64(down) - total - discarded) / total; beside > interrupted || beside < 0 {
		c.t.Errorf("%.2f %% of the bytes came twice beside what was told: %s", beside, r)
	}
}
