package raftlog

import (
	"fmt"
	"strings"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"go.etcd.io/raft/v3/raftpb"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const testDir = "/data/raft"

func memOptions() Options { return Options{FS: vfs.NewMem()} }

func openTest(t testing.TB, o Options) *Log {
	t.Helper()
	l, err := Open(testDir, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	return l
}

func entry(term, index uint64, data string) *raftpb.Entry {
	return &raftpb.Entry{Term: &term, Index: &index, Data: []byte(data)}
}

func hard(term, vote, commit uint64) *raftpb.HardState {
	return &raftpb.HardState{Term: &term, Vote: &vote, Commit: &commit}
}

// run gives entries first..last of one term.
func run(term, first, last uint64) []*raftpb.Entry {
	var out []*raftpb.Entry
	for i := first; i <= last; i++ {
		out = append(out, entry(term, i, fmt.Sprintf("%d/%d", term, i)))
	}
	return out
}

func mustAppend(t testing.TB, l *Log, b Batch) {
	t.Helper()
	if err := l.Append(b, true); err != nil {
		t.Fatal(err)
	}
}

// print gives the whole content of a log as text.
func print(l *Log) (string, error) {
	var b strings.Builder
	hs := l.HardState()
	fmt.Fprintf(&b, "state-%d truncated %v hard %d/%x/%d:", l.State(), l.TruncatedTo(), hs.GetTerm(), hs.GetVote(), hs.GetCommit())
	first, _ := l.FirstIndex()
	last, _ := l.LastIndex()
	if last < first {
		return b.String(), nil
	}
	ents, err := l.Entries(first, last+1, ^uint64(0))
	if err != nil {
		return "", err
	}
	if uint64(len(ents)) != last+1-first {
		return "", fmt.Errorf("%d entries in [%d, %d]", len(ents), first, last)
	}
	for i, e := range ents {
		term, err := l.Term(first + uint64(i))
		if err != nil || term != e.GetTerm() || e.GetIndex() != first+uint64(i) {
			return "", fmt.Errorf("entry %d is %d/%d, Term says %d, %v", first+uint64(i), e.GetTerm(), e.GetIndex(), term, err)
		}
		data := e.GetData()
		if len(data) > 24 {
			data = fmt.Appendf(nil, "%s..%d", data[:12], len(data))
		}
		fmt.Fprintf(&b, " %d/%d=%s", e.GetTerm(), e.GetIndex(), data)
	}
	return b.String(), nil
}

func mustPrint(t testing.TB, l *Log) string {
	t.Helper()
	s, err := print(l)
	if err != nil {
		t.Fatal(err)
	}
	return s
}
