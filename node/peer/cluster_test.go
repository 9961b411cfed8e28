package peer

import (
	"bytes"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/chainfire/cfseed/internal/fault"
	chainfirev1 "github.com/chainfire/cfseed/proto/chainfire/v1"
)

func TestSameCluster(t *testing.T) {
	genesis := func(b byte) []byte { return bytes.Repeat([]byte{b}, 16) }
	of := func(id uint64, genesis []byte) *chainfirev1.PeerHello {
		return &chainfirev1.PeerHello{ClusterId: id, GenesisNonce: genesis}
	}
	for _, c := range []struct {
		name         string
		self, remote *chainfirev1.PeerHello
		same         bool
	}{
		{"equal", of(7, genesis(1)), of(7, genesis(1)), true},
		{"before the first leader", of(7, nil), of(7, genesis(1)), true},
		{"formed twice with the same flags", of(7, genesis(1)), of(7, genesis(2)), false},
		{"another ID", of(7, nil), of(8, nil), false},
	} {
		if err := sameCluster(c.self, c.remote); errors.Is(err, ErrOtherCluster) == c.same || (err == nil) != c.same {
			t.Errorf("%s: %v", c.name, err)
		}
	}
}

// A member hears from a peer of another cluster what both are, each time.
func TestOtherClusterIsHeard(t *testing.T) {
	listen, heard := refusals()
	b := start(t, 2)
	a := start(t, 1, listen, func(c *Config) {
		c.Self = func() *chainfirev1.PeerHello {
			h := identity(1)
			h.ClusterId = 0xabc
			return h
		}
	})
	a.tr.SetPeer(2, []string{b.url})
	for range 2 {
		err := await(t, heard, "refusal")
		hint := fault.HintOf(err)
		if !errors.Is(err, ErrOtherCluster) || !fault.Is(err, fault.Refused) ||
			!strings.Contains(hint, "0000000000000abc") || !strings.Contains(hint, "0000000000000007") {
			t.Errorf("heard %v (%s)", err, hint)
		}
	}
	if err := a.tr.LastError(2); err != nil && !errors.Is(err, ErrOtherCluster) {
		t.Errorf("last error %v", err)
	}
}

func TestRefusalIsLoggedNowAndThen(t *testing.T) {
	var l refusalLog
	now := time.Now()
	for i, c := range []struct {
		text  string
		after time.Duration
		want  bool
	}{
		{"a", 0, true}, {"a", time.Second, false}, {"b", 0, true}, {"a", sayAgain - 2*time.Second, false}, {"a", time.Second, true}, {"b", 0, false},
	} {
		now = now.Add(c.after)
		if got := l.news(c.text, now); got != c.want {
			t.Errorf("%d: %s: %t", i, c.text, got)
		}
	}
	for i := range 3 * maxSaid {
		l.news(strings.Repeat("x", i), now)
	}
	if len(l.said) > maxSaid {
		t.Errorf("%d texts are remembered", len(l.said))
	}
}
