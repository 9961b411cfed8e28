package sim

import (
	"slices"
	"testing"
)

// traceOf runs the nemesis and gives the whole trace.
func traceOf(t *testing.T, seed uint64) []string {
	t.Helper()
	x := newNemesis(t, seed, true)
	x.run(40)
	out := x.c.Trace()
	if err := x.c.Close(); err != nil {
		t.Error(err)
	}
	return out
}

// TestSameSeedSameTrace: a schedule with joins, crashes, partitions and Raft
// snapshots is a function of its seed, byte for byte.
func TestSameSeedSameTrace(t *testing.T) {
	var first []string
	for seed := range uint64(3) {
		a, b := traceOf(t, seed), traceOf(t, seed)
		for i := range min(len(a), len(b)) {
			if a[i] != b[i] {
				t.Fatalf("seed %d, line %d of %d and %d:\n%s\n%s", seed, i, len(a), len(b), a[i], b[i])
			}
		}
		if len(a) != len(b) || len(a) < 1000 {
			t.Fatalf("seed %d: %d and %d lines", seed, len(a), len(b))
		}
		if seed == 0 {
			first = a
		} else if slices.Equal(a, first) {
			t.Errorf("seeds 0 and %d gave the same trace", seed)
		}
	}
}
