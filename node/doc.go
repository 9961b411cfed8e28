// Package node assembles a node: it opens the data directory, brings it to an
// identity (bootstrap, join, or wait for a seed), runs the member and serves
// its addresses.
//
// One run of a node:
//
//	Run        flags checked, directory locked, addresses opened
//	live       identity: there already, bootstrapped, or by a join
//	runMember  stores opened and checked against each other (S3), parts wired
//	core       the Ready loop, the append worker and the apply worker
//
// The parts: core moves entries; peers answers the transport; membership
// follows the member table; driver shows the policy what is and carries out
// what it decides; seeds is the source side of seeding and raftSnapshots and
// installer are both ends of a Raft snapshot (S8); backend and etcdBackend are
// what the services see. The member only holds them together.
//
// Whatever part ends by itself ends the process (S7); the Ready loop ends last,
// after leadership was handed over.
package node
