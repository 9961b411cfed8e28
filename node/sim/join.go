package sim

import (
	"context"
	"errors"
	"fmt"

	"google.golang.org/protobuf/proto"

	"github.com/chainfire/cfseed/internal/datadir"
	"github.com/chainfire/cfseed/internal/fault"
	"github.com/chainfire/cfseed/internal/state"
	"github.com/chainfire/cfseed/internal/state/envelope"
	"github.com/chainfire/cfseed/node/policy"
	entryv1 "github.com/chainfire/cfseed/proto/chainfire/entry/v1"
	"github.com/chainfire/cfseed/snapshot"
)

// Join is a node's way into the cluster.
type Join struct {
	Node  string
	Phase string // reserve, lease, seed, bind, start, admit, catch up, done
	Err   error  // when it ended without success
	Ended bool

	Learner         bool   // it is to stay one
	From            string // source; empty: the leader
	EntriesAfterAdd uint64 // entries the learner needed when it was admitted
	Seeds           int    // how often a seed was fetched

	deadline int64
	epoch    int // of the node while the join goes on
	rec      *entryv1.MemberRecord
	lease    *entryv1.SeedLease
}

// Options of a join. The zero value joins as a voter, seeded by the leader.
type Options struct {
	Learner  bool
	From     string
	Deadline int64 // in units; 0: 120 seconds
}

// Add starts a join and returns at once. A node that was stopped or has crashed
// on its way in continues.
func (c *Cluster) Add(name string, o Options) *Join {
	if o.Deadline == 0 {
		o.Deadline = 120 * Second
	}
	j := &Join{Node: name, Learner: o.Learner, From: o.From, deadline: c.now + o.Deadline}
	c.joins = append(c.joins, j)
	n := c.nodes[name]
	if n == nil {
		n = c.newNode(name)
	}
	j.epoch = n.epoch
	c.spawn(func(p *proc) {
		j.Err = j.run(p, n)
		j.Ended = true
		if j.Err == nil {
			j.Phase = "done"
		}
		c.tracef("join of %s ended in phase %q: %v", name, j.Phase, j.Err)
	})
	return j
}

// OK reports whether the join ended well.
func (j *Join) OK() bool { return j.Ended && j.Err == nil }

func (j *Join) phase(p *proc, name string) {
	j.Phase = name
	p.c.tracef("join of %s: %s", j.Node, name)
}

// run goes through the phases. A seed that is too old or lost its lease by the
// time of admission is fetched again only while nothing is committed to disk;
// afterwards the member needs a new directory, which here is an error.
func (j *Join) run(p *proc, n *Node) error {
	if id, ok := n.identity(); ok {
		p.c.identify(n, id.MemberID)
		j.rec = &entryv1.MemberRecord{Id: id.MemberID}
		return j.enter(p, n, id)
	}
	nonce := p.c.nonce()
	j.phase(p, "reserve")
	res, err := j.propose(p, envelope.ReserveMember, &entryv1.ReserveMember{
		Name: n.name, PeerUrls: []string{peerURL(n.name)}, StayLearner: j.Learner, DirectoryNonce: nonce.Bytes(),
	})
	if err != nil {
		return err
	}
	j.rec = res.(*entryv1.MemberRecord)
	p.c.identify(n, j.rec.GetId())
	var id datadir.Identity
	for {
		id, err = j.seed(p, n, nonce)
		if err == nil {
			break
		}
		retry := fault.Is(err, fault.Unreachable) || fault.Is(err, fault.Timeout) || fault.Is(err, fault.LeaseLost)
		if !retry || p.c.now >= j.deadline {
			return err
		}
		p.sleep(200)
	}
	j.phase(p, "bind")
	if _, err := j.propose(p, envelope.BindMember, &entryv1.BindMember{Id: j.rec.GetId(), DirectoryNonce: nonce.Bytes()}); err != nil {
		return err
	}
	return j.enter(p, n, id)
}

