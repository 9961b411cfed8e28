package sim

import (
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"

	"github.com/chainfire/cfseed/internal/datadir"
	"github.com/chainfire/cfseed/internal/fault"
	"github.com/chainfire/cfseed/internal/ident"
	"github.com/chainfire/cfseed/internal/state"
	"github.com/chainfire/cfseed/internal/state/store"
	"github.com/chainfire/cfseed/node/lessor"
	"github.com/chainfire/cfseed/node/policy"
	"github.com/chainfire/cfseed/node/raftloop"
	"github.com/chainfire/cfseed/node/replica"
	"github.com/chainfire/cfseed/raftlog"
	"github.com/chainfire/cfseed/snapshot"
)

// dataDir is where each node has its data, on a disk of its own.
const dataDir = "/data"

// Node is one member, or one that wants to be.
type Node struct {
	c    *Cluster
	name string
	id   uint64 // 0: not known yet
	disk *disk

	up    bool
	epoch int // raised at each start and stop: events of an earlier one are void
	fatal error

	log     *raftlog.Log
	store   *store.Store
	machine *state.Machine
	rep     *replica.Replica
	pol     *policy.Policy
	lessor  *lessor.Lessor
	began   int64

	appends   []*replica.AppendJob
	appending bool
	applies   []*replica.ApplyJob
	applying  bool
	stalled   bool // jobs are kept and not done

	captured   *snapshot.Seed // for Raft snapshots
	capturing  bool
	installing bool              // a Raft snapshot is on its way in
	staged     map[uint64]uint64 // snapshot index -> its state-<n>
}

// Name is the node's name.
func (n *Node) Name() string { return n.name }

// ID is the member ID, 0 while none is known.
func (n *Node) ID() uint64 { return n.id }

// Up reports whether the node runs.
func (n *Node) Up() bool { return n.up }

// Fatal is the error that ended the node, nil if none did.
func (n *Node) Fatal() error { return n.fatal }

// Machine is the state machine of a running node.
func (n *Node) Machine() *state.Machine { return n.machine }

// Log is the Raft log of a running node.
func (n *Node) Log() *raftlog.Log { return n.log }

// Status is the Raft status of a running node.
func (n *Node) Status() replica.Status { return n.rep.Status() }

// FS is the node's file system as it is now.
func (n *Node) FS() vfs.FS { return n.disk }

func (n *Node) dir() *datadir.Dir { return datadir.At(n.disk, dataDir) }

func (n *Node) logOptions() raftlog.Options {
	return raftlog.Options{FS: n.disk, Cache: n.c.cache, MemTableBytes: 4 << 20}
}

func (n *Node) storeOptions() store.Options {
	return store.Options{FS: n.disk, Cache: n.c.cache, MemTableBytes: 4 << 20}
}

// open starts the node from what its disk holds.
func (n *Node) open() (err error) {
	id, err := n.dir().ReadIdentity()
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, n.release())
		}
	}()
	if n.log, err = raftlog.Open(n.dir().Raft(), n.logOptions()); err != nil {
		return err
	}
	if n.log.State() == 0 { // Open has made a new one
		return fault.Newf(fault.Corrupt, "start "+n.name, "the raft log of a member is gone")
	}
	if err := n.openState(n.log.State()); err != nil {
		return err
	}
	if err := n.log.Reconcile(n.machine.Applied()); err != nil {
		return err
	}
	n.c.identify(n, id.MemberID)
	n.c.boots++
	n.rep, err = replica.New(replica.Config{
		ID: id.MemberID, Seed: n.c.rng.Uint64(), Boot: n.c.boots,
		Storage: n.log.Storage(n.confState, n.raftSnapshot), Applied: n.machine.Applied().Index,
		Trace: n.tracer(),
		Reject: func(m *raftpb.Message, reason error) {
			n.c.tracef("%s dropped %s from %x: %v", n.name, m.GetType(), m.GetFrom(), reason)
		},
	})
	if err != nil {
		return err
	}
	n.pol, n.lessor = policy.New(n.c.cfg.Policy), n.newLessor()
	n.began = n.c.now
	n.fatal, n.up = nil, true
	n.epoch++
	n.appends, n.applies, n.appending, n.applying = nil, nil, false, false
	n.captured, n.capturing, n.installing = nil, false, false
	n.staged = make(map[uint64]uint64)
	n.c.tracef("%s started, applied %s", n.name, n.machine.Applied())
	n.every(Tick, n.c.between(1, Tick), n.tick)
	n.every(n.c.between(20, 60)*Tick, 0, func() error { return n.store.Flush() })
	n.pump()
	return nil
}

// tracer gives where the replica's trace goes, nil if it is not kept.
func (n *Node) tracer() func(string) {
	if !n.c.cfg.Trace {
		return nil
	}
	return func(line string) { n.c.tracef("%s %s", n.name, line) }
}

func (n *Node) openState(num uint64) error {
	s, err := store.Open(n.dir().State(num), n.storeOptions())
	if err != nil {
		return err
	}
	m, err := state.Open(s)
	if err != nil {
		return errors.Join(err, s.Close())
	}
	n.store, n.machine = s, m
	return nil
}

