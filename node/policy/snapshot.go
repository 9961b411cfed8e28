package policy

import (
	"slices"

	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"

	"github.com/chainfire/cfseed/internal/ident"
	entryv1 "github.com/chainfire/cfseed/proto/chainfire/entry/v1"
	"github.com/chainfire/cfseed/snapshot/manifest"
)

// Snapshot is a set of files that may stand behind a Raft snapshot message (S8).
type Snapshot struct {
	Position         ident.Position
	Voters, Learners []uint64
}

// SnapshotOf gives what a manifest says of its files.
func SnapshotOf(m *manifest.Manifest) Snapshot {
	return Snapshot{Position: m.Position, Voters: m.ConfState.Voters, Learners: m.ConfState.Learners}
}

// Metadata is what the message says of the files.
func (s Snapshot) Metadata() *raftpb.SnapshotMetadata {
	return &raftpb.SnapshotMetadata{Index: proto.Uint64(s.Position.Index), Term: proto.Uint64(s.Position.Term),
		ConfState: &raftpb.ConfState{Voters: slices.Clone(s.Voters), Learners: slices.Clone(s.Learners)}}
}

// Serves reports whether the files may be sent to a member that falls behind
// now: they are of the present configuration, so that a learner's were made
// after its AddLearner, and the log goes on where they end.
func (s Snapshot) Serves(now *entryv1.ConfState, firstIndex uint64) bool {
	return slices.Equal(s.Voters, now.GetVoters()) && slices.Equal(s.Learners, now.GetLearners()) &&
		s.Position.Index+1 >= firstIndex
}

// Matches reports whether the files are those that a message speaks of: the log
// will be reset to what it says, and the state must be just that.
func (s Snapshot) Matches(meta *raftpb.SnapshotMetadata) bool {
	return s.Position == ident.Position{Term: meta.GetTerm(), Index: meta.GetIndex()} &&
		slices.Equal(s.Voters, meta.GetConfState().GetVoters()) && slices.Equal(s.Learners, meta.GetConfState().GetLearners())
}
