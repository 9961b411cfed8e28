package verify

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/cockroachdb/datadriven"

	"github.com/chainfire/cfseed/internal/fault"
)

// TestCompare runs testdata/compare: one member a line, "ID index digest
// revision" or "ID down".
func TestCompare(t *testing.T) {
	datadriven.RunTest(t, "testdata/compare", func(t *testing.T, d *datadriven.TestData) string {
		var samples []Sample
		for _, line := range strings.Split(strings.TrimSpace(d.Input), "\n") {
			var s Sample
			var digest byte
			if n, _ := fmt.Sscanf(line, "%d %d %d %d", &s.ID, &s.Index, &digest, &s.Revision); n < 4 {
				if !strings.HasSuffix(line, " down") {
					t.Fatalf("%s: %q", d.Pos, line)
				}
				s.Err = fault.New(fault.Unreachable, "ask", errors.New("nobody answers"))
			}
			s.Digest[15] = digest
			s.Name = fmt.Sprintf("n%d", s.ID)
			samples = append(samples, s)
		}
		r := Compare(samples)
		out := fmt.Sprintf("ok %t\n%s", r.OK, describe(r))
		if r.OK {
			out += fmt.Sprintf("digest %x revision %d index %d\n", r.Digest, r.Revision, r.Position.Index)
		}
		return out
	})
}
