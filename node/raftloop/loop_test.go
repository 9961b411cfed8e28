package raftloop

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"testing"

	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"
	"pgregory.net/rapid"

	"github.com/chainfire/cfseed/internal/fault"
)

// contactAt describes a follower's life: at which ticks a heartbeat arrives.
type contactAt map[int]bool

// follow runs a follower of leader 1 for n ticks and gives the ticks at which
// its state changed, and to what.
func follow(t interface{ Fatal(...any) }, seed uint64, n int, contacts contactAt) []string {
	e := newEnv()
	if err := e.start(2, []uint64{1, 2, 3}, nil, 1, 10, seed); err != nil {
		t.Fatal(err)
	}
	l := e.members[2].loop
	var out []string
	for i := range n {
		if contacts[i] {
			m := &raftpb.Message{Type: raftpb.MsgHeartbeat.Enum(), From: new(uint64(1)), To: new(uint64(2)), Term: new(uint64(2))}
			if err := l.Step(m); err != nil {
				t.Fatal(err)
			}
		}
		was := l.prev
		if err := l.Tick(); err != nil {
			t.Fatal(err)
		}
		if l.prev != was {
			out = append(out, fmt.Sprintf("%d:%s/%d", i, l.prev.state, l.prev.lead))
		}
		for {
			if did, err := e.ready(2); err != nil {
				t.Fatal(err)
			} else if !did {
				break
			}
			if _, err := e.append(2); err != nil {
				t.Fatal(err)
			}
		}
	}
	return out
}

// followLibrary is follow with the library's own timer.
func followLibrary(t *testing.T, n int) int {
	store := raft.NewMemoryStorage()
	snap := &raftpb.Snapshot{Metadata: &raftpb.SnapshotMetadata{Index: new(uint64(1)), Term: new(uint64(1)),
		ConfState: &raftpb.ConfState{Voters: []uint64{1, 2, 3}}}}
	if err := store.ApplySnapshot(snap); err != nil {
		t.Fatal(err)
	}
	rn, err := raft.NewRawNode(Config{ID: 2, ElectionTicks: 10, HeartbeatTicks: 1, Limits: Limits{}.withDefaults(), Logger: discard{}}.raft(store))
	if err != nil {
		t.Fatal(err)
	}
	for i := range n {
		rn.Tick()
		if rn.BasicStatus().RaftState != raft.StateFollower {
			return i
		}
	}
	return n
}

// TestLibraryTimerNeverDecides runs each life several times: the library draws
// from crypto/rand, so if it ever decided, two runs would differ.
func TestLibraryTimerNeverDecides(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		seed := rapid.Uint64().Draw(t, "seed")
		contacts := contactAt{}
		for _, i := range rapid.SliceOfN(rapid.IntRange(0, 199), 0, 25).Draw(t, "contacts") {
			contacts[i] = true
		}
		want := follow(t, seed, 200, contacts)
		for range 4 {
			if got := follow(t, seed, 200, contacts); !slices.Equal(got, want) {
				t.Fatalf("the same seed gave %v, then %v", want, got)
			}
		}
	})
}

// TestLibraryTimerWouldDecide shows that the test above can fail.
func TestLibraryTimerWouldDecide(t *testing.T) {
	seen := make(map[int]bool)
	for range 64 {
		seen[followLibrary(t, 40)] = true
	}
	if len(seen) < 2 {
		t.Fatalf("64 runs of the library's timer all ended at %v", seen)
	}
}

func TestSeedsDiffer(t *testing.T) {
	seen := make(map[string]bool)
	for seed := range uint64(16) {
		seen[fmt.Sprint(follow(t, seed, 30, nil))] = true
	}
	if len(seen) < 4 {
		t.Fatalf("16 seeds gave only %d different elections", len(seen))
	}
}

// TestNoCampaignInContact: a follower that hears its leader within the election
// timeout never campaigns.
func TestNoCampaignInContact(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		contacts := contactAt{}
		for i := 0; i < 300; i += rapid.IntRange(1, 9).Draw(t, "gap") {
			contacts[i] = true
		}
		if got := follow(t, rapid.Uint64().Draw(t, "seed"), 300, contacts); len(got) != 0 {
			t.Fatalf("state changed: %v", got)
		}
	})
}

// brokenStorage fails reads of entries when told to.
type brokenStorage struct {
	*raft.MemoryStorage
	err error
}

func (b *brokenStorage) Entries(lo, hi, max uint64) ([]*raftpb.Entry, error) {
	if b.err != nil {
		return nil, b.err
	}
	return b.MemoryStorage.Entries(lo, hi, max)
}

