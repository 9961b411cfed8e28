package peer

import (
	"strings"
	"testing"

	"go.etcd.io/raft/v3/raftpb"
	"pgregory.net/rapid"
)

// The queue against a slice: bounded, first in first out, nothing lost unseen.
func TestQueueProperty(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		maxMessages, maxBytes := rapid.IntRange(1, 8).Draw(t, "messages"), rapid.IntRange(1, 2000).Draw(t, "bytes")
		q := newQueue(maxMessages, maxBytes)
		var model []*raftpb.Message
		sum := func() (n int) {
			for _, m := range model {
				n += weight(m)
			}
			return n
		}
		t.Repeat(map[string]func(*rapid.T){
			"push": func(t *rapid.T) {
				m := app(1, 2, strings.Repeat("x", rapid.IntRange(0, 900).Draw(t, "size")))
				room := len(model) == 0 || len(model) < maxMessages && sum()+weight(m) <= maxBytes
				if q.push(m) != room {
					t.Fatalf("push with %d messages, %d bytes: room %v", len(model), sum(), room)
				}
				if room {
					model = append(model, m)
				}
			},
			"take": func(t *rapid.T) {
				limit := rapid.IntRange(0, 2000).Draw(t, "limit")
				got := q.take(limit)
				if len(got) == 0 && len(model) > 0 {
					t.Fatal("took nothing")
				}
				n := 0
				for i, m := range got {
					if m != model[i] {
						t.Fatalf("message %d is another", i)
					}
					n += weight(m)
				}
				if len(got) > 1 && n > limit {
					t.Fatalf("took %d bytes, limit %d", n, limit)
				}
				model = model[len(got):]
			},
			"flush": func(t *rapid.T) {
				if n := q.flush(); n != len(model) {
					t.Fatalf("flushed %d, want %d", n, len(model))
				}
				model = nil
			},
			"": func(t *rapid.T) {
				if len(model) > 0 && len(q.ready) == 0 {
					t.Fatal("messages wait and nobody is told")
				}
			},
		})
	})
}
