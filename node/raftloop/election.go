package raftloop

import (
	"math/rand/v2"
	"slices"

	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"
)

// timer is the election timer, in ticks.
type timer struct {
	rng *rand.Rand
	// elapsed counts ticks since the last contact or campaign, library those of
	// them that the library was given.
	elapsed, library int
	deadline         int // elapsed at which to campaign
}

// resetTimer starts the timer anew with fresh jitter. It must only be called
// when the library has reset its own counter as well, or when it will not be
// ticked before it does.
func (l *Loop) resetTimer() {
	l.timer.elapsed, l.timer.library = 0, 0
	l.timer.deadline = l.cfg.ElectionTicks + l.timer.rng.IntN(l.cfg.ElectionTicks)
}

// contact reports whether stepping m certainly reset the library's own counter
// without a change of state or term: a message of the current leader, or a vote
// given.
func contact(m *raftpb.Message, was, now view) bool {
	if m == nil || m.GetTerm() != now.term {
		return false
	}
	switch m.GetType() {
	case raftpb.MsgApp, raftpb.MsgHeartbeat, raftpb.MsgSnap:
		return now.lead == m.GetFrom()
	case raftpb.MsgVote:
		return now.vote == m.GetFrom() && was.vote != now.vote
	}
	return false
}

// Tick is one unit of time.
func (l *Loop) Tick() error {
	if l.broken != nil {
		return l.broken
	}
	if l.prev.state == raft.StateLeader {
		return l.tickLibrary()
	}
	l.timer.elapsed++
	if l.prev.state == raft.StateFollower {
		if err := l.tickFollower(); err != nil {
			return err
		}
	}
	if l.prev.state == raft.StateLeader || !l.voter() {
		return nil
	}
	if l.timer.elapsed >= l.timer.deadline || l.alone() && l.prev.state == raft.StateFollower {
		return l.Campaign()
	}
	return nil
}

func (l *Loop) tickFollower() error {
	if l.timer.library < l.cfg.ElectionTicks-1 {
		l.timer.library++
		return l.tickLibrary()
	}
	if l.timer.elapsed < l.cfg.ElectionTicks || l.prev.lead == raft.None {
		return nil
	}
	if err := l.call("forget leader", l.rn.ForgetLeader); err != nil {
		return err
	}
	return l.observe(nil)
}

func (l *Loop) tickLibrary() error {
	if err := l.call("tick", func() error { l.rn.Tick(); return nil }); err != nil {
		return err
	}
	return l.observe(nil)
}

// Campaign starts an election at once. It does nothing at a leader, at a node
// that is no voter, and while a committed configuration change is not applied.
func (l *Loop) Campaign() error {
	if l.prev.state == raft.StateLeader || !l.voter() {
		return nil
	}
	if err := l.call("campaign", l.rn.Campaign); err != nil {
		return err
	}
	was := l.prev
	if err := l.observe(nil); err != nil {
		return err
	}
	if l.prev.state == raft.StateFollower && was.state == raft.StateFollower {
		// Refused for now: the library waits for a change to be applied.
		l.timer.deadline = l.timer.elapsed + l.cfg.HeartbeatTicks
		return nil
	}
	l.resetTimer()
	return nil
}

// voter reports whether this node is a voter of the configuration in force.
func (l *Loop) voter() bool { return slices.Contains(l.conf.GetVoters(), l.cfg.ID) }

// alone reports whether this node is the only voter.
func (l *Loop) alone() bool { return len(l.conf.GetVoters()) == 1 && l.voter() }