// TestStorageFailureIsAnError: the library panics on a failed read; the Loop
// gives the error with its class and refuses everything afterwards.
func TestStorageFailureIsAnError(t *testing.T) {
	e := newEnv()
	if err := e.start(1, []uint64{1}, nil, 1, 10, 1); err != nil {
		t.Fatal(err)
	}
	if err := e.tick(1, 1); err != nil {
		t.Fatal(err)
	}
	if err := e.stabilize(); err != nil {
		t.Fatal(err)
	}
	if err := e.members[1].loop.Propose([]byte("x")); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if _, err := e.ready(1); err != nil {
			t.Fatal(err)
		}
		if _, err := e.append(1); err != nil {
			t.Fatal(err)
		}
	}
	// A committed entry that is not applied has to be read at the next start.
	store := &brokenStorage{MemoryStorage: e.members[1].store}
	l, err := New(Config{ID: 1, ElectionTicks: 10, HeartbeatTicks: 1, Storage: store, Applied: 10})
	if err != nil {
		t.Fatal(err)
	}
	store.err = fault.Newf(fault.Corrupt, "read entry", "another index")
	_, _, err = l.Ready()
	if !fault.Is(err, fault.Corrupt) {
		t.Fatalf("Ready: %v, want the storage's error", err)
	}
	if got := l.Tick(); !errors.Is(got, err) {
		t.Fatalf("Tick after the failure: %v", got)
	}
}

func TestNewRefusesInconsistentStorage(t *testing.T) {
	at := func(commit, applied uint64, cs *raftpb.ConfState) Config {
		store := raft.NewMemoryStorage()
		snap := &raftpb.Snapshot{Metadata: &raftpb.SnapshotMetadata{Index: new(uint64(10)), Term: new(uint64(1)), ConfState: cs}}
		if err := store.ApplySnapshot(snap); err != nil {
			t.Fatal(err)
		}
		if err := store.SetHardState(&raftpb.HardState{Term: new(uint64(1)), Vote: new(uint64), Commit: &commit}); err != nil {
			t.Fatal(err)
		}
		return Config{ID: 1, ElectionTicks: 10, HeartbeatTicks: 1, Storage: store, Applied: applied}
	}
	voters := &raftpb.ConfState{Voters: []uint64{1}}
	for name, c := range map[string]struct {
		cfg  Config
		want fault.Code
	}{
		"sound":                   {at(10, 10, voters), ""},
		"state behind the log":    {at(10, 9, voters), fault.Corrupt},
		"state beyond the commit": {at(10, 11, voters), fault.Corrupt},
		"commit beyond the log":   {at(11, 10, voters), fault.Corrupt},
		"commit before the log":   {at(9, 9, voters), fault.Corrupt},
		"joint configuration":     {at(10, 10, &raftpb.ConfState{Voters: []uint64{1}, VotersOutgoing: []uint64{2}}), fault.Corrupt},
		"learners only":           {at(10, 10, &raftpb.ConfState{Learners: []uint64{1}}), fault.Corrupt},
		"member twice":            {at(10, 10, &raftpb.ConfState{Voters: []uint64{1}, Learners: []uint64{1}}), fault.Corrupt},
		"no storage":              {Config{ID: 1}, fault.Usage},
	} {
		if _, err := New(c.cfg); fault.CodeOf(err) != c.want {
			t.Errorf("%s: %v, want %q", name, err, c.want)
		}
	}
	bad := at(10, 10, voters)
	bad.ElectionTicks = 1
	if _, err := New(bad); err == nil || !strings.Contains(err.Error(), "election tick") {
		t.Errorf("election timeout of one heartbeat: %v", err)
	}
}

func TestJobsOutOfOrder(t *testing.T) {
	e := newEnv()
	if err := e.start(1, []uint64{1}, nil, 1, 10, 1); err != nil {
		t.Fatal(err)
	}
	if err := e.tick(1, 1); err != nil {
		t.Fatal(err)
	}
	if _, err := e.members[1].loop.Appended(&AppendJob{}); err == nil {
		t.Error("a job that was never handed out was accepted")
	}
	if err := e.members[1].loop.Applied(&ApplyJob{}); err == nil {
		t.Error("a job that was never handed out was accepted")
	}
}

// TestMergeAppends: the merged job has the effect of the jobs one after another.
func TestMergeAppends(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var jobs []*AppendJob
		last, base := uint64(0), uint64(0)
		for range rapid.IntRange(1, 6).Draw(t, "jobs") {
			j := &AppendJob{MustSync: rapid.Bool().Draw(t, "sync")}
			if rapid.IntRange(0, 5).Draw(t, "snapshot") == 0 {
				base = last + rapid.Uint64Range(1, 5).Draw(t, "gap")
				last = base
				j.Snapshot = &raftpb.Snapshot{Metadata: &raftpb.SnapshotMetadata{Index: &base, Term: new(uint64(1)), ConfState: &raftpb.ConfState{}}}
				j.Snapshot = proto.Clone(j.Snapshot).(*raftpb.Snapshot)
			} else if n := rapid.IntRange(0, 4).Draw(t, "entries"); n > 0 {
				first := rapid.Uint64Range(base+1, last+1).Draw(t, "first")
				for i := range uint64(n) {
					j.Entries = append(j.Entries, &raftpb.Entry{Index: new(first + i), Term: new(uint64(len(jobs) + 1))})
				}
				last = first + uint64(n) - 1
			}
			if rapid.Bool().Draw(t, "hard state") {
				j.HardState = &raftpb.HardState{Term: new(uint64(len(jobs) + 1)), Vote: new(uint64), Commit: &base}
			}
			jobs = append(jobs, j)
		}
		one, all := write(t, jobs...), write(t, MergeAppends(jobs))
		if one != all {
			t.Fatalf("one by one:\n%s\nmerged:\n%s", one, all)
		}
	})
}

