package main

import (
	"bytes"
	"fmt"
	"testing"
	"time"

	"github.com/chainfire/cfseed/cmd/cfseed/internal/dial"
	"github.com/chainfire/cfseed/cmd/cfseed/internal/output"
	"github.com/chainfire/cfseed/internal/fault"
)

// TestVerifyAgainst holds the digest of a directory against those of three members,
// of which one may have forgotten it, hold another, or be away.
func TestVerifyAgainst(t *testing.T) {
	same, other := bytes.Repeat([]byte{0x5e}, 16), bytes.Repeat([]byte{0x77}, 16)
	for name, c := range map[string]struct {
		cluster output.ID
		digest  []byte
		index   uint64
		change  func(*fakeCluster)
		status  string
		code    fault.Code
	}{
		"equal":                       {0xc1, same, 100, nil, output.CheckOK, ""},
		"different":                   {0xc1, other, 100, nil, output.CheckFailed, fault.Different},
		"of another cluster":          {0xc2, same, 100, nil, output.CheckFailed, fault.Different},
		"known to nobody":             {0xc1, same, 49, nil, output.CheckFailed, fault.Refused},
		"forgotten by the first":      {0xc1, same, 100, func(f *fakeCluster) { f.members[0].forgotten = 1000 }, output.CheckOK, ""},
		"forgotten by all but one":    {0xc1, other, 100, func(f *fakeCluster) { f.members[0].forgotten, f.members[1].forgotten = 1000, 1000 }, output.CheckFailed, fault.Different},
		"forgotten by those that are": {0xc1, same, 49, func(f *fakeCluster) { f.members[2].server.Stop() }, output.CheckFailed, fault.Unreachable},
		"without a digest":            {0xc1, nil, 100, nil, output.CheckSkipped, ""},
		"of no cluster that is known": {0, same, 100, nil, output.CheckSkipped, ""},
	} {
		t.Run(name, func(t *testing.T) {
			f := startFakeCluster(t)
			if c.change != nil {
				c.change(f)
			}
			d, err := dial.New(dial.Config{Endpoints: []string{f.members[0].url}, Timeout: 2 * time.Second})
			if err != nil {
				t.Fatal(err)
			}
			report := output.NewReport()
			report.Cluster, report.Digest, report.Position = c.cluster, c.digest, &output.Position{Index: c.index}
			if err := verifyAgainst(t.Context(), d, report); err != nil {
				t.Fatal(err)
			}
			var code fault.Code
			if len(report.Findings) == 1 {
				code = report.Findings[0].Code
			}
			if len(report.Checks) != 1 || report.Checks[0].Status != c.status || code != c.code || report.OK != (c.code == "") {
				t.Errorf("%s", fmt.Sprintf("%+v", report))
			}
		})
	}
}
