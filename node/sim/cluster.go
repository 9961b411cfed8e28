package sim

import (
	"fmt"
	"hash/fnv"
	"math/rand/v2"
	"slices"
	"strings"

	"github.com/cockroachdb/pebble/v2"
	"go.etcd.io/raft/v3/raftpb"

	"github.com/chainfire/cfseed/internal/ident"
	"github.com/chainfire/cfseed/node/policy"
)

// Config parametrises a Cluster.
type Config struct {
	Seed  uint64
	Trace bool // keep the trace
	// Policy holds the bounds of the clean-up; zero fields are those of a
	// cluster whose log is short and whose operators are in a hurry.
	Policy policy.Options
	// LeaseTTL is that of the seed leases of joins, in units; 0: 20 seconds.
	LeaseTTL int64
	// LeaseBytes is their cap; 0: 64 MiB.
	LeaseBytes uint64
	// Message delays in units, and messages lost in percent.
	MinDelay, MaxDelay int64 // 0: 1 and 20
	DropPercent        int
}

// Cluster is a set of nodes and everything between them. Not for concurrent use.
type Cluster struct {
	cfg   Config
	rng   *rand.Rand
	now   int64
	seq   uint64
	queue events
	procs []*proc
	cache *pebble.Cache
	boots uint32

	cluster ident.Cluster
	names   []string // in order of creation
	nodes   map[string]*Node
	byID    map[uint64]*Node

	link  func(from, to string) bool // nil: all are connected
	trace []string
	alias []string // pairs of a hex ID and a name, for the trace
	named *strings.Replacer

	broken  []string          // promises broken, as noticed
	leaders map[uint64]uint64 // term -> who led
	entries map[uint64]string // index -> the entry applied there
	ops     []*Op
	joins   []*Join
	leases  leaseHistory
	snaps   map[string]int // MsgSnap sent, by target
	probe   func(*Node, *raftpb.Message) bool
}

// New returns an empty cluster.
func New(cfg Config) *Cluster {
	if cfg.MaxDelay == 0 {
		cfg.MinDelay, cfg.MaxDelay = 1, 20
	}
	if cfg.LeaseTTL == 0 {
		cfg.LeaseTTL = 20 * Second
	}
	if cfg.LeaseBytes == 0 {
		cfg.LeaseBytes = 64 << 20
	}
	cfg.Policy = shortTempered(cfg.Policy)
	return &Cluster{
		cfg: cfg, rng: rand.New(rand.NewPCG(cfg.Seed, 1)), cache: pebble.NewCache(8 << 20),
		nodes: make(map[string]*Node), byID: make(map[uint64]*Node),
		leaders: make(map[uint64]uint64), entries: make(map[uint64]string), leases: leaseHistory{ended: make(map[int64]int64)}, snaps: make(map[string]int),
	}
}

func shortTempered(o policy.Options) policy.Options {
	if o.ReservationTTL == 0 {
		o.ReservationTTL = millis(30 * Second)
	}
	if o.LearnerTimeout == 0 {
		o.LearnerTimeout = millis(20 * Second)
	}
	if o.TrailingEntries == 0 {
		o.TrailingEntries = 20
	}
	return o
}

// Close ends everything and gives the first error in doing so.
func (c *Cluster) Close() error {
	for _, p := range c.procs {
		p.stop()
	}
	var first error
	for _, name := range c.names {
		n := c.nodes[name]
		if n.up {
			n.up = false
			if err := n.release(); err != nil && first == nil {
				first = err
			}
		}
	}
	c.cache.Unref()
	return first
}

// Now is the virtual time in units.
func (c *Cluster) Now() int64 { return c.now }

// Node gives a node by name, nil if there is none.
func (c *Cluster) Node(name string) *Node { return c.nodes[name] }

// Nodes lists the nodes in order of their creation.
func (c *Cluster) Nodes() []*Node {
	out := make([]*Node, len(c.names))
	for i, name := range c.names {
		out[i] = c.nodes[name]
	}
	return out
}

// Leader gives the running node that leads in the highest term, nil if none.
func (c *Cluster) Leader() *Node {
	var best *Node
	var bestTerm uint64
	for _, n := range c.Nodes() {
		if !n.up {
			continue
		}
		if term, ok := n.rep.Leads(); ok && term > bestTerm {
			best, bestTerm = n, term
		}
	}
	return best
}

// idOf derives the ID of a founding member from its name.
func idOf(name string) uint64 {
	h := fnv.New64a()
	_, _ = h.Write([]byte(name))
	return h.Sum64()
}

func (c *Cluster) newNode(name string) *Node {
	n := &Node{c: c, name: name, disk: newDisk()}
	c.nodes[name] = n
	c.names = append(c.names, name)
	return n
}

// identify gives a node its ID.
func (c *Cluster) identify(n *Node, id uint64) {
	n.id = id
	c.byID[id] = n
	pair := fmt.Sprintf("%x", id)
	if !slices.Contains(c.alias, pair) {
		c.alias = append(c.alias, pair, n.name)
		c.named = strings.NewReplacer(c.alias...)
	}
}

// nonce draws 16 bytes.
func (c *Cluster) nonce() ident.Nonce {
	var n ident.Nonce
	for i := range n {
		n[i] = byte(c.rng.Uint32())
	}
	return n
}

// tracef adds a line to the trace.
func (c *Cluster) tracef(format string, args ...any) {
	if !c.cfg.Trace {
		return
	}
	line := fmt.Sprintf("%d ", c.now) + fmt.Sprintf(format, args...)
	c.trace = append(c.trace, c.readable(line))
}

// readable puts names for IDs.
func (c *Cluster) readable(s string) string {
	if c.named == nil {
		return s
	}
	return c.named.Replace(s)
}

// Trace gives what was traced since the last call.
func (c *Cluster) Trace() []string {
	out := c.trace
	c.trace = nil
	return out
}

// breach notes a broken promise.
func (c *Cluster) breach(format string, args ...any) {
	msg := c.readable(fmt.Sprintf(format, args...))
	c.broken = append(c.broken, fmt.Sprintf("%d %s", c.now, msg))
	c.tracef("BROKEN: %s", msg)
}
