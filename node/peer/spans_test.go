package peer

import "testing"

// Only what had been sent before counts as sent again: not the entries between
// a refused probe and what the follower has.
func TestSpans(t *testing.T) {
	var s spans
	for i, step := range []struct{ from, to, again uint64 }{
		{90, 92, 0},  // a probe, refused
		{40, 60, 0},  // from where the follower's log ends
		{60, 80, 0},  // the next
		{80, 100, 2}, // over the probe
		{100, 101, 0},
		{95, 105, 6},
		{40, 105, 65},
		{30, 110, 65},
		{30, 30, 0},
	} {
		if again := s.add(step.from, step.to); again != step.again {
			t.Errorf("step %d: %d again, want %d", i, again, step.again)
		}
	}
	if len(s) != 1 {
		t.Errorf("%v", s)
	}
	for i := range uint64(3 * maxSpans) {
		s.add(1000+10*i, 1001+10*i)
	}
	if len(s) != maxSpans || s.add(1000+10*(3*maxSpans-1), 1001+10*(3*maxSpans-1)) != 1 {
		t.Errorf("%d spans", len(s))
	}
}
