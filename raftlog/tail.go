package raftlog

import (
	"errors"
	"fmt"

	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"

	"github.com/chainfire/cfseed/internal/fault"
	"github.com/chainfire/cfseed/internal/ident"
)

// Last is the position of the last entry, or the truncation point when there is
// none after it.
func (l *Log) Last() ident.Position {
	l.mu.RLock()
	defer l.mu.RUnlock()
	last := l.s.last()
	term, err := l.s.term(last)
	if err != nil {
		return l.s.trunc
	}
	return ident.Position{Term: term, Index: last}
}

// Tail gives the entries after a position, encoded (raftpb.Entry), up to the
// index upTo, which the caller has applied, and of at most maxBytes together but
// at least one. Nothing when there is none. fault.Reseed: the log no longer
// reaches back to the position. fault.Refused: it has another entry there.
func (l *Log) Tail(after ident.Position, upTo, maxBytes uint64) ([][]byte, error) {
	const op = "read tail"
	term, err := l.Term(after.Index)
	switch {
	case errors.Is(err, raft.ErrCompacted):
		return nil, gone(op, after)
	case errors.Is(err, raft.ErrUnavailable):
		return nil, nil // this member is not so far
	case err != nil:
		return nil, err
	case term != after.Term:
		return nil, fault.Newf(fault.Refused, op, "the entry at %d is of term %d here, not %d", after.Index, term, after.Term)
	case upTo <= after.Index || maxBytes == 0:
		return nil, nil
	}
	entries, err := l.Entries(after.Index+1, upTo+1, maxBytes)
	if errors.Is(err, raft.ErrCompacted) {
		return nil, gone(op, after)
	}
	if err != nil {
		return nil, err
	}
	out := make([][]byte, 0, len(entries))
	for _, e := range entries {
		b, err := proto.Marshal(e)
		if err != nil {
			return nil, fault.New(fault.Internal, op, err)
		}
		out = append(out, b)
	}
	return out, nil
}

func gone(op string, after ident.Position) error {
	return fault.Newf(fault.Reseed, op, "the log after %s is gone", after).
		WithHint("run the join again to fetch a new seed")
}

// Import appends entries, encoded as Tail gives them, to the log of a seeded
// node whose Raft has not started. They follow the position after, which must
// be the log's last, and were applied by their source, so that all of them are
// committed here: one synced batch, with a term of at least theirs and the
// last as commit index; the state is not touched and the node applies them when
// it starts. Bytes that are no such entries are fault.Corrupt, entries that do
// not belong here, or a log that has voted, fault.Refused; both leave the log as
// it was. Other errors are those of Append.
func (l *Log) Import(after ident.Position, encoded [][]byte) error {
	const op = "import tail"
	entries, err := decodeTail(encoded)
	if err != nil {
		return fault.New(fault.Corrupt, op, err).At(l.dir)
	}
	if len(entries) == 0 {
		return nil
	}
	hard := l.HardState()
	if hard.GetVote() != 0 {
		return fault.Newf(fault.Refused, op, "this node has voted in term %d", hard.GetTerm()).At(l.dir)
	}
	if last := l.Last(); last != after {
		return fault.Newf(fault.Refused, op, "the entries follow %s, the log ends at %s", after, last).At(l.dir)
	}
	first, last := entries[0], entries[len(entries)-1]
	if first.GetIndex() != after.Index+1 || first.GetTerm() < after.Term {
		return fault.Newf(fault.Refused, op, "entry %d of term %d does not follow %s", first.GetIndex(), first.GetTerm(), after).At(l.dir)
	}
	return l.Append(Batch{Entries: entries, HardState: &raftpb.HardState{
		Term: proto.Uint64(max(hard.GetTerm(), last.GetTerm())), Vote: proto.Uint64(0), Commit: proto.Uint64(last.GetIndex())}}, true)
}

// decodeTail reads entries of which each follows the one before.
func decodeTail(encoded [][]byte) ([]*raftpb.Entry, error) {
	entries := make([]*raftpb.Entry, 0, len(encoded))
	for i, b := range encoded {
		e := &raftpb.Entry{}
		if err := proto.Unmarshal(b, e); err != nil {
			return nil, fmt.Errorf("entry %d of the tail: %w", i, err)
		}
		switch {
		case e.GetTerm() == 0 || e.GetIndex() == 0:
			return nil, fmt.Errorf("entry %d of the tail has no position", i)
		case i > 0 && (e.GetIndex() != entries[i-1].GetIndex()+1 || e.GetTerm() < entries[i-1].GetTerm()):
			return nil, fmt.Errorf("entry %d of term %d after entry %d of term %d", e.GetIndex(), e.GetTerm(),
				entries[i-1].GetIndex(), entries[i-1].GetTerm())
		}
		entries = append(entries, e)
	}
	return entries, nil
}
