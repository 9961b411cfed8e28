//go:build e2e

package e2e

import (
	"context"
	"fmt"
	"maps"
	"strings"
	"sync"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
)

// Writer puts keys concurrently and keeps the ledger of what was acknowledged.
// Each key is written once, so what is read back must be what was written.
type Writer struct {
	c      *Cluster
	client *clientv3.Client
	prefix string
	cancel context.CancelFunc
	done   sync.WaitGroup

	mu     sync.Mutex
	acked  map[string]string
	failed int
	last   error
}

// writePause keeps the load far below what two cores can do, so that what the
// tests see is the protocol and not a queue.
const writePause = 2 * time.Millisecond

// StartWriter starts workers that put through the nodes (default: all that
// run). Values are filled up to valueBytes.
func (c *Cluster) StartWriter(workers, valueBytes int, nodes ...*Node) *Writer {
	c.t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	w := &Writer{c: c, prefix: fmt.Sprintf("written/%x/", time.Now().UnixNano()), client: c.Client(nodes...), cancel: cancel, acked: map[string]string{}}
	for i := range workers {
		w.done.Add(1)
		go func() { defer w.done.Done(); w.work(ctx, i, valueBytes) }()
	}
	c.t.Cleanup(w.stop)
	return w
}

func (w *Writer) work(ctx context.Context, worker, valueBytes int) {
	tick := time.NewTicker(writePause)
	defer tick.Stop()
	for i := 0; ; i++ {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		key := fmt.Sprintf("%s%d/%08d", w.prefix, worker, i)
		value := "value of " + key
		value += strings.Repeat(".", max(0, valueBytes-len(value)))
		op, cancel := context.WithTimeout(ctx, 3*time.Second)
		_, err := w.client.Put(op, key, value)
		cancel()
		w.mu.Lock()
		if err == nil {
			w.acked[key] = value
		} else if ctx.Err() == nil {
			w.failed, w.last = w.failed+1, err
		}
		w.mu.Unlock()
	}
}

// Use lets the writes go through the nodes (default: all that run) from now on.
func (w *Writer) Use(nodes ...*Node) {
	if len(nodes) == 0 {
		nodes = w.c.Running()
	}
	var endpoints []string
	for _, n := range nodes {
		endpoints = append(endpoints, n.Client)
	}
	w.client.SetEndpoints(endpoints...)
}

func (w *Writer) stop() { w.cancel(); w.done.Wait() }

// Stop ends the writing; it may be called again.
func (w *Writer) Stop() { w.stop() }

// Acked is the number of writes acknowledged so far.
func (w *Writer) Acked() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.acked)
}

// AwaitMore waits until n more writes than now are acknowledged.
func (w *Writer) AwaitMore(n int) {
	w.c.t.Helper()
	want := w.Acked() + n
	w.c.Eventually(fmt.Sprintf("%d more writes", n), func() error {
		w.mu.Lock()
		defer w.mu.Unlock()
		if len(w.acked) < want {
			return fmt.Errorf("%d of %d writes acknowledged, %d failed, the last with: %v", len(w.acked), want, w.failed, w.last)
		}
		return nil
	})
}

// CheckOn stops the writing, waits until the members (default: all that run)
// have equal digests, and reads every acknowledged write back from each.
func (w *Writer) CheckOn(nodes ...*Node) {
	w.c.t.Helper()
	w.Stop()
	if len(nodes) == 0 {
		nodes = w.c.Running()
	}
	w.c.AwaitEqual(nodes...)
	w.mu.Lock()
	ledger := maps.Clone(w.acked)
	w.mu.Unlock()
	if len(ledger) == 0 {
		w.c.t.Error("no write was acknowledged: nothing was tested")
	}
	for _, n := range nodes {
		have := readAll(w.c.t, n, w.prefix)
		if lost := lostWrites(ledger, have); len(lost) > 0 {
			w.c.t.Errorf("%s has lost %d of %d acknowledged writes, the first: %s", n.Name, len(lost), len(ledger), lost[0])
		}
	}
}

// lostWrites lists the keys of the ledger that have another value, or none.
func lostWrites(ledger, have map[string]string) []string {
	var lost []string
	for key, value := range ledger {
		if got, ok := have[key]; !ok || got != value {
			lost = append(lost, key)
		}
	}
	return lost
}

// readAll reads all pairs below prefix from one node, from its own state.
func readAll(t *testing.T, n *Node, prefix string) map[string]string {
	t.Helper()
	const page = 1000
	out := map[string]string{}
	from, end := prefix, clientv3.GetPrefixRangeEnd(prefix)
	for {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		res, err := n.client().Get(ctx, from, clientv3.WithRange(end), clientv3.WithLimit(page), clientv3.WithSerializable())
		cancel()
		if err != nil {
			t.Fatalf("read from %s: %v", n.Name, err)
		}
		for _, kv := range res.Kvs {
			out[string(kv.Key)] = string(kv.Value)
			from = string(kv.Key) + "\x00"
		}
		if !res.More {
			return out
		}
	}
}

// TestLedgerSeesLoss is the negative test of the Writer's oracle.
func TestLedgerSeesLoss(t *testing.T) {
	ledger := map[string]string{"a": "1", "b": "2"}
	for name, have := range map[string]map[string]string{
		"missing": {"a": "1"}, "changed": {"a": "1", "b": "3"}, "empty": {},
	} {
		if len(lostWrites(ledger, have)) == 0 {
			t.Errorf("%s: nothing lost", name)
		}
	}
	if lost := lostWrites(ledger, map[string]string{"a": "1", "b": "2", "c": "4"}); len(lost) != 0 {
		t.Errorf("lost %v of what is there", lost)
	}
}
