package node

import (
	"strings"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/chainfire/cfseed/internal/datadir"
	"github.com/chainfire/cfseed/internal/fault"
)

// TestSecureNodeWaitsForSomebody: behind TLS a node waits for one cluster or
// for who has its token, never for anybody (S11).
func TestSecureNodeWaitsForSomebody(t *testing.T) {
	const plain, secure = "http://127.0.0.1:0", "https://127.0.0.1:0"
	for _, c := range []struct {
		name string
		peer string
		cfg  Config
		id   *datadir.Identity // in the directory; nil = none
		code fault.Code
	}{
		{"anybody, in the clear", plain, Config{AwaitSeed: true}, nil, ""},
		{"anybody, with TLS", secure, Config{AwaitSeed: true}, nil, fault.Usage},
		{"anybody, with TLS on a socket", "unixs://a.sock", Config{AwaitSeed: true}, nil, fault.Usage},
		{"a token", secure, Config{AwaitSeed: true, JoinToken: "t"}, nil, ""},
		{"a cluster", secure, Config{AwaitSeed: true, ClusterID: 1}, nil, ""},
		{"no waiting", secure, Config{Join: []string{"h:1"}}, nil, ""},
		{"a founding member", secure, Config{AwaitSeed: true}, &datadir.Identity{}, ""},
		{"a member that was seeded", secure, Config{AwaitSeed: true}, &datadir.Identity{Seed: &datadir.SeedRef{Joined: true}}, ""},
		{"a seed that was not admitted", secure, Config{AwaitSeed: true}, &datadir.Identity{Seed: &datadir.SeedRef{}}, fault.Usage},
	} {
		c.cfg.Name, c.cfg.ListenPeer = "n1", []string{c.peer}
		n := &node{cfg: c.cfg, dir: datadir.At(vfs.NewMem(), "data")}
		if c.id != nil {
			if err := n.dir.Begin(); err != nil {
				t.Fatal(err)
			}
			if err := n.dir.CommitIdentity(*c.id); err != nil {
				t.Fatal(err)
			}
		}
		class, err := n.dir.Classify()
		if err != nil {
			t.Fatal(err)
		}
		err = n.checkInvitation(class)
		if fault.CodeOf(err) != c.code {
			t.Errorf("%s: %v, want %q", c.name, err, c.code)
		}
		if hint := fault.HintOf(err); err != nil && !(strings.Contains(hint, "--cluster-id ID") && strings.Contains(hint, "cfseed member token n1")) {
			t.Errorf("%s: hint %q", c.name, hint)
		}
	}
}
