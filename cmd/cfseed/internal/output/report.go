package output

import (
	"fmt"
	"io"

	"github.com/chainfire/cfseed/internal/fault"
)

// The states of a check.
const (
	CheckOK      = "ok"
	CheckFailed  = "failed"
	CheckSkipped = "skipped"
)

// Report is the result of a verification.
type Report struct {
	OK       bool      `json:"ok"`
	Checks   []Check   `json:"checks"`
	Findings []Finding `json:"findings"`
	Digest   Hex       `json:"digest"`
	Revision int64     `json:"revision"`
	Position *Position `json:"position"`
	Cluster  ID        `json:"-"` // of a directory; 0 where that is not known
}

// Check is one question and its answer.
type Check struct {
	Name    string  `json:"name"`
	Status  string  `json:"status"`
	Detail  string  `json:"detail"`
	Seconds float64 `json:"seconds"`
}

// Finding is one thing that is wrong, at a path or an address.
type Finding struct {
	Code   fault.Code `json:"code"`
	Path   string     `json:"path"`
	Detail string     `json:"detail"`
}

// NewReport returns a report without checks, which is OK.
func NewReport() *Report { return &Report{OK: true, Checks: []Check{}, Findings: []Finding{}} }

// Pass adds a check that found nothing.
func (r *Report) Pass(name string, seconds float64, format string, args ...any) {
	r.Checks = append(r.Checks, Check{name, CheckOK, fmt.Sprintf(format, args...), seconds})
}

// Skip adds a check that could not be made and says nothing.
func (r *Report) Skip(name, why string) {
	r.Checks = append(r.Checks, Check{Name: name, Status: CheckSkipped, Detail: why})
}

// Fail adds a check that failed and what it found.
func (r *Report) Fail(name string, seconds float64, f Finding) {
	r.OK = false
	r.Checks = append(r.Checks, Check{name, CheckFailed, f.Detail, seconds})
	r.Findings = append(r.Findings, f)
}

// Err gives nil for a report that is OK, else an error with the class that
// decides the exit status: damage and difference go before anything else.
func (r *Report) Err() error {
	if r.OK {
		return nil
	}
	worst := Finding{Code: fault.Refused, Detail: "not enough could be checked"}
	for i, f := range r.Findings {
		if i == 0 || f.Code.Exit() == fault.Corrupt.Exit() {
			worst = f
		}
		if f.Code.Exit() == fault.Corrupt.Exit() {
			break
		}
	}
	return fault.Newf(worst.Code, "verify", "%s", worst.Detail).At(worst.Path)
}

// Write prints r for people.
func (r *Report) Write(w io.Writer) {
	rows := [][]string{{"CHECK", "STATUS", "SECONDS", "DETAIL"}}
	for _, c := range r.Checks {
		rows = append(rows, []string{c.Name, c.Status, fmt.Sprintf("%.2f", c.Seconds), c.Detail})
	}
	Table(w, rows...)
	for _, f := range r.Findings {
		fmt.Fprintf(w, "%s: %s: %s\n", f.Code, f.Path, f.Detail)
	}
	verdict := "ok"
	if !r.OK {
		verdict = "NOT OK"
	}
	digest := "-"
	if len(r.Digest) > 0 {
		digest = r.Digest.String()
	}
	fmt.Fprintf(w, "%s  digest %s  revision %d  position %s\n", verdict, digest, r.Revision, r.Position)
}
