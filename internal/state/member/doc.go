// Package member holds the replicated tables that say who the cluster is: the
// cluster row, the members (reservations and removed IDs included) and the
// seed leases, with the rules that committed entries obey.
//
// Everything here runs at apply, on every member, in log order. So it is
// deterministic: it reads its tables, the index of the entry and its body, and
// nothing else. An entry that breaks a rule is refused: it writes nothing and
// the error, the same on every member, goes to whoever waits (see IsRefusal).
// Any other error means that this member can not go on.
//
// # Life of a member ID
//
//	        ReserveMember           AddLearner            PromoteMember
//	(none) ---------------> reserved ---------> learner ---------------> voter
//	                           |                   |                       |
//	         CancelReservation |      RemoveMember |          RemoveMember |
//	              RemoveMember v                   v                       v
//	                        removed             removed                 removed
//
// The voters a cluster is born with come from BootstrapVoter entries, which
// are refused once the cluster row exists. A removed record stays for ever, so
// that its ID is never given out again: a node that shows up with it is told
// so, and is never taken for another one.
//
// # Holds
//
// A seed lease owns a hold, the index past which no member truncates its log:
// entries with a greater index stay. It is the index of the entry that opened
// the lease, so a member that applies that entry still has all that follow it.
// A checkpoint is taken after the lease was applied, so a seed made under the
// lease has position.index >= hold and everything after it is still there.
// AddLearner checks just that. A lease may share the hold of a live lease
// (clone_of), never choose one; renewals never change it.
//
// # Records
//
// All values are protobuf messages of package chainfire.entry.v1, marshalled
// deterministically; integers in keys are big endian.
//
//	table        key                  value
//	Cluster      "cluster" (7 bytes)  ClusterRecord, one row
//	Members      8  member ID         MemberRecord
//	SeedLeases   8  lease ID          SeedLease; the ID is the index that opened it
//
// A member ID is xxh3-64 of these 32 bytes, with n the first of 0, 1, 2... that
// gives an ID no record has and Raft does not reserve (0, 2^64-1, 2^64-2):
//
//	offset  size  field
//	0       16    genesis nonce
//	16      8     index of the ReserveMember entry, little endian
//	24      8     n, little endian
package member