// seed fetches and installs a seed.
func (j *Join) seed(p *proc, n *Node, nonce [16]byte) (datadir.Identity, error) {
	var none datadir.Identity
	if err := j.openLease(p); err != nil {
		return none, err
	}
	source, err := j.source(p)
	if err != nil {
		return none, err
	}
	j.phase(p, "seed")
	seed, err := source.capture(fmt.Sprintf("join-%d-%s", j.lease.GetId(), n.name))
	if err != nil {
		return none, err
	}
	sourceEpoch := source.epoch
	defer func() {
		if source.epoch == sourceEpoch {
			_ = seed.Remove() // a crash on the way leaves it to the next start
		}
	}()
	if err := j.gone(n); err != nil {
		return none, err
	}
	stage, err := snapshot.OpenStage(context.Background(), n.dir(), seed.ManifestBytes())
	if err != nil {
		return none, err
	}
	j.Seeds++
	if err := p.transfer(source, seed, n, stage); err != nil {
		if j.gone(n) == nil {
			return none, joined(err, stage.Close())
		}
		return none, err
	}
	id := datadir.Identity{Cluster: seed.Manifest().Cluster, MemberID: j.rec.GetId(), Directory: nonce, Name: n.name,
		Seed: &datadir.SeedRef{Position: seed.Position(), ManifestRoot: seed.Root(), LeaseID: j.lease.GetId()}}
	if err := stage.Install(context.Background(), id, snapshot.InstallOptions{Raft: n.logOptions()}); err != nil {
		return none, err
	}
	p.c.tracef("%s installed the seed at %s", n.name, seed.Position())
	return id, nil
}

// openLease opens a lease unless the join has one that is alive.
func (j *Join) openLease(p *proc) error {
	if j.lease != nil && p.c.leaseAlive(j.lease.GetId()) {
		return nil
	}
	j.phase(p, "lease")
	res, err := j.propose(p, envelope.OpenSeedLease, &entryv1.OpenSeedLease{
		TtlMs: uint64(p.c.cfg.LeaseTTL), CapBytes: p.c.cfg.LeaseBytes, MemberId: j.rec.GetId(), Target: j.Node,
	})
	if err != nil {
		return err
	}
	j.lease = res.(*entryv1.SeedLease)
	return nil
}

func (c *Cluster) leaseAlive(id uint64) bool {
	l := c.Leader()
	if l == nil {
		return true // nobody could have ended it
	}
	for _, s := range l.machine.SeedLeases() {
		if s.GetId() == id {
			return true
		}
	}
	return false
}

// source waits for a source that has applied the lease.
func (j *Join) source(p *proc) (*Node, error) {
	var n *Node
	found := p.until(min(j.deadline, p.c.now+10*Second), func() bool {
		if n = p.c.nodes[j.From]; j.From == "" {
			n = p.c.Leader()
		}
		return n != nil && n.up && n.position().Index >= j.lease.GetId()
	})
	if !found {
		return nil, fault.Newf(fault.Unreachable, "join", "no source")
	}
	return n, nil
}

// enter starts the node and has it admitted.
func (j *Join) enter(p *proc, n *Node, id datadir.Identity) error {
	if err := j.gone(n); err != nil {
		return err
	}
	if !n.up {
		j.phase(p, "start")
		if err := n.open(); err != nil {
			return err
		}
		j.epoch = n.epoch
	}
	j.phase(p, "admit")
	if err := j.admit(p, n, id); err != nil {
		return err
	}
	j.phase(p, "catch up")
	ok := p.until(j.deadline, func() bool {
		rec := p.c.record(id.MemberID)
		if rec.GetState() == entryv1.MemberState_MEMBER_STATE_REMOVED || j.gone(n) != nil {
			return true
		}
		if rec.GetState() != entryv1.MemberState_MEMBER_STATE_MEMBER {
			return false
		}
		if !j.Learner {
			return !rec.GetLearner()
		}
		l := p.c.Leader()
		pr := l.Status().Progress[id.MemberID]
		return pr.State == "StateReplicate" && pr.Match == l.Status().Last
	})
	switch rec := p.c.record(id.MemberID); {
	case rec.GetState() == entryv1.MemberState_MEMBER_STATE_REMOVED:
		return fault.Newf(fault.Refused, "join", "%s was removed", j.Node)
	case j.gone(n) != nil:
		return j.gone(n)
	case !ok:
		return fault.Newf(fault.Timeout, "join", "%s did not catch up", j.Node)
	}
	return nil
}

// gone gives the error of a join whose node lost its power under it.
func (j *Join) gone(n *Node) error {
	if n.epoch == j.epoch {
		return nil
	}
	return fault.Newf(fault.Interrupted, "join", "%s went down", n.name)
}

// record is the leader's record of a member; nil when there is no leader.
func (c *Cluster) record(id uint64) *entryv1.MemberRecord {
	l := c.Leader()
	if l == nil {
		return nil
	}
	return l.machine.Member(id)
}

