package raftlog

import (
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"go.etcd.io/raft/v3/raftpb"

	"github.com/chainfire/cfseed/internal/fault"
	"github.com/chainfire/cfseed/internal/ident"
)

func TestSeed(t *testing.T) {
	pos := ident.Position{Term: 5, Index: 100}
	for _, c := range []struct {
		name string
		tail []*raftpb.Entry
		want string
	}{
		{"empty", nil, "state-1 truncated 5/100 hard 5/0/100:"},
		{"with a tail", append(run(5, 101, 101), run(7, 102, 103)...),
			"state-1 truncated 5/100 hard 7/0/103: 5/101=5/101 7/102=7/102 7/103=7/103"},
	} {
		t.Run(c.name, func(t *testing.T) {
			mem := vfs.NewCrashableMem()
			for range 2 { // the second time finds what it wants
				if err := Seed(testDir, Options{FS: mem}, SeedState{Position: pos, State: 1, Tail: c.tail}); err != nil {
					t.Fatal(err)
				}
			}
			l := openTest(t, Options{FS: mem.CrashClone(vfs.CrashCloneCfg{})})
			wantLog(t, l, c.want)
			if term, err := l.Term(100); term != 5 || err != nil {
				t.Errorf("Term(100) = %d, %v", term, err)
			}
			if first, _ := l.FirstIndex(); first != 101 {
				t.Errorf("first index %d", first)
			}
			if err := l.Reconcile(pos); err != nil { // the node replays the tail
				t.Error(err)
			}
		})
	}
}

func TestSeedRefuses(t *testing.T) {
	pos := ident.Position{Term: 5, Index: 100}
	for name, c := range map[string]struct {
		pos  ident.Position
		tail []*raftpb.Entry
		code fault.Code
	}{
		"no position":          {ident.Position{}, nil, fault.Usage},
		"no term":              {ident.Position{Index: 3}, nil, fault.Usage},
		"a tail with a gap":    {pos, run(5, 102, 103), fault.Refused},
		"a tail that overlaps": {pos, run(5, 100, 101), fault.Refused},
		"a tail of the past":   {pos, run(4, 101, 101), fault.Refused},
		"a tail out of order":  {pos, append(run(6, 101, 101), run(5, 102, 102)...), fault.Refused},
	} {
		t.Run(name, func(t *testing.T) {
			o := memOptions()
			wantCode(t, Seed(testDir, o, SeedState{Position: c.pos, State: 1, Tail: c.tail}), c.code)
			if _, err := o.FS.Stat(testDir); err == nil {
				t.Error("a refused seed left a directory")
			}
		})
	}
	good := SeedState{Position: pos, State: 1, Tail: run(5, 101, 102)}
	for name, other := range map[string]SeedState{
		"another position": {Position: ident.Position{Term: 5, Index: 99}, State: 1, Tail: run(5, 100, 102)},
		"another state":    {Position: pos, State: 2, Tail: good.Tail},
		"a shorter tail":   {Position: pos, State: 1, Tail: run(5, 101, 101)},
		"another tail":     {Position: pos, State: 1, Tail: append(run(5, 101, 101), entry(5, 102, "x"))},
	} {
		t.Run("over a log with "+name, func(t *testing.T) {
			o := memOptions()
			if err := Seed(testDir, o, good); err != nil {
				t.Fatal(err)
			}
			wantCode(t, Seed(testDir, o, other), fault.NotEmpty)
			wantLog(t, openTest(t, o), "state-1 truncated 5/100 hard 5/0/102: 5/101=5/101 5/102=5/102")
		})
	}
}

func TestBootstrap(t *testing.T) {
	mem := vfs.NewCrashableMem()
	o := Options{FS: mem}
	for range 2 {
		if err := Bootstrap(testDir, o, run(1, 1, 3), 1); err != nil {
			t.Fatal(err)
		}
	}
	wantLog(t, openTest(t, Options{FS: mem.CrashClone(vfs.CrashCloneCfg{})}),
		"state-1 truncated 0/0 hard 1/0/3: 1/1=1/1 1/2=1/2 1/3=1/3")
	wantCode(t, Bootstrap(testDir, o, run(1, 1, 2), 1), fault.NotEmpty)
	wantCode(t, Bootstrap("/other", o, nil, 1), fault.Usage)
	wantCode(t, Bootstrap("/other", o, run(2, 1, 2), 1), fault.Usage)
	wantCode(t, Bootstrap("/other", o, run(1, 2, 2), 1), fault.Refused)
}
