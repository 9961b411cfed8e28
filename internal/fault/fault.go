// Package fault is the error-code table of ChainFire: the classes of failure
// that a caller, a script or an operator acts on.
//
// A code is a contract: `cfseed -o json` prints it, the exit status follows
// from it, and it crosses the network (package rpcfault). An Error wraps its
// cause, names the operation and, where there is one, the file, and says what
// to do next. The package imports nothing of this module.
package fault

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"syscall"
)

// Code is the class of a failure.
type Code string

// The codes. They are part of the command line's contract and never change
// their meaning.
const (
	Usage       Code = "usage"       // the caller asked for something malformed
	Refused     Code = "refused"     // well-formed, but a safety rule says no
	InUse       Code = "in_use"      // the directory belongs to a running process
	NotEmpty    Code = "not_empty"   // the directory holds something else
	Corrupt     Code = "corrupt"     // bytes are not what was written
	Different   Code = "different"   // two copies that should be equal are not
	NotLeader   Code = "not_leader"  // ask the leader
	LeaseLost   Code = "lease_lost"  // the seed lease ended; the log may be gone
	Reseed      Code = "reseed"      // the seed is too old to be admitted
	NoSpace     Code = "no_space"    // not enough free disk
	Permission  Code = "permission"  // not allowed
	Unreachable Code = "unreachable" // nobody answers
	Timeout     Code = "timeout"     // no progress, or the deadline passed
	Interrupted Code = "interrupted" // the user stopped it
	Internal    Code = "failed"      // none of the above
)

// Codes lists every code, in the order of the table above.
func Codes() []Code {
	return []Code{Usage, Refused, InUse, NotEmpty, Corrupt, Different, NotLeader, LeaseLost,
		Reseed, NoSpace, Permission, Unreachable, Timeout, Interrupted, Internal}
}

// Exit is the process exit status that goes with a code.
func (c Code) Exit() int {
	switch c {
	case Usage:
		return 2
	case Unreachable, Timeout:
		return 3
	case Corrupt, Different:
		return 4
	case Interrupted:
		return 130
	default:
		return 1
	}
}

// Error is a failure with a class. The zero value is not useful; use New.
type Error struct {
	Code Code
	Op   string // what was being done, "pull", "open raft log"
	Path string // the file or directory concerned; may be empty
	Hint string // what the operator can do next; may be empty
	Err  error  // the cause; may be nil when Op says it all
}

// New returns an Error. cause may be nil.
func New(code Code, op string, cause error) *Error {
	return &Error{Code: code, Op: op, Err: cause}
}

// Newf returns an Error whose cause is the formatted text; %w works.
func Newf(code Code, op, format string, args ...any) *Error {
	return &Error{Code: code, Op: op, Err: fmt.Errorf(format, args...)}
}

// At returns e with the path it concerns.
func (e *Error) At(path string) *Error { e.Path = path; return e }

// WithHint returns e with advice for the operator.
func (e *Error) WithHint(format string, args ...any) *Error {
	e.Hint = fmt.Sprintf(format, args...)
	return e
}

// Error gives "op: path: cause".
func (e *Error) Error() string {
	var parts []string
	for _, s := range []string{e.Op, e.Path} {
		if s != "" {
			parts = append(parts, s)
		}
	}
	if e.Err != nil {
		parts = append(parts, e.Err.Error())
	}
	if len(parts) == 0 {
		return string(e.Code)
	}
	return strings.Join(parts, ": ")
}

// Unwrap gives the cause.
func (e *Error) Unwrap() error { return e.Err }

// CodeOf gives the class of err: that of the outermost Error in its chain,
// Internal for any other error, and "" for nil.
func CodeOf(err error) Code {
	if err == nil {
		return ""
	}
	var e *Error
	if errors.As(err, &e) {
		return e.Code
	}
	return Internal
}

// FileCode gives the class of an error of a file system: NoSpace for a full disk or
// quota, Permission, or else what CodeOf says.
func FileCode(err error) Code {
	switch {
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT):
		return NoSpace
	case errors.Is(err, os.ErrPermission):
		return Permission
	}
	return CodeOf(err)
}

// HintOf gives the first hint in err's chain, or "".
func HintOf(err error) string {
	for err != nil {
		var e *Error
		if !errors.As(err, &e) {
			return ""
		}
		if e.Hint != "" {
			return e.Hint
		}
		err = e.Err
	}
	return ""
}

// Is reports whether err has the given class.
func Is(err error, code Code) bool { return CodeOf(err) == code }