// admit has the learner added, after the leader's own checks: the seed must be a
// part of its log, and what follows it must still be there.
func (j *Join) admit(p *proc, n *Node, id datadir.Identity) error {
	for {
		if err := j.gone(n); err != nil {
			return err
		}
		switch rec := p.c.record(id.MemberID); rec.GetState() {
		case entryv1.MemberState_MEMBER_STATE_MEMBER:
			return nil
		case entryv1.MemberState_MEMBER_STATE_REMOVED:
			return fault.Newf(fault.Refused, "join", "%s was removed", j.Node)
		}
		err := j.tryAdmit(p, id)
		if err == nil {
			return nil
		}
		if !retryable(err) || p.c.now >= j.deadline {
			return err
		}
		p.sleep(200)
	}
}

// retryable errors are those of a cluster in motion.
func retryable(err error) bool {
	switch fault.CodeOf(err) {
	case fault.NotLeader, fault.Unreachable, fault.Timeout:
		return true
	}
	return pending(err)
}

func (j *Join) tryAdmit(p *proc, id datadir.Identity) error {
	l := p.c.Leader()
	if l == nil {
		return fault.Newf(fault.Unreachable, "join", "no leader")
	}
	if err := p.barrier(l); err != nil {
		return err
	}
	if err := l.admissible(id); err != nil {
		return err
	}
	body := &entryv1.AddLearner{Id: id.MemberID, LeaseId: id.Seed.LeaseID, ManifestRoot: id.Seed.ManifestRoot[:],
		Position: &entryv1.Position{Term: id.Seed.Position.Term, Index: id.Seed.Position.Index}}
	res, err := p.await(l, func(done func(state.Result, error)) error {
		return l.change(state.AddLearner, id.MemberID, envelope.AddLearner, body, done)
	})
	if err == nil {
		j.EntriesAfterAdd = res.Index - id.Seed.Position.Index
	}
	return err
}

// admissible is what the leader checks before it proposes the learner.
func (n *Node) admissible(id datadir.Identity) error {
	if id.Seed == nil {
		return fault.Newf(fault.Refused, "admit", "no join ticket")
	}
	t := policy.Ticket{MemberID: id.MemberID, Position: id.Seed.Position, LeaseID: id.Seed.LeaseID}
	return policy.Admissible(t, n.machine, n.log)
}

// propose has an entry committed, through whichever node leads, until the
// join's deadline. All entries of a join may be applied twice.
func (j *Join) propose(p *proc, kind envelope.Kind, body proto.Message) (proto.Message, error) {
	for {
		err := error(fault.Newf(fault.Unreachable, "join", "no leader"))
		if l := p.c.Leader(); l != nil {
			var res state.Result
			res, err = p.await(l, func(done func(state.Result, error)) error { return l.propose(kind, body, done) })
			if err == nil {
				return res.Response, nil
			}
		}
		if !retryable(err) && !errors.Is(err, errNoClusterYet) || p.c.now >= j.deadline {
			return nil, err
		}
		p.sleep(100)
	}
}

// await starts a request at a node and waits for its end, or for the node's.
func (p *proc) await(n *Node, start func(done func(state.Result, error)) error) (state.Result, error) {
	var res state.Result
	var err error
	ended := false
	epoch := n.epoch
	n.at(epoch, func() error {
		return start(func(r state.Result, e error) { res, err, ended = r, e, true })
	})
	if !p.until(p.c.now+callTimeout, func() bool { return ended || !n.up || n.epoch != epoch }) || !ended {
		return res, fault.Newf(fault.Timeout, "call", "no answer from %s", n.name)
	}
	return res, err
}

// barrier returns once all that was committed is applied at the leader.
func (p *proc) barrier(l *Node) error {
	epoch := l.epoch
	_, err := p.await(l, func(done func(state.Result, error)) error {
		l.rep.ReadIndex(func(_ uint64, err error) { done(state.Result{}, err) })
		return nil
	})
	if err == nil && (!l.up || l.epoch != epoch) {
		return fault.Newf(fault.Unreachable, "barrier", "%s went down", l.name)
	}
	return err
}

// removeMember removes a member through the leader.
func removeMember(p *proc, id uint64) error {
	l := p.c.Leader()
	if l == nil {
		return fault.Newf(fault.Unreachable, "remove", "no leader")
	}
	_, err := p.await(l, func(done func(state.Result, error)) error {
		return l.change(state.RemoveNode, id, envelope.RemoveMember, &entryv1.RemoveMember{Id: id}, done)
	})
	return err
}
