package sim

import (
	"fmt"

	"github.com/zeebo/xxh3"

	"github.com/chainfire/cfseed/internal/fault"
	"github.com/chainfire/cfseed/internal/ident"
	"github.com/chainfire/cfseed/internal/state"
	"github.com/chainfire/cfseed/node/raftloop"
	"github.com/chainfire/cfseed/node/replica"
	"github.com/chainfire/cfseed/raftlog"
)

// schedule starts the next append and the next apply, if there are any and none
// is under way. Doing a job and reporting it are two events: a crash can come in
// between.
func (n *Node) schedule() {
	if !n.up || n.stalled {
		return
	}
	if len(n.appends) > 0 && !n.appending {
		n.appending = true
		n.after(n.c.between(1, 8), n.doAppend)
	}
	if len(n.applies) > 0 && !n.applying {
		n.applying = true
		n.after(n.c.between(1, 5), n.doApply)
	}
}

// doAppend writes the first jobs, one or as many as are waiting.
func (n *Node) doAppend() error {
	count := 1
	if n.appends[0].Snapshot == nil && n.c.chance(50) {
		for count < len(n.appends) && n.appends[count].Snapshot == nil {
			count++
		}
	}
	jobs := n.appends[:count:count]
	n.appends = n.appends[count:]
	if err := n.write(jobs); err != nil {
		return err
	}
	n.c.tracef("%s wrote %d", n.name, len(jobs))
	n.after(n.c.between(0, 3), func() error {
		n.appending = false
		for _, j := range jobs {
			if err := n.rep.AppendDone(j); err != nil {
				return err
			}
		}
		return nil
	})
	return nil
}

func (n *Node) write(jobs []*replica.AppendJob) error {
	if jobs[0].Snapshot != nil {
		return n.writeSnapshot(jobs[0])
	}
	j := raftloop.MergeAppends(jobs)
	return n.log.Append(raftlog.Batch{Entries: j.Entries, HardState: j.HardState}, j.MustSync)
}

// writeSnapshot resets the log to a state that is staged and verified, in one
// synced batch, and moves over to that state.
func (n *Node) writeSnapshot(j *replica.AppendJob) error {
	meta := j.Snapshot.GetMetadata()
	pos := ident.Position{Term: meta.GetTerm(), Index: meta.GetIndex()}
	num, ok := n.staged[pos.Index]
	if !ok {
		return fault.Newf(fault.Internal, "install snapshot", "no state is staged for %s", pos)
	}
	delete(n.staged, pos.Index)
	old := n.dir().State(n.log.State())
	if err := n.log.Append(raftlog.Batch{HardState: j.HardState, Reset: &raftlog.Reset{Position: pos, State: num}}, true); err != nil {
		return err
	}
	if err := n.closeState(); err != nil {
		return err
	}
	if err := n.openState(num); err != nil {
		return err
	}
	if got := n.machine.Applied(); got != pos {
		return fault.Newf(fault.Corrupt, "install snapshot", "the state is at %s, the snapshot at %s", got, pos)
	}
	n.c.tracef("%s moved to a new state at %s", n.name, pos)
	return n.disk.RemoveAll(old)
}

func (n *Node) doApply() error {
	job := n.applies[0]
	n.applies = n.applies[1:]
	results := make([]state.Result, 0, len(job.Entries))
	for _, e := range job.Entries {
		res, err := n.machine.Apply(e)
		if err != nil {
			return err
		}
		n.c.sawEntry(n, e)
		n.c.sawLeases(res)
		results = append(results, res)
	}
	if _, err := n.machine.Purge(256); err != nil {
		return err
	}
	n.after(n.c.between(0, 3), func() error {
		n.applying = false
		if err := n.leaseTime(results); err != nil {
			return err
		}
		return n.rep.ApplyDone(job, results)
	})
	return nil
}

// sawEntry compares what the nodes apply: one entry at an index, ever.
func (c *Cluster) sawEntry(n *Node, e state.Entry) {
	what := fmt.Sprintf("%d/%d %d %x", e.Term, e.Index, e.Type, xxh3.Hash(e.Data))
	if was, ok := c.entries[e.Index]; ok && was != what {
		c.breach("%s applied %s, another node %s", n.name, what, was)
	}
	c.entries[e.Index] = what
}
