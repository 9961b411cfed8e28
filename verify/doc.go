// Package verify judges the data directory of a stopped member, and the digests
// of running ones. It changes nothing: every file system call that could is
// refused below it (type readOnlyFS), and it shares no code with what made the
// directory beyond the formats it reads.
//
// Dir runs these checks, in this order. A check that needs a part which an
// earlier one could not read is skipped and says so.
//
//	name             what it says when ok                                       quick
//	identity         the identity file is whole                                 yes
//	seed_manifest    it has the root the identity names; tables of the seed     sizes
//	                 that are still there are byte for byte those it lists;      only
//	                 a state that has not moved on has its digest
//	raft_log         entries follow one another, terms never fall, HardState     yes
//	                 agrees with them
//	state            the state store opens; it is of the cluster in identity     yes
//	applied          the log reaches back to, or past, the applied position      yes
//	                 with the same term; commit below it is repaired at start
//	members          the member table is the configuration; this directory is    yes
//	                 the one its member is bound to
//	leases           each key attached to one of etcd's leases is there, names   yes
//	                 that lease, and the lease exists
//	users            users and roles can be read; while permissions are asked    yes
//	                 for there is root to manage them
//	block_checksums  every block of every table of both stores                   no
//	levels           the order of keys and versions within and between the       no
//	                 levels of both stores
//	digest           the running digest is that of a full scan                   no
//
// The rule behind "applied" is that an entry is in the log, synced, before it
// is applied. The log may be ahead of the state: a member replays. It must
// never be behind it, unless it was truncated exactly there.
package verify
