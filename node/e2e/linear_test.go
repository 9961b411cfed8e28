//go:build e2e

package e2e

import (
	"context"
	"fmt"
	"math"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// operation is one call on one register.
type operation struct {
	kind     string // put | get | swap
	key      string
	from, to string // swap: from -> to; put: to
}

// answer is what came back. A call that failed may or may not have happened.
type answer struct {
	unknown bool
	value   string // of a get; "" = not there
	swapped bool
}

// register is the sequential behaviour of a key: a put sets it, a get tells it,
// a swap sets it when it has the value expected.
func register() porcupine.Model {
	return porcupine.Model{
		Partition: func(history []porcupine.Operation) [][]porcupine.Operation {
			byKey := map[string][]porcupine.Operation{}
			for _, op := range history {
				key := op.Input.(operation).key
				byKey[key] = append(byKey[key], op)
			}
			var out [][]porcupine.Operation
			for _, part := range byKey {
				out = append(out, part)
			}
			return out
		},
		Init: func() any { return "" },
		Step: func(state, input, output any) (bool, any) {
			now, in, out := state.(string), input.(operation), output.(answer)
			switch in.kind {
			case "put":
				return true, in.to
			case "get":
				return out.unknown || out.value == now, now
			}
			if now == in.from {
				return out.unknown || out.swapped, in.to
			}
			return out.unknown || !out.swapped, now
		},
		DescribeOperation: func(input, output any) string { return fmt.Sprintf("%+v -> %+v", input, output) },
	}
}

// history records calls of concurrent clients.
type history struct {
	began time.Time
	mu    sync.Mutex
	ops   []porcupine.Operation
	known atomic.Int64 // calls that were answered
}

// record makes one call and notes when it was under way: for ever, if nobody
// knows how it ended.
func (h *history) record(client int, in operation, call func() (answer, error)) error {
	op := porcupine.Operation{ClientId: client, Input: in, Call: time.Since(h.began).Nanoseconds()}
	out, err := call()
	op.Return = time.Since(h.began).Nanoseconds()
	if err != nil {
		if in.kind == "get" {
			return err // has changed nothing and told nothing
		}
		out, op.Return = answer{unknown: true}, math.MaxInt64
	} else {
		h.known.Add(1)
	}
	op.Output = out
	h.mu.Lock()
	defer h.mu.Unlock()
	h.ops = append(h.ops, op)
	return err
}

// client makes calls through one node until ctx ends; after a failure it goes
// on to the next one.
func (h *history) client(ctx context.Context, id int, clients []*clientv3.Client) {
	random := rand.New(rand.NewPCG(uint64(id), 7))
	at, last := id, ""
	for n := 0; ctx.Err() == nil; n++ {
		in := operation{key: fmt.Sprintf("register/%d", random.IntN(3)), to: fmt.Sprintf("%d-%d", id, n), from: last}
		in.kind = []string{"put", "get", "get", "swap"}[random.IntN(4)]
		err := h.record(id, in, func() (answer, error) {
			op, cancel := context.WithTimeout(ctx, 2*time.Second)
			defer cancel()
			out, err := invoke(op, clients[at%len(clients)], in)
			if err == nil && in.kind == "get" {
				last = out.value
			}
			return out, err
		})
		pause := 4 * time.Millisecond
		if err != nil {
			at, pause = at+1, 200*time.Millisecond
		}
		select {
		case <-ctx.Done():
		case <-time.After(pause):
		}
	}
}

func invoke(ctx context.Context, client *clientv3.Client, in operation) (answer, error) {
	switch in.kind {
	case "put":
		_, err := client.Put(ctx, in.key, in.to)
		return answer{}, err
	case "get":
		res, err := client.Get(ctx, in.key)
		if err != nil || len(res.Kvs) == 0 {
			return answer{}, err
		}
		return answer{value: string(res.Kvs[0].Value)}, nil
	}
	is := clientv3.Compare(clientv3.Value(in.key), "=", in.from)
	if in.from == "" {
		is = clientv3.Compare(clientv3.CreateRevision(in.key), "=", 0)
	}
	res, err := client.Txn(ctx).If(is).Then(clientv3.OpPut(in.key, in.to)).Commit()
	if err != nil {
		return answer{}, err
	}
	return answer{swapped: res.Succeeded}, nil
}

// awaitKnown waits until n more calls than now are answered.
func (h *history) awaitKnown(c *Cluster, n int64) {
	c.t.Helper()
	want := h.known.Load() + n
	c.Eventually(fmt.Sprintf("%d more answers", n), func() error {
		if have := h.known.Load(); have < want {
			return fmt.Errorf("%d of %d", have, want)
		}
		return nil
	})
}

// TestLinearizability runs concurrent clients on a few registers, through all
// members, while the leader is killed and started again, and the next one is
// frozen until there is another and goes on unaware. What they saw must have an
// order; a checker that gives up fails the test.
func TestLinearizability(t *testing.T) {
	t.Parallel()
	c, nodes := static(t)
	var each []*clientv3.Client
	for _, n := range nodes {
		each = append(each, n.client())
	}
	h := &history{began: time.Now()}
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	var clients sync.WaitGroup
	for id := range 6 {
		clients.Add(1)
		go func() { defer clients.Done(); h.client(ctx, id, each) }()
	}
	h.awaitKnown(c, 300)
	dead := c.Leader()
	dead.Kill()
	h.awaitKnown(c, 300)
	dead.Restart()
	h.awaitKnown(c, 100)

	frozen := c.Leader()
	if err := frozen.cmd.Process.Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	c.Eventually("another leader", func() error {
		for _, n := range nodes {
			if n == frozen {
				continue
			}
			op, cancel := context.WithTimeout(ctx, time.Second)
			st, err := n.client().Status(op, n.Client)
			cancel()
			if err == nil && st.Leader == st.Header.MemberId {
				return nil
			}
		}
		return fmt.Errorf("no other member leads")
	})
	h.awaitKnown(c, 200)
	if err := frozen.cmd.Process.Signal(syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	h.awaitKnown(c, 500)
	stop()
	clients.Wait()

	result := porcupine.CheckOperationsTimeout(register(), h.ops, time.Minute)
	t.Logf("%d calls, %d answered: %s", len(h.ops), h.known.Load(), result)
	if result != porcupine.Ok {
		t.Errorf("the history is %s", result)
	}
	c.AwaitEqual()
}

// TestCheckerSeesViolations is the negative test of the checker: histories that
// no register gives are rejected, those with an unknown end are not.
func TestCheckerSeesViolations(t *testing.T) {
	const forever = math.MaxInt64
	op := func(kind, from, to string, out answer, call, end int64) porcupine.Operation {
		return porcupine.Operation{Input: operation{kind: kind, key: "k", from: from, to: to}, Output: out, Call: call, Return: end}
	}
	put := func(v string, call, end int64) porcupine.Operation { return op("put", "", v, answer{}, call, end) }
	get := func(v string, call, end int64) porcupine.Operation {
		return op("get", "", "", answer{value: v}, call, end)
	}
	for _, tc := range []struct {
		name    string
		history []porcupine.Operation
		want    porcupine.CheckResult
	}{
		{"read after write", []porcupine.Operation{put("1", 0, 1), put("2", 2, 3), get("2", 4, 5)}, porcupine.Ok},
		{"stale read", []porcupine.Operation{put("1", 0, 1), put("2", 2, 3), get("1", 4, 5)}, porcupine.Illegal},
		{"lost write", []porcupine.Operation{put("1", 0, 1), get("", 2, 3)}, porcupine.Illegal},
		{"reads go back", []porcupine.Operation{put("1", 0, 9), get("1", 1, 2), get("", 3, 4)}, porcupine.Illegal},
		{"both swaps win", []porcupine.Operation{put("1", 0, 1), op("swap", "1", "2", answer{swapped: true}, 2, 3),
			op("swap", "1", "3", answer{swapped: true}, 2, 3)}, porcupine.Illegal},
		{"swap of another value", []porcupine.Operation{put("1", 0, 1), op("swap", "2", "3", answer{swapped: true}, 2, 3)}, porcupine.Illegal},
		{"an unknown write that took effect late", []porcupine.Operation{put("1", 0, 1),
			op("put", "", "2", answer{unknown: true}, 2, forever), get("1", 3, 4), get("2", 5, 6)}, porcupine.Ok},
		{"an unknown write that never did", []porcupine.Operation{put("1", 0, 1),
			op("put", "", "2", answer{unknown: true}, 2, forever), get("1", 3, 4)}, porcupine.Ok},
		{"an unknown write seen and gone", []porcupine.Operation{put("1", 0, 1),
			op("put", "", "2", answer{unknown: true}, 2, forever), get("2", 3, 4), get("1", 5, 6)}, porcupine.Illegal},
		{"a write seen before it began", []porcupine.Operation{get("1", 0, 1), put("1", 2, 3)}, porcupine.Illegal},
	} {
		if got := porcupine.CheckOperationsTimeout(register(), tc.history, time.Minute); got != tc.want {
			t.Errorf("%s: %s, want %s", tc.name, got, tc.want)
		}
	}
}
