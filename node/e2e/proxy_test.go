//go:build e2e

package e2e

import (
	"testing"

	"github.com/chainfire/cfseed/internal/shape"
)

// newProxy starts a line to target that ends with the test. It counts, and most
// of its faults happen at a number of bytes, so a test that names no time is not
// disturbed by a busy machine.
func newProxy(t *testing.T, target string) *shape.Proxy {
	t.Helper()
	p, err := shape.New(target, 1)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := p.Close(); err != nil {
			t.Errorf("close the line: %v", err)
		}
	})
	return p
}

// resentPercent is how much of a seed's bytes came more than once, in percent,
// when got bytes came down in all for a seed of want bytes. The cost of framing
// counts as resent, so the figure errs on the large side.
func resentPercent(got int64, want uint64) float64 {
	return 100 * (float64(got) - float64(want)) / float64(want)
}
