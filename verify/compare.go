package verify

import (
	"cmp"
	"fmt"
	"slices"

	"github.com/chainfire/cfseed/internal/fault"
	"github.com/chainfire/cfseed/internal/ident"
)

// Sample is one member's digest after the entry at Index, or why there is none.
type Sample struct {
	ID       uint64
	Name     string // for people; may be empty
	Index    uint64
	Digest   [16]byte
	Revision int64
	Err      error // the member did not answer
}

// Compare judges digests of several members, taken at one index: members that
// applied the same entries have the same state. A member that did not answer is
// a finding; so is, with fault.Different, each one that is not of the majority
// (all of them, where there is none). It needs two answers at one index to say
// ok. Position of the report has the index alone.
func Compare(samples []Sample) *Report {
	r := &Report{}
	var got []Sample
	for _, s := range samples {
		if s.Err != nil {
			r.Findings = append(r.Findings, Finding{Code: fault.CodeOf(s.Err), Path: ident.FormatID(s.ID), Detail: s.Err.Error()})
			continue
		}
		got = append(got, s)
	}
	answered := Check{Name: "answers", Status: OK, Detail: fmt.Sprintf("%d of %d members", len(got), len(samples))}
	if len(got) < len(samples) {
		answered.Status = Failed
	}
	r.Checks = append(r.Checks, answered, compareDigests(r, got))
	r.OK = len(r.Findings) == 0 && r.Checks[1].Status == OK
	return r
}

// compareDigests needs samples of one index.
func compareDigests(r *Report, got []Sample) Check {
	c := Check{Name: "digests", Status: Skipped, Detail: "fewer than two members answered"}
	if len(got) < 2 {
		return c
	}
	if i := slices.IndexFunc(got, func(s Sample) bool { return s.Index != got[0].Index }); i > 0 {
		c.Detail = fmt.Sprintf("%s answered for index %d, %s for %d", label(got[0]), got[0].Index, label(got[i]), got[i].Index)
		return c
	}
	agreed, n := majority(got)
	r.Position.Index = got[0].Index
	if n == len(got) {
		c.Status, c.Detail = OK, fmt.Sprintf("%d members equal at index %d", n, got[0].Index)
		r.Digest, r.Revision = agreed.Digest, agreed.Revision
		return c
	}
	c.Status, c.Detail = Failed, fmt.Sprintf("members differ at index %d", got[0].Index)
	for _, s := range got {
		if 2*n > len(got) && s.same(agreed) {
			continue
		}
		r.Findings = append(r.Findings, Finding{Code: fault.Different, Path: ident.FormatID(s.ID),
			Detail: fmt.Sprintf("%s has digest %x, revision %d, at index %d", label(s), s.Digest, s.Revision, s.Index)})
	}
	return c
}

// same reports whether two members are in one state.
func (s Sample) same(o Sample) bool { return s.Digest == o.Digest && s.Revision == o.Revision }

// majority gives the most frequent sample and how often it was seen.
func majority(got []Sample) (Sample, int) {
	count := func(s Sample) (n int) {
		for _, o := range got {
			if o.same(s) {
				n++
			}
		}
		return n
	}
	best := slices.MaxFunc(got, func(a, b Sample) int { return cmp.Compare(count(a), count(b)) })
	return best, count(best)
}

func label(s Sample) string {
	if s.Name != "" {
		return s.Name
	}
	return ident.FormatID(s.ID)
}
