package node

import (
	"strings"
	"testing"

	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"

	"github.com/chainfire/cfseed/internal/fault"
	"github.com/chainfire/cfseed/internal/ident"
	"github.com/chainfire/cfseed/internal/state/envelope"
	entryv1 "github.com/chainfire/cfseed/proto/chainfire/entry/v1"
)

// The IDs are etcd's for the same flags: those of its documentation (a single
// member with no flags; the three of its Procfile) and of its own test of
// member IDs.
func TestIDsAreEtcds(t *testing.T) {
	for _, c := range []struct {
		flag, token string
		cluster     string
		members     map[string]string
	}{
		{"default=http://localhost:2380", "etcd-cluster", "cdf818194e3a8c32", map[string]string{"default": "8e9e05c52164694d"}},
		{"infra1=http://127.0.0.1:12380,infra2=http://127.0.0.1:22380,infra3=http://127.0.0.1:32380", "etcd-cluster-1", "ef37ad9dc622a7c4",
			map[string]string{"infra1": "8211f1d0f64f3269", "infra2": "91bc3c398fb3c146", "infra3": "fd422379fda50e48"}},
		{"mem1=http://10.0.0.8:2379", "", "", map[string]string{"mem1": ident.FormatID(14544069596553697298)}},
	} {
		seats, err := parseInitialCluster(c.flag, c.token)
		if err != nil {
			t.Fatal(err)
		}
		if got := ident.FormatID(newCluster(seats).ID); c.cluster != "" && got != c.cluster {
			t.Errorf("%s: cluster %s, etcd has %s", c.flag, got, c.cluster)
		}
		for name, want := range c.members {
			s, err := findSeat(seats, name)
			if err != nil || ident.FormatID(s.id) != want {
				t.Errorf("%s: %s has %s, %v; etcd has %s", c.flag, name, ident.FormatID(s.id), err, want)
			}
		}
	}
}

// Neither the order of members nor that of one member's URLs changes an ID; the
// token does.
func TestIDsAreOfTheSet(t *testing.T) {
	id := func(flag, token string) uint64 {
		t.Helper()
		seats, err := parseInitialCluster(flag, token)
		if err != nil {
			t.Fatal(err)
		}
		for i := 1; i < len(seats); i++ {
			if seats[i-1].id >= seats[i].id {
				t.Errorf("%s: seats are not ascending", flag)
			}
		}
		return clusterID(seats)
	}
	want := id("a=http://h:1,a=http://h:2,b=http://h:3", "x")
	if got := id("b=http://h:3, a=http://h:2,a=http://h:1", "x"); got != want {
		t.Errorf("%x in another order, %x before", got, want)
	}
	if got := id("a=http://h:1,a=http://h:2,b=http://h:3", "y"); got == want {
		t.Error("the token does not count")
	}
}

func TestInitialClusterErrors(t *testing.T) {
	for _, flag := range []string{"", "a", "=http://h:1", "a=", "a=http://h:1,", "a=http://h:1,b=http://h:1"} {
		if seats, err := parseInitialCluster(flag, ""); !fault.Is(err, fault.Usage) {
			t.Errorf("%q: %v, %v; want a usage error", flag, seats, err)
		}
	}
	seats, err := parseInitialCluster("a=http://h:1", "")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := findSeat(seats, "b"); !fault.Is(err, fault.Usage) || !strings.Contains(fault.HintOf(err), "--name") {
		t.Errorf("a name that is not there: %v", err)
	}
}

// A newcomer to an existing cluster is told of members that have not started;
// a new cluster has none.
func TestNamelessMembersAreLeftOut(t *testing.T) {
	for _, c := range []struct{ flag, want string }{
		{"a=http://h:1,b=http://h:2", "a=http://h:1,b=http://h:2"},
		{"a=http://h:1, =http://h:2,b=http://h:3,=http://h:4", "a=http://h:1,b=http://h:3"},
		{"=http://h:1", ""},
		{"a", "a"},
		{"", ""},
	} {
		if got := started(c.flag); got != c.want {
			t.Errorf("%q: %q, want %q", c.flag, got, c.want)
		}
	}
}

// A new cluster's log is configuration entries from 1 at term 1, never a
// snapshot (S8).
func TestBootstrapEntries(t *testing.T) {
	seats, err := parseInitialCluster("a=http://h:1,b=http://h:2", "x")
	if err != nil {
		t.Fatal(err)
	}
	entries, err := bootstrapEntries(seats)
	if err != nil || len(entries) != 2 {
		t.Fatalf("%d entries, %v", len(entries), err)
	}
	for i, e := range entries {
		var cc raftpb.ConfChange
		if err := proto.Unmarshal(e.GetData(), &cc); err != nil {
			t.Fatal(err)
		}
		env, err := envelope.Decode(cc.GetContext())
		if err != nil || env.Kind != envelope.BootstrapVoter {
			t.Fatalf("entry %d: %v, %v", i, env.Kind, err)
		}
		var body entryv1.BootstrapVoter
		if err := proto.Unmarshal(env.Body, &body); err != nil {
			t.Fatal(err)
		}
		if e.GetIndex() != uint64(i)+1 || e.GetTerm() != 1 || cc.GetType() != raftpb.ConfChangeAddNode ||
			cc.GetNodeId() != seats[i].id || body.GetId() != seats[i].id || body.GetName() != seats[i].name {
			t.Errorf("entry %d: %v, %v", i, &cc, &body)
		}
	}
}
