// Package sim runs whole clusters in one goroutine on virtual time. It is test
// equipment: nothing but tests imports it.
//
// A Cluster is a set of nodes, each a real replica.Replica with a real raftlog
// and a real state machine on a file system in memory that can crash. The
// network, the clock, the disks' speed and all choices come from one seeded
// generator, so a schedule is a function of its seed: two runs give the same
// trace, byte for byte.
//
// Time counts in units, a hundred to the tick. What happens is an event at some
// unit: a tick of a node, the arrival of a message, a write to a log, the report
// of that write, the application of entries, the report of that, a part of a
// seed. A node can crash between any two events, and loses what it has not
// synced.
//
// What stands in for the rest of a node is kept small: Join for the phases of a
// join, the transfer of a Raft snapshot along the seeding path, the carrying out
// of what policy decides, and clients that put, get and keep leases. Check looks for broken
// promises afterwards; some (two leaders in a term, two entries at one index) are
// noticed when they happen.
//
// The number of events does not depend on how Pebble lays out its files, which
// its background work decides: a seed travels in a fixed number of parts.
package sim
