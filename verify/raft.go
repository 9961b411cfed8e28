package verify

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/cockroachdb/pebble/v2"
	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"

	"github.com/chainfire/cfseed/internal/fault"
	"github.com/chainfire/cfseed/internal/ident"
	"github.com/chainfire/cfseed/internal/state/store"
	"github.com/chainfire/cfseed/raftlog"
)

// raftLog reads the whole log.
func (v *verifier) raftLog(context.Context) (string, error) {
	type result struct {
		info  raftlog.Info
		found []raftlog.Finding
	}
	r, err := guarded(func() (result, error) {
		info, found, err := raftlog.Inspect(v.dir.Raft(), raftlog.Options{FS: v.fs, Logger: v.o.Logger})
		return result{info, found}, err
	})
	if damage(err) || fault.Is(err, fault.Internal) {
		r.found = append(r.found, raftlog.Finding{Code: fault.Corrupt, Path: v.dir.Raft(), Detail: err.Error()})
	} else if err != nil {
		return "", err
	}
	for _, f := range r.found {
		path := fileNamed(v.fs, v.dir.Raft(), errors.New(f.Detail))
		v.find(f.Code, path, "%s", f.Detail)
	}
	if len(r.found) > 0 {
		v.stateDir = v.onlyState()
		return "", nil
	}
	v.log, v.stateDir = &r.info, v.dir.State(r.info.State)
	return fmt.Sprintf("truncated to %s, last entry %s, commit %d, %d bytes",
		r.info.TruncatedTo, r.info.Last, r.info.HardState.GetCommit(), r.info.Bytes), nil
}

// onlyState gives the state directory when there is no choice.
func (v *verifier) onlyState() string {
	names, err := v.fs.List(v.dir.Path())
	if err != nil {
		return ""
	}
	var found string
	for _, name := range names {
		number, ok := strings.CutPrefix(name, "state-")
		n, err := strconv.ParseUint(number, 10, 64)
		if !ok || err != nil {
			continue
		}
		if found != "" {
			return ""
		}
		found = v.dir.State(n)
	}
	return found
}

// applied compares the state's position with the log.
func (v *verifier) applied(context.Context) (string, error) {
	if v.log == nil || v.view == nil {
		return "", errSkip("the log or the state could not be read")
	}
	at, commit := v.report.Position, v.log.HardState.GetCommit()
	trunc, last := v.log.TruncatedTo, v.log.Last
	switch {
	case at.Index < trunc.Index:
		v.find(fault.Corrupt, v.stateDir, "the state is at %s, the log begins after %s: the entries between are gone", at, trunc)
		return "", nil
	case at.Index > last.Index:
		v.find(fault.Corrupt, v.dir.Raft(), "the log ends at %s, the state has applied %s", last, at)
		return "", nil
	}
	term, err := v.termAt(at.Index)
	if err != nil {
		v.find(fault.Corrupt, v.dir.Raft(), "entry %d: %v", at.Index, err)
		return "", nil
	}
	if term != at.Term {
		v.find(fault.Corrupt, v.dir.Raft(), "the log has term %d at index %d, the state has applied %s", term, at.Index, at)
		return "", nil
	}
	if at.Index > commit {
		return fmt.Sprintf("commit %d is behind the applied %s; the member raises it when it starts", commit, at), nil
	}
	return fmt.Sprintf("%s of commit %d, last %d", at, commit, last.Index), nil
}

// termAt reads the term of a log entry, or of the truncation point, from the
// store below the log.
func (v *verifier) termAt(index uint64) (uint64, error) {
	if index == 0 {
		return 0, nil
	}
	for _, p := range []ident.Position{v.log.TruncatedTo, v.log.Last} {
		if p.Index == index {
			return p.Term, nil
		}
	}
	e, err := v.raftEngine()
	if err != nil {
		return 0, err
	}
	// Key 0x10 and the index, big endian; value the entry (package raftlog).
	value, closer, err := e.db.Get(binary.BigEndian.AppendUint64([]byte{0x10}, index))
	if err != nil {
		return 0, err
	}
	entry := &raftpb.Entry{}
	err = proto.Unmarshal(value, entry)
	return entry.GetTerm(), errors.Join(err, closer.Close())
}

// raftEngine opens the store of the log, once.
func (v *verifier) raftEngine() (*engine, error) {
	for _, e := range v.engines {
		if e.dir == v.dir.Raft() {
			return e, nil
		}
	}
	return v.addEngine(v.dir.Raft(), pebble.DefaultComparer, raftlog.FormatMajorVersion)
}

// openEngines opens both stores below what they mean. One that does not open is
// a finding.
func (v *verifier) openEngines() error {
	_, rerr := v.raftEngine()
	var serr error
	if v.stateDir != "" {
		_, serr = v.addEngine(v.stateDir, store.Comparer(), store.FormatMajorVersion)
	}
	for _, err := range []error{rerr, serr} {
		switch {
		case damage(err):
			v.broken = true
			v.findAt(err)
		case err != nil:
			return err
		}
	}
	return nil
}

func (v *verifier) addEngine(dir string, cmp *pebble.Comparer, format pebble.FormatMajorVersion) (*engine, error) {
	e, err := openEngine(v.fs, dir, cmp, format, v.o.Logger)
	if err != nil {
		return nil, err
	}
	v.engines = append(v.engines, e)
	return e, nil
}
