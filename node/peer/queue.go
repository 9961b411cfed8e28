package peer

import (
	"sync"

	"go.etcd.io/raft/v3/raftpb"
)

// queue is one lane's waiting messages: bounded, never blocking the pusher.
type queue struct {
	maxMessages, maxBytes int

	mu    sync.Mutex
	msgs  []*raftpb.Message
	bytes int
	ready chan struct{} // holds a token while there may be messages
}

func newQueue(maxMessages, maxBytes int) *queue {
	return &queue{maxMessages: maxMessages, maxBytes: maxBytes, ready: make(chan struct{}, 1)}
}

// weight is what a message counts for: its payload, and something for the rest.
func weight(m *raftpb.Message) int {
	n := 64 + len(m.GetContext())
	for _, e := range m.GetEntries() {
		n += 32 + len(e.GetData())
	}
	return n
}

// push adds m and reports whether there was room.
func (q *queue) push(m *raftpb.Message) bool {
	w := weight(m)
	q.mu.Lock()
	// An empty queue takes any message: one alone may weigh more than the bound.
	if len(q.msgs) >= q.maxMessages || len(q.msgs) > 0 && q.bytes+w > q.maxBytes {
		q.mu.Unlock()
		return false
	}
	q.msgs = append(q.msgs, m)
	q.bytes += w
	q.mu.Unlock()
	q.signal()
	return true
}

func (q *queue) signal() {
	select {
	case q.ready <- struct{}{}:
	default:
	}
}

// take removes messages from the front up to about the given weight, at least
// one if there is any.
func (q *queue) take(limit int) []*raftpb.Message {
	q.mu.Lock()
	defer q.mu.Unlock()
	n, sum := 0, 0
	for n < len(q.msgs) {
		w := weight(q.msgs[n])
		if n > 0 && sum+w > limit {
			break
		}
		sum += w
		n++
	}
	batch := q.msgs[:n:n]
	q.msgs = q.msgs[n:]
	q.bytes -= sum
	if len(q.msgs) == 0 {
		q.msgs = nil
	} else {
		q.signal()
	}
	return batch
}

// flush drops everything and says how many messages that was.
func (q *queue) flush() int {
	q.mu.Lock()
	defer q.mu.Unlock()
	n := len(q.msgs)
	q.msgs, q.bytes = nil, 0
	return n
}

// isBulk says which lane a message takes.
func isBulk(m *raftpb.Message) bool {
	switch m.GetType() {
	case raftpb.MsgApp, raftpb.MsgProp:
		return true
	}
	return false
}

// travels says whether a message type may come off the wire in a stream. The
// rest are a node's messages to itself, or MsgSnap, which has its own call.
func travels(t raftpb.MessageType) bool {
	switch t {
	case raftpb.MsgProp, raftpb.MsgApp, raftpb.MsgAppResp, raftpb.MsgVote, raftpb.MsgVoteResp,
		raftpb.MsgHeartbeat, raftpb.MsgHeartbeatResp, raftpb.MsgTransferLeader, raftpb.MsgTimeoutNow,
		raftpb.MsgReadIndex, raftpb.MsgReadIndexResp, raftpb.MsgPreVote, raftpb.MsgPreVoteResp:
		return true
	}
	return false
}

// forwarded says whether Raft passes such a message on under its first
// sender's name, so that From is not the member that sends it. None of them
// carries a vote or an acknowledgement.
func forwarded(t raftpb.MessageType) bool {
	switch t {
	case raftpb.MsgProp, raftpb.MsgReadIndex, raftpb.MsgTransferLeader:
		return true
	}
	return false
}
