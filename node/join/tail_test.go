package join

import (
	"fmt"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"

	"github.com/chainfire/cfseed/internal/datadir"
	"github.com/chainfire/cfseed/internal/fault"
	"github.com/chainfire/cfseed/internal/ident"
	entryv1 "github.com/chainfire/cfseed/proto/chainfire/entry/v1"
	chainfirev1 "github.com/chainfire/cfseed/proto/chainfire/v1"
	"github.com/chainfire/cfseed/raftlog"
)

// seededLog is the log of a node seeded at 2/40.
func seededLog(t *testing.T) *raftlog.Log {
	t.Helper()
	o := raftlog.Options{FS: vfs.NewMem()}
	if err := raftlog.Seed("raft", o, raftlog.SeedState{Position: ident.Position{Term: 2, Index: 40}, State: 1}); err != nil {
		t.Fatal(err)
	}
	l, err := raftlog.Open("raft", o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := l.Close(); err != nil {
			t.Error(err)
		}
	})
	return l
}

// growing answers from a log that ends at last and grows by grow entries with
// each call, at most each entries an answer.
func growing(last, grow, each uint64) func(*chainfirev1.GetTailRequest) (*chainfirev1.GetTailResponse, error) {
	return func(req *chainfirev1.GetTailRequest) (*chainfirev1.GetTailResponse, error) {
		res := &chainfirev1.GetTailResponse{Applied: &entryv1.Position{Term: 2, Index: last}}
		for i := req.GetAfter().GetIndex() + 1; i <= last && uint64(len(res.Entries)) < each; i++ {
			b, err := proto.Marshal(&raftpb.Entry{Term: proto.Uint64(2), Index: proto.Uint64(i)})
			if err != nil {
				return nil, err
			}
			res.Entries = append(res.Entries, b)
		}
		last += grow
		return res, nil
	}
}

func outcome(id datadir.Identity) *Outcome {
	return &Outcome{Identity: id, Reserved: &chainfirev1.ReserveResponse{}}
}

// The tail comes in rounds that get shorter, until one is short enough; the
// ticket then names the end of the log.
func TestFetchTail(t *testing.T) {
	c := &cluster{admit: []error{nil}}
	c.tail = growing(1040, 10, 100) // 1000 entries in ten answers, then 100, then 10
	n, _ := newcomer(t, c, nil)
	log := seededLog(t)
	if err := n.FetchTail(t.Context(), outcome(seeded()), log); err != nil {
		t.Fatal(err)
	}
	end := ident.Position{Term: 2, Index: 1150}
	if log.Last() != end || n.TailEntries() != 1110 {
		t.Errorf("the log ends at %s, %d entries fetched", log.Last(), n.TailEntries())
	}
	if _, err := n.Admit(t.Context(), seeded()); err != nil {
		t.Fatal(err)
	}
	if got := c.ticket.GetPosition(); got.GetIndex() != end.Index || got.GetTerm() != end.Term {
		t.Errorf("the ticket is at %v", got)
	}
	if asked := c.firstTail(); asked.GetClusterId() != n.cfg.Cluster.ID || asked.GetLeaseId() != seeded().Seed.LeaseID {
		t.Errorf("asked %v", asked)
	}
}

// A cluster that writes faster than it can be asked does not keep the newcomer.
func TestFetchTailEnds(t *testing.T) {
	c := &cluster{admit: []error{nil}}
	c.tail = growing(540, 500, 1000)
	n, _ := newcomer(t, c, nil)
	log := seededLog(t)
	if err := n.FetchTail(t.Context(), outcome(seeded()), log); err != nil {
		t.Fatal(err)
	}
	if rounds := c.tailCalls(); rounds != 1+mostRounds {
		t.Errorf("%d rounds", rounds)
	}
}

// Whatever is wrong with the tail, the join goes on: the admission is what
// tells whether the seed will do.
func TestFetchTailFails(t *testing.T) {
	for name, tail := range map[string]func(*chainfirev1.GetTailRequest) (*chainfirev1.GetTailResponse, error){
		"the log is gone": func(*chainfirev1.GetTailRequest) (*chainfirev1.GetTailResponse, error) {
			return nil, fault.Newf(fault.Reseed, "get tail", "gone")
		},
		"not served": nil,
		"nonsense": func(*chainfirev1.GetTailRequest) (*chainfirev1.GetTailResponse, error) {
			return &chainfirev1.GetTailResponse{Applied: &entryv1.Position{Term: 2, Index: 90}, Entries: [][]byte{[]byte("nonsense")}}, nil
		},
		"a gap": func(*chainfirev1.GetTailRequest) (*chainfirev1.GetTailResponse, error) {
			b, err := proto.Marshal(&raftpb.Entry{Term: proto.Uint64(2), Index: proto.Uint64(50)})
			return &chainfirev1.GetTailResponse{Applied: &entryv1.Position{Term: 2, Index: 90}, Entries: [][]byte{b}}, err
		},
		"nothing in spite of more": func(*chainfirev1.GetTailRequest) (*chainfirev1.GetTailResponse, error) {
			return &chainfirev1.GetTailResponse{Applied: &entryv1.Position{Term: 2, Index: 90}}, nil
		},
	} {
		t.Run(name, func(t *testing.T) {
			c := &cluster{admit: []error{nil}, tail: tail}
			n, _ := newcomer(t, c, func(cfg *Config) { cfg.IdleTimeout = 300 * time.Millisecond })
			log := seededLog(t)
			if err := n.FetchTail(t.Context(), outcome(seeded()), log); err != nil {
				t.Fatal(err)
			}
			if log.Last() != seeded().Seed.Position {
				t.Errorf("the log ends at %s", log.Last())
			}
			if _, err := n.Admit(t.Context(), seeded()); err != nil {
				t.Fatal(err)
			}
			if got := c.ticket.GetPosition().GetIndex(); got != seeded().Seed.Position.Index {
				t.Errorf("the ticket is at %d", got)
			}
		})
	}
}

// The log of a node whose Raft has run is not touched.
func TestFetchTailOfAMember(t *testing.T) {
	c := &cluster{}
	c.tail = growing(540, 0, 1000)
	n, _ := newcomer(t, c, nil)
	log := seededLog(t)
	out := outcome(seeded())
	out.Reserved.AlreadyMember = true
	if err := n.FetchTail(t.Context(), out, log); err != nil || c.tailCalls() != 0 || log.Last() != seeded().Seed.Position {
		t.Errorf("%d calls, at %s, %v", c.tailCalls(), log.Last(), err)
	}
}

// The members that the cluster names come first, by the addresses the newcomer
// can use; with none of these it takes what it was given.
func TestSources(t *testing.T) {
	res := &chainfirev1.ReserveResponse{Sources: []uint64{3, 1, 9},
		Members: []*chainfirev1.Member{{Id: 1, PeerUrls: []string{"p1"}, ClientUrls: []string{"c1"}}, {Id: 3, PeerUrls: []string{"p3"}}}}
	for name, tc := range map[string]struct {
		urls func(*chainfirev1.Member) []string
		want string
	}{
		"by peer URLs":   {(*chainfirev1.Member).GetPeerUrls, "[p3 p1 a]"},
		"by client URLs": {(*chainfirev1.Member).GetClientUrls, "[c1 a]"},
		"as told":        {nil, "[a]"},
	} {
		n := New(Config{Endpoints: []string{"a"}, SourceURLs: tc.urls})
		if got := n.sources(res); fmt.Sprint(got) != tc.want {
			t.Errorf("%s: %v, want %s", name, got, tc.want)
		}
	}
}
