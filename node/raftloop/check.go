package raftloop

import (
	"errors"
	"fmt"
	"slices"

	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"
)

// check says why a message off the network must not reach the library, nil if
// it may. Each case stands for a panic of the library or for a rule of ours.
func (l *Loop) check(m *raftpb.Message) error {
	from := m.GetFrom()
	switch {
	case m == nil:
		return errors.New("no message")
	case m.GetTo() != l.cfg.ID:
		return fmt.Errorf("message is for member %x", m.GetTo())
	case from == raft.None, from == l.cfg.ID, raft.IsLocalMsgTarget(from):
		return fmt.Errorf("message from %x", from)
	case len(m.GetResponses()) != 0:
		return errors.New("message carries local responses")
	}
	switch m.GetType() {
	case raftpb.MsgProp:
		return checkProposal(m)
	case raftpb.MsgReadIndex:
		return checkOneEntry(m)
	}
	if m.GetTerm() == 0 {
		return fmt.Errorf("%s without a term", m.GetType())
	}
	switch m.GetType() {
	case raftpb.MsgApp:
		return checkAppend(m)
	case raftpb.MsgAppResp:
		if l.prev.state == raft.StateLeader && m.GetTerm() == l.prev.term && !m.GetReject() && m.GetIndex() > l.last {
			return fmt.Errorf("member acknowledges index %d, the leader's log ends at %d: its log is of another cluster", m.GetIndex(), l.last)
		}
		return nil
	case raftpb.MsgHeartbeatResp:
		if n := len(m.GetContext()); n != 0 && n != 8 {
			return fmt.Errorf("heartbeat response with a context of %d bytes", n)
		}
		return nil
	case raftpb.MsgSnap:
		return l.checkSnapshot(m)
	case raftpb.MsgReadIndexResp:
		return checkOneEntry(m)
	case raftpb.MsgHeartbeat, raftpb.MsgVote, raftpb.MsgVoteResp, raftpb.MsgPreVote, raftpb.MsgPreVoteResp, raftpb.MsgTimeoutNow:
		return nil
	}
	// Local messages, and the transfer request: the library panics when it
	// forwards one that has a term, so it is asked for at the leader alone.
	return fmt.Errorf("%s is not accepted from the network", m.GetType())
}

// checkProposal accepts forwarded normal entries. Configuration changes are
// proposed at the leader, where somebody waits for them.
func checkProposal(m *raftpb.Message) error {
	if len(m.GetEntries()) == 0 || m.GetTerm() != 0 {
		return errors.New("malformed proposal")
	}
	for _, e := range m.GetEntries() {
		if e == nil || e.GetType() != raftpb.EntryNormal || len(e.GetData()) == 0 {
			return fmt.Errorf("forwarded proposal of type %s with %d bytes", e.GetType(), len(e.GetData()))
		}
	}
	return nil
}

func checkOneEntry(m *raftpb.Message) error {
	if len(m.GetEntries()) != 1 || m.GetEntries()[0] == nil {
		return fmt.Errorf("%s with %d entries", m.GetType(), len(m.GetEntries()))
	}
	if m.GetType() == raftpb.MsgReadIndex && m.GetTerm() != 0 {
		return errors.New("read index request with a term")
	}
	return nil
}

// checkAppend requires a slice of a log: contiguous, terms rising from that of
// the entry before to at most the message's.
func checkAppend(m *raftpb.Message) error {
	index, term := m.GetIndex(), m.GetLogTerm()
	for _, e := range m.GetEntries() {
		if e == nil || e.GetIndex() != index+1 || e.GetTerm() < term || e.GetTerm() > m.GetTerm() {
			return fmt.Errorf("append of entry %d/%d after %d/%d in term %d", e.GetTerm(), e.GetIndex(), term, index, m.GetTerm())
		}
		index, term = e.GetIndex(), e.GetTerm()
	}
	return nil
}

func (l *Loop) checkSnapshot(m *raftpb.Message) error {
	meta := m.GetSnapshot().GetMetadata()
	switch {
	case meta.GetIndex() == 0 || meta.GetTerm() == 0 || meta.GetTerm() > m.GetTerm():
		return fmt.Errorf("snapshot at %d/%d in term %d", meta.GetTerm(), meta.GetIndex(), m.GetTerm())
	case !member(meta.GetConfState(), l.cfg.ID):
		return errors.New("snapshot whose configuration lacks this member")
	}
	return checkConf(meta.GetConfState())
}

// checkConf accepts simple configurations only: the library panics on one that
// it can not build up step by step.
func checkConf(cs *raftpb.ConfState) error {
	if len(cs.GetVotersOutgoing()) != 0 || len(cs.GetLearnersNext()) != 0 || cs.GetAutoLeave() {
		return errors.New("joint configuration")
	}
	seen := make(map[uint64]bool)
	for _, id := range slices.Concat(cs.GetVoters(), cs.GetLearners()) {
		if id == raft.None || raft.IsLocalMsgTarget(id) || seen[id] {
			return fmt.Errorf("configuration with member ID %x twice or out of range", id)
		}
		seen[id] = true
	}
	if len(cs.GetVoters()) == 0 && len(seen) != 0 {
		return errors.New("configuration without a voter")
	}
	return nil
}

func member(cs *raftpb.ConfState, id uint64) bool {
	return slices.Contains(cs.GetVoters(), id) || slices.Contains(cs.GetLearners(), id)
}

// guardedStorage keeps useless snapshots from the library.
type guardedStorage struct {
	raft.Storage
	loop *Loop
}

// Snapshot says ErrSnapshotTemporarilyUnavailable for a snapshot that its
// receiver would ignore or could not continue from.
func (g guardedStorage) Snapshot() (*raftpb.Snapshot, error) {
	s, err := g.Storage.Snapshot()
	if err != nil {
		return nil, err
	}
	if !g.loop.usable(s) {
		return nil, raft.ErrSnapshotTemporarilyUnavailable
	}
	return s, nil
}

func (l *Loop) usable(s *raftpb.Snapshot) bool {
	meta := s.GetMetadata()
	if raft.IsEmptySnap(s) || checkConf(meta.GetConfState()) != nil {
		return false
	}
	for _, id := range slices.Concat(l.conf.GetVoters(), l.conf.GetLearners()) {
		if !member(meta.GetConfState(), id) {
			return false
		}
	}
	if l.joining != raft.None && !member(meta.GetConfState(), l.joining) {
		return false
	}
	first, err := l.cfg.Storage.FirstIndex()
	return err == nil && meta.GetIndex()+1 >= first
}