// write applies jobs to an empty storage and describes what it holds then.
func write(t *rapid.T, jobs ...*AppendJob) string {
	store := raft.NewMemoryStorage()
	sync := false
	for _, j := range jobs {
		if j.Snapshot != nil {
			if err := store.ApplySnapshot(j.Snapshot); err != nil {
				t.Fatal(err)
			}
		}
		if err := store.Append(j.Entries); err != nil {
			t.Fatal(err)
		}
		if j.HardState != nil {
			if err := store.SetHardState(j.HardState); err != nil {
				t.Fatal(err)
			}
		}
		sync = sync || j.MustSync
	}
	first, _ := store.FirstIndex()
	last, _ := store.LastIndex()
	hs, _, _ := store.InitialState()
	out := fmt.Sprintf("%d..%d sync=%t %s", first, last, sync, raft.DescribeHardState(hs))
	if last >= first {
		ents, err := store.Entries(first, last+1, 1<<20)
		if err != nil {
			t.Fatal(err)
		}
		out += "\n" + raft.DescribeEntries(ents, nil)
	}
	return out
}

func TestLogger(t *testing.T) {
	var buf bytes.Buffer
	l := NewLogger(slog.New(slog.NewTextHandler(&buf, &slog.HandlerOptions{Level: slog.LevelInfo})))
	l.Debug("too", "low")
	l.Debugf("%s", "too low")
	l.Infof("term %d", 7)
	l.Warning("careful")
	if got := buf.String(); !strings.Contains(got, "term 7") || !strings.Contains(got, "careful") || strings.Contains(got, "low") {
		t.Errorf("log: %s", got)
	}
	for name, f := range map[string]func(){
		"panic": func() { l.Panicf("%d", 1) }, "fatal": func() { l.Fatal("x") },
	} {
		func() {
			defer func() {
				if recover() == nil {
					t.Errorf("%s returned", name)
				}
			}()
			f()
		}()
	}
}

// FuzzStep: whatever arrives, the node neither panics nor waits for ever; if it
// breaks, it says so with an error.
func FuzzStep(f *testing.F) {
	for _, m := range []*raftpb.Message{
		{Type: raftpb.MsgApp.Enum(), Term: new(uint64(2)), Index: new(uint64(10)), LogTerm: new(uint64(1)), Commit: new(uint64(11)),
			Entries: []*raftpb.Entry{{Index: new(uint64(11)), Term: new(uint64(2)), Data: []byte("x")}}},
		{Type: raftpb.MsgSnap.Enum(), Term: new(uint64(2)), Snapshot: &raftpb.Snapshot{Metadata: &raftpb.SnapshotMetadata{
			Index: new(uint64(20)), Term: new(uint64(2)), ConfState: &raftpb.ConfState{Voters: []uint64{1, 2, 3}}}}},
		{Type: raftpb.MsgHeartbeatResp.Enum(), Term: new(uint64(2)), Context: []byte("short")},
		{Type: raftpb.MsgHeartbeat.Enum(), Term: new(uint64(2)), Commit: new(uint64(99))},
		{Type: raftpb.MsgReadIndex.Enum()},
		{Type: raftpb.MsgVote.Enum(), Term: new(uint64(9)), Index: new(uint64(99)), LogTerm: new(uint64(9))},
	} {
		b, err := proto.Marshal(m)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b, true)
		f.Add(b, false)
	}
	f.Fuzz(func(t *testing.T, b []byte, leader bool) {
		m := &raftpb.Message{}
		if proto.Unmarshal(b, m) != nil {
			return
		}
		m.To, m.From = new(uint64(1)), new(uint64(2))
		e := newEnv()
		for id := range uint64(3) {
			if err := e.start(id+1, []uint64{1, 2, 3}, nil, 1, 10, id); err != nil {
				t.Fatal(err)
			}
		}
		if leader {
			if err := e.members[1].loop.Campaign(); err != nil {
				t.Fatal(err)
			}
			if err := e.stabilize(); err != nil {
				t.Fatal(err)
			}
		}
		if err := e.members[1].loop.Step(m); err != nil {
			return
		}
		for {
			did, err := e.ready(1)
			if err != nil || !did {
				return
			}
			if _, err := e.append(1); err != nil {
				return
			}
		}
	})
}
