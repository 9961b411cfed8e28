package verify

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"time"

	"github.com/chainfire/cfseed/internal/fault"
	"github.com/chainfire/cfseed/internal/ident"
)

// Status is the outcome of a check.
type Status string

// The outcomes.
const (
	OK      Status = "ok"
	Failed  Status = "failed"
	Skipped Status = "skipped"
)

// Check is one thing that was looked at.
type Check struct {
	Name    string  `json:"name"`
	Status  Status  `json:"status"`
	Detail  string  `json:"detail"`
	Seconds float64 `json:"seconds"`
}

// Finding is one thing that is wrong.
type Finding struct {
	Code   fault.Code `json:"code"`
	Path   string     `json:"path"` // the file, or the directory of the store; a member's ID in a comparison
	Detail string     `json:"detail"`
}

// Report is the judgement. OK means that no check failed; Digest, Revision and
// Position are what the state says of itself, zero when it can not be read.
type Report struct {
	OK       bool
	Cluster  ident.Cluster // of the directory; zero where that is not known
	Checks   []Check
	Findings []Finding
	Digest   [16]byte
	Revision int64
	Position ident.Position
}

// maxFindings bounds the report of a directory that is damaged all over.
const maxFindings = 1000

// Options say how thorough to be. The zero value is usable.
type Options struct {
	Quick  bool              // skip what reads the whole store
	Logger *slog.Logger      // nil: silent
	Now    func() time.Time  // for Check.Seconds; nil: the system's clock
	Began  func(name string) // told of each check as it begins; may be nil
}

func (o Options) withDefaults() Options {
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Began == nil {
		o.Began = func(string) {}
	}
	return o
}

// errSkip says that a check does not apply; its text is the detail.
type errSkip string

func (e errSkip) Error() string { return string(e) }

// step is one check. It reports findings through find; its detail is for
// people. An error other than errSkip means that nothing can be said.
type step struct {
	name string
	run  func(context.Context) (detail string, err error)
}

// perform runs the steps and fills the report.
func (v *verifier) perform(ctx context.Context, steps []step) error {
	for _, s := range steps {
		if err := ctx.Err(); err != nil {
			return stopped(err)
		}
		v.o.Began(s.name)
		began, before := v.o.Now(), v.found
		detail, err := guarded(func() (string, error) { return s.run(ctx) })
		c := Check{Name: s.name, Status: OK, Detail: detail, Seconds: v.o.Now().Sub(began).Seconds()}
		var skip errSkip
		switch {
		case errors.As(err, &skip):
			c.Status, c.Detail = Skipped, string(skip)
		case ctx.Err() != nil:
			return stopped(ctx.Err())
		case err != nil:
			return fault.New(fault.CodeOf(err), "verify "+s.name, err)
		case v.found > before:
			c.Status = Failed
		}
		v.report.Checks = append(v.report.Checks, c)
	}
	v.report.OK = v.found == 0
	return nil
}

// find adds a finding.
func (v *verifier) find(code fault.Code, path, format string, args ...any) {
	v.found++
	if len(v.report.Findings) >= maxFindings {
		return
	}
	detail, _, _ := strings.Cut(fmt.Sprintf(format, args...), "\n") // Pebble adds lines of its own
	v.report.Findings = append(v.report.Findings, Finding{Code: code, Path: path, Detail: detail})
}

// guarded keeps a panic over damaged bytes from getting out.
func guarded[T any](fn func() (T, error)) (out T, err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fault.Newf(fault.Corrupt, "read damaged data", "%v", r)
		}
	}()
	return fn()
}

func stopped(err error) error {
	code := fault.Interrupted
	if errors.Is(err, context.DeadlineExceeded) {
		code = fault.Timeout
	}
	return fault.New(code, "verify", err)
}

// damage reports whether err is about the bytes on disk, not about this
// process: access, space, an interruption, a newer format.
func damage(err error) bool {
	switch fault.CodeOf(err) {
	case fault.Corrupt, fault.Different:
		return true
	}
	return false
}
