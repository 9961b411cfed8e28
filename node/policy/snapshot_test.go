package policy

import (
	"testing"

	"google.golang.org/protobuf/proto"

	"github.com/chainfire/cfseed/internal/ident"
	entryv1 "github.com/chainfire/cfseed/proto/chainfire/entry/v1"
)

func TestSnapshotServes(t *testing.T) {
	s := Snapshot{Position: ident.Position{Term: 3, Index: 50}, Voters: []uint64{1, 2}, Learners: []uint64{4}}
	for _, c := range []struct {
		name             string
		voters, learners []uint64
		first            uint64
		want             bool
	}{
		{"the present configuration", []uint64{1, 2}, []uint64{4}, 10, true},
		{"the log goes on after it", []uint64{1, 2}, []uint64{4}, 51, true},
		{"the log begins later", []uint64{1, 2}, []uint64{4}, 52, false},
		{"made before a learner was added", []uint64{1, 2}, []uint64{4, 5}, 10, false},
		{"made before a learner was promoted", []uint64{1, 2, 4}, nil, 10, false},
		{"made before a voter was removed", []uint64{1}, []uint64{4}, 10, false},
		{"made before a learner was removed", []uint64{1, 2}, nil, 10, false},
	} {
		if got := s.Serves(&entryv1.ConfState{Voters: c.voters, Learners: c.learners}, c.first); got != c.want {
			t.Errorf("%s: %v", c.name, got)
		}
	}
}

func TestSnapshotMatches(t *testing.T) {
	s := Snapshot{Position: ident.Position{Term: 3, Index: 50}, Voters: []uint64{1, 2}}
	if !s.Matches(s.Metadata()) {
		t.Error("the files do not match their own message")
	}
	for name, change := range map[string]func(o *Snapshot){
		"another index":  func(o *Snapshot) { o.Position.Index++ },
		"another term":   func(o *Snapshot) { o.Position.Term-- },
		"a voter more":   func(o *Snapshot) { o.Voters = []uint64{1, 2, 3} },
		"a learner more": func(o *Snapshot) { o.Learners = []uint64{3} },
	} {
		other := s
		change(&other)
		if other.Matches(s.Metadata()) {
			t.Errorf("%s: taken for the files of the message", name)
		}
	}
	if s.Matches(nil) || s.Matches(proto.CloneOf(Snapshot{}.Metadata())) {
		t.Error("a message that says nothing matches")
	}
}
