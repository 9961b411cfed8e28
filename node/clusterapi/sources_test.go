package clusterapi

import (
	"fmt"
	"testing"

	entryv1 "github.com/chainfire/cfseed/proto/chainfire/entry/v1"
)

func TestSources(t *testing.T) {
	near := Progress{Match: 4990, State: "replicate", RecentActive: true}
	nearer := Progress{Match: 5000, State: "replicate", RecentActive: true}
	far := Progress{Match: 5000 - sourceLag - 1, State: "replicate", RecentActive: true}
	silent := Progress{Match: 5000, State: "replicate"}
	seeding := Progress{Match: 4990, State: "snapshot", RecentActive: true}
	for _, tc := range []struct {
		name string
		self uint64
		from uint64 // a lease of this reservation; 0: none
		raft Raft
		want string
	}{
		{"the follower that is nearest, then the leader", 1, 0,
			Raft{Leader: 1, Progress: map[uint64]Progress{2: near, 3: nearer}}, "[3 2 1]"},
		{"one that is far behind comes last", 1, 0,
			Raft{Leader: 1, Progress: map[uint64]Progress{2: far, 3: near}}, "[3 1 2]"},
		{"so does one that is silent", 1, 0,
			Raft{Leader: 1, Progress: map[uint64]Progress{2: silent, 3: near}}, "[3 1 2]"},
		{"and one that is seeded itself", 1, 0,
			Raft{Leader: 1, Progress: map[uint64]Progress{2: seeding, 3: far}}, "[1 2 3]"},
		{"a follower knows of itself", 2, 0, Raft{Leader: 3, Commit: 5000, Applied: 4990}, "[2 3 1]"},
		{"and when it is behind", 2, 0, Raft{Leader: 3, Commit: 5000, Applied: 3000}, "[3 1 2]"},
		{"the one that a seed was begun from comes first", 1, 2,
			Raft{Leader: 1, Progress: map[uint64]Progress{2: near, 3: nearer}}, "[2 3 1]"},
		{"also the leader", 1, 1,
			Raft{Leader: 1, Progress: map[uint64]Progress{2: near, 3: nearer}}, "[1 3 2]"},
		{"without a leader nobody is better", 2, 0, Raft{Commit: 5000, Applied: 5000}, "[1 2 3]"},
	} {
		b := newBackend()
		b.self, b.raft, b.last = tc.self, tc.raft, 5000
		b.members = nil
		b.leases = []*entryv1.SeedLease{{Id: 9, MemberId: 6, SourceId: 2}}
		if tc.from != 0 {
			b.leases = append(b.leases, &entryv1.SeedLease{Id: 10, MemberId: 5, SourceId: tc.from})
		}
		for id := uint64(1); id <= 3; id++ {
			b.members = append(b.members, &entryv1.MemberRecord{Id: id, State: isMember})
		}
		b.members = append(b.members, &entryv1.MemberRecord{Id: 4, State: isMember, Learner: true},
			&entryv1.MemberRecord{Id: 5, State: isReserved}, &entryv1.MemberRecord{Id: 6, State: isRemoved})
		got, err := New(b).sources(t.Context(), 5)
		if err != nil || fmt.Sprint(got) != tc.want {
			t.Errorf("%s: %v, %v, want %s", tc.name, got, err, tc.want)
		}
	}
}
