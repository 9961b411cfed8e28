package sim

import (
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"testing"
)

// nemesis does random harm to a cluster of founders and joiners. All choices
// come from the seed.
type nemesis struct {
	t    *testing.T
	c    *Cluster
	rng  *rand.Rand
	put  int
	torn int // percent of what is not synced that survives a crash
}

// founders and joiners by name.
var founders, joiners = []string{"n1", "n2", "n3"}, []string{"n4", "n5"}

func newNemesis(t *testing.T, seed uint64, trace bool) *nemesis {
	t.Helper()
	c := New(Config{Seed: seed, Trace: trace})
	if err := c.Bootstrap(founders...); err != nil {
		t.Fatal(err)
	}
	return &nemesis{t: t, c: c, rng: rand.New(rand.NewPCG(seed, 2))}
}

// load has clients put and get a few keys through random nodes.
func (x *nemesis) load(n int) {
	for range n {
		nodes := x.c.Nodes()
		node := nodes[x.rng.IntN(len(nodes))]
		key := fmt.Sprintf("k%d", x.rng.IntN(4))
		if x.rng.IntN(3) == 0 {
			x.c.Get(node.Name(), key)
		} else {
			x.put++
			x.c.Put(node.Name(), key, strconv.Itoa(x.put))
		}
		x.c.RunFor(x.rng.Int64N(200))
	}
}

// harm does one thing.
func (x *nemesis) harm() {
	nodes := x.c.Nodes()
	n := nodes[x.rng.IntN(len(nodes))]
	switch x.rng.IntN(10) {
	case 0, 1:
		x.must(n.Crash(x.torn))
	case 2:
		x.must(n.Stop())
	case 3, 4:
		for _, n := range nodes {
			if _, ok := n.identity(); ok && !n.Up() && n.Fatal() == nil {
				x.must(n.Restart())
			}
		}
	case 5:
		var a, b []string
		for _, n := range nodes {
			if x.rng.IntN(2) == 0 {
				a = append(a, n.Name())
			} else {
				b = append(b, n.Name())
			}
		}
		x.c.Partition(a, b)
	case 6:
		x.c.Heal()
	case 7:
		x.c.SetDrop(x.rng.IntN(30))
	case 9: // enough to truncate the log behind whoever is away
		for i := range 60 {
			if l := x.c.Leader(); l != nil {
				x.c.Put(l.Name(), "bulk", fmt.Sprint(i))
			}
			x.c.RunFor(50)
		}
	case 8:
		if l := x.c.Leader(); l != nil {
			_ = l.rep.TransferLeader(n.ID()) // refused where it makes no sense
			l.pump()
		}
	}
}

func (x *nemesis) must(err error) {
	x.t.Helper()
	if err != nil {
		x.t.Fatal(err)
	}
}

// run does harm under load, with joins going on, then lets the cluster come to
// rest and looks for broken promises.
func (x *nemesis) run(rounds int) {
	x.t.Helper()
	x.c.RunFor(3 * Second)
	for i := range rounds {
		if i%10 == 3 {
			name := joiners[x.rng.IntN(len(joiners))]
			if n := x.c.Node(name); (n == nil || !n.Up()) && !x.joining(name) {
				x.c.Add(name, Options{Learner: x.rng.IntN(4) == 0, Deadline: 40 * Second})
			}
		}
		x.load(x.rng.IntN(12))
		x.harm()
	}
	if err := x.c.Settle(120 * Second); err != nil {
		x.t.Error(err)
	}
	// Leases and reservations of joins that failed end by the policy's clocks.
	x.c.RunUntil(90*Second, func() bool { return len(x.c.CheckClean()) == 0 })
	if err := x.c.Settle(60 * Second); err != nil {
		x.t.Error(err)
	}
	for _, b := range append(x.c.Check(), x.c.CheckClean()...) {
		x.t.Error(b)
	}
	for _, n := range x.c.Nodes() {
		if n.Fatal() != nil {
			x.t.Errorf("%s died: %v", n.Name(), n.Fatal())
		}
	}
}

func (x *nemesis) joining(name string) bool {
	for _, j := range x.c.joins {
		if j.Node == name && !j.Ended {
			return true
		}
	}
	return false
}

// TestNemesis runs random schedules. A failure names its seed; run it alone with
// CFSEED_SIM_SEED. CFSEED_SIM_RUNS sets the number of schedules.
func TestNemesis(t *testing.T) { harmAll(t, 10, 0) }

// TestNemesisTorn is TestNemesis with crashes that leave a random half of what
// was not synced. What Pebble's background work had written by then is up to
// chance, so a failure may need several runs to show again.
func TestNemesisTorn(t *testing.T) { harmAll(t, 5, 50) }

func harmAll(t *testing.T, runs, torn int) {
	t.Helper()
	first := uint64(1)
	if s := os.Getenv("CFSEED_SIM_RUNS"); s != "" {
		runs, _ = strconv.Atoi(s)
	}
	if s := os.Getenv("CFSEED_SIM_SEED"); s != "" {
		first, _ = strconv.ParseUint(s, 10, 64)
		runs = 1
	}
	for seed := first; seed < first+uint64(runs); seed++ {
		t.Run(fmt.Sprintf("seed=%d", seed), func(t *testing.T) {
			x := newNemesis(t, seed, runs == 1 || torn > 0)
			x.torn = torn
			defer func() {
				if t.Failed() {
					for _, line := range x.c.Trace() {
						t.Log(line)
					}
				}
				if err := x.c.Close(); err != nil {
					t.Error(err)
				}
			}()
			x.run(40)
		})
	}
}
