// Package watch serves etcd's watches from the history in the state store.
//
// A Hub has one goroutine. It hears that entries were applied and reads the
// writes they made once, from a view of the store, for all watches together;
// nothing is kept in memory for watches that may come. The goroutine that
// applies entries only wakes it.
//
// # Where a watch is
//
//	synced   has everything up to the hub's revision in its stream's queue
//	behind   begins in the past, or has fallen behind: fed by rounds of history
//	stalled  behind, and its queue is full: fed again when the client has read
//	ended    its next revision is compacted, and the client was told
//
// What a watch has in its stream's queue is bounded (Options), and so is what
// all have together. A revision that does not fit moves the watch out of the
// synced ones; nobody waits for it, and its next revision says where the store
// is read for it. The first revision in an empty queue always fits, so that each
// watch moves.
//
// A round reads a bounded piece of history for all watches that begin in it or
// have asked for more of it. Rounds begin in turns at the watch that is furthest
// behind and at the one that has waited longest: the first makes one sweep serve
// many, the second keeps one that is far behind from holding up the others.
//
// # Rules
//
//  1. A watch gets the events of its keys in the order of revisions, each once,
//     and those of one revision in one response.
//  2. Revisions are given to a watch whole, under the hub's lock, together with
//     the change of its next revision.
//  3. A watch joins the synced ones only between two pieces of history read for
//     them; one that begins now or later joins at once, since it wants none of
//     what is being read.
//  4. What is compacted is still read for synced watches as long as it was not
//     purged; Options.Fed tells up to where the hub needs history. Where it is
//     missing, after a Raft snapshot, they fall behind instead, and are served
//     from what the snapshot brought or end as compacted.
package watch