func (n *Node) closeState() error {
	if n.store == nil {
		return nil
	}
	err := n.store.Close()
	n.store, n.machine = nil, nil
	return err
}

// release closes what is open.
func (n *Node) release() error {
	err := n.closeState()
	if n.log != nil {
		err = errors.Join(err, n.log.Close())
		n.log = nil
	}
	n.rep = nil
	return err
}

// Crash cuts the node's power: what is not synced is lost, except each block
// with the given probability.
func (n *Node) Crash(percent int) error {
	if !n.up {
		n.epoch++
		n.disk = n.disk.crash(percent, n.c.rng)
		n.installing = false
		return nil
	}
	n.c.tracef("%s crashed", n.name)
	n.up = false
	n.epoch++
	after := n.disk.crash(percent, n.c.rng)
	err := n.release() // on the old disk, which nobody sees again
	n.disk = after
	n.c.abandon(n)
	if errors.Is(err, raftlog.ErrBroken) {
		return nil
	}
	return err
}

// Stop ends the node in order; nothing is lost.
func (n *Node) Stop() error {
	if !n.up {
		return nil
	}
	n.c.tracef("%s stopped", n.name)
	n.up = false
	n.epoch++
	n.c.abandon(n)
	return n.release()
}

// Restart starts a node that does not run. One without an identity is left
// alone: there is nothing to start.
func (n *Node) Restart() error {
	if n.up {
		return nil
	}
	err := n.open()
	if errors.Is(err, os.ErrNotExist) {
		return fault.New(fault.Refused, "restart "+n.name, err)
	}
	return err
}

// Wipe empties the node's disk.
func (n *Node) Wipe() { n.disk = newDisk() }

// SetStalled keeps the node's writes and applies from being done, or lets them go.
func (n *Node) SetStalled(on bool) {
	n.stalled = on
	if !on && n.up {
		n.pump()
	}
}

// die ends the node as an error ends a process.
func (n *Node) die(err error) {
	n.fatal = err
	n.c.tracef("%s died: %v", n.name, err)
	n.up = false
	n.epoch++
	n.c.abandon(n)
	if cerr := n.release(); cerr != nil && !errors.Is(cerr, raftlog.ErrBroken) {
		n.c.breach("%s: closing: %v", n.name, cerr)
	}
}

// at runs fn now if the node still is in the given epoch, and looks for work
// afterwards.
func (n *Node) at(epoch int, fn func() error) {
	if !n.up || n.epoch != epoch {
		return
	}
	if err := fn(); err != nil {
		if n.up {
			n.die(err)
		}
		return
	}
	n.pump()
}

// after runs fn in d units, if the node still runs then.
func (n *Node) after(d int64, fn func() error) {
	epoch := n.epoch
	n.c.after(d, func() { n.at(epoch, fn) })
}

// every runs fn again and again.
func (n *Node) every(period, first int64, fn func() error) {
	if first == 0 {
		first = period
	}
	n.after(first, func() error {
		n.every(period, 0, fn)
		return fn()
	})
}

func (n *Node) tick() error {
	if err := n.rep.Tick(); err != nil {
		return err
	}
	return errors.Join(n.drive(), n.lessor.Tick(n.rep))
}

// pump takes the replica's work until there is none.
func (n *Node) pump() {
	for n.up {
		w, ok, err := n.rep.Ready()
		if err != nil {
			n.die(err)
			return
		}
		if !ok {
			break
		}
		if w.Role != nil {
			n.c.sawRole(n, *w.Role)
			n.lessor.Role(*w.Role)
		}
		for _, m := range w.Send {
			n.c.send(n, m)
		}
		n.appends = append(n.appends, w.Appends...)
		n.applies = append(n.applies, w.Applies...)
	}
	n.schedule()
}

// sawRole notes who led in a term: never two.
func (c *Cluster) sawRole(n *Node, role raftloop.Role) {
	if role.State != raft.StateLeader {
		return
	}
	if who, ok := c.leaders[role.Term]; ok && who != n.id {
		c.breach("%x and %x both led in term %d", who, n.id, role.Term)
	}
	c.leaders[role.Term] = n.id
}

func millis(units int64) time.Duration { return time.Duration(units) * time.Millisecond }

// confState is the configuration that goes with the replica's applied index.
func (n *Node) confState() (*raftpb.ConfState, error) {
	cs := n.machine.ConfState()
	return &raftpb.ConfState{Voters: cs.GetVoters(), Learners: cs.GetLearners()}, nil
}

// String gives the node's name and whether it runs.
func (n *Node) String() string {
	if !n.up {
		return n.name + " down"
	}
	s := n.rep.Status()
	return fmt.Sprintf("%s %s term=%d commit=%d applied=%d", n.name, s.State, s.Term, s.Commit, s.Applied)
}

// identity gives what the node's directory says, ok false when it says nothing.
func (n *Node) identity() (datadir.Identity, bool) {
	id, err := n.dir().ReadIdentity()
	return id, err == nil
}

// position is the state's, for tests.
func (n *Node) position() ident.Position { return n.machine.Applied() }
