package node

import (
	"testing"
	"time"
)

func TestNoQuorum(t *testing.T) {
	away, stranger, friend := standing{votes: true}, standing{votes: true, foreign: true}, standing{votes: true, heard: true}
	before := standing{votes: true, foreign: true, heard: true} // was heard a moment ago
	learner, strangeLearner := standing{heard: true}, standing{foreign: true}
	for _, c := range []struct {
		name   string
		others []standing
		selfIs string // voter or learner
		formed bool
		want   bool
	}{
		{"alone", nil, "voter", true, false},
		{"one of two, new", []standing{stranger}, "voter", false, true},
		{"one of two, both with a past", []standing{stranger}, "voter", true, false},
		{"the other is away", []standing{away}, "voter", false, false},
		{"one stray, the other away", []standing{stranger, away}, "voter", false, false},
		{"one stray, the other there", []standing{stranger, friend}, "voter", false, false},
		{"both", []standing{stranger, stranger}, "voter", false, true},
		{"both, with a past", []standing{stranger, stranger}, "voter", true, true},
		{"both, but one was heard lately", []standing{stranger, before}, "voter", true, false},
		{"both, but a learner is there", []standing{stranger, stranger, learner}, "voter", true, false},
		{"two of five", []standing{stranger, stranger, away, away}, "voter", true, false},
		{"three of five", []standing{stranger, stranger, stranger, away}, "voter", true, true},
		{"strange learners do not count", []standing{away, strangeLearner, strangeLearner}, "voter", false, false},
		{"a learner of one", []standing{stranger}, "learner", true, false},
		{"a learner of three, one stray", []standing{stranger, away, away}, "learner", true, false},
		{"a learner of three, two strays", []standing{stranger, stranger, away}, "learner", true, true},
	} {
		if got := noQuorum(c.others, c.selfIs == "voter", c.formed); got != c.want {
			t.Errorf("%s: %t", c.name, got)
		}
	}
}

// It must be so at every look, not now and again.
func TestStrandedMustLast(t *testing.T) {
	s := &stranded{patience: 10 * time.Second}
	now := time.Now()
	for i, look := range []struct {
		after time.Duration
		lost  bool
		want  bool
	}{
		{0, true, false},
		{9 * time.Second, true, false},
		{500 * time.Millisecond, false, false},
		{500 * time.Millisecond, true, false},
		{9 * time.Second, true, false},
		{time.Second, true, true},
		{time.Second, false, false},
		{time.Minute, true, false},
	} {
		now = now.Add(look.after)
		if got := s.lasts(now, look.lost); got != look.want {
			t.Errorf("look %d: %t", i, got)
		}
	}
}
