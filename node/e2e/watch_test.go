//go:build e2e

package e2e

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// watched is what a watch has seen, as text.
type watched struct {
	t   *testing.T
	ch  clientv3.WatchChan
	all []string
	rev int64 // of the last event
}

func eventOf(ev *clientv3.Event) string {
	text := fmt.Sprintf("%s %s=%s@%d", ev.Type, ev.Kv.Key, ev.Kv.Value, ev.Kv.ModRevision)
	if ev.PrevKv != nil {
		text += fmt.Sprintf(" was %s@%d", ev.PrevKv.Value, ev.PrevKv.ModRevision)
	}
	return text
}

// until reads until an event of the revision or a later one has come.
func (w *watched) until(rev int64) []string {
	w.t.Helper()
	deadline := time.NewTimer(waitPatience)
	defer deadline.Stop()
	for w.rev < rev {
		select {
		case resp, open := <-w.ch:
			if !open || resp.Err() != nil {
				w.t.Fatalf("the watch ended at revision %d, wanted %d: %v", w.rev, rev, resp.Err())
			}
			for _, ev := range resp.Events {
				w.all = append(w.all, eventOf(ev))
				w.rev = ev.Kv.ModRevision
			}
		case <-deadline.C:
			w.t.Fatalf("nothing after revision %d within %s, wanted %d", w.rev, waitPatience, rev)
		}
	}
	return w.all
}

// putAll writes until each key was acknowledged, and gives the last revision.
func putAll(t *testing.T, client *clientv3.Client, prefix string, n int) (rev int64) {
	t.Helper()
	for i := range n {
		key, deadline := fmt.Sprintf("w/%s/%02d", prefix, i), time.Now().Add(waitPatience)
		for {
			ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
			res, err := client.Put(ctx, key, prefix)
			cancel()
			if err == nil {
				rev = res.Header.GetRevision()
				break
			}
			if time.Now().After(deadline) {
				t.Fatalf("put %s: %v", key, err)
			}
		}
	}
	return rev
}

// TestWatchAcrossKills: a client's watch sees every revision once and in order
// while each member, the leader too, is killed and comes back.
func TestWatchAcrossKills(t *testing.T) {
	t.Parallel()
	c, nodes := static(t)
	client := c.Client(nodes...)
	w := &watched{t: t, ch: client.Watch(t.Context(), "w/", clientv3.WithPrefix(), clientv3.WithPrevKV())}
	rev := putAll(t, client, "before", 5)
	w.until(rev)
	for i, n := range append([]*Node{c.Leader()}, nodes...) {
		n.Kill()
		putAll(t, client, "same", 5) // once more each time
		rev = putAll(t, client, fmt.Sprint("without-", i), 5)
		w.until(rev)
		n.Restart()
	}
	if _, err := client.Delete(t.Context(), "w/same/", clientv3.WithPrefix()); err != nil {
		t.Fatal(err)
	}
	rev = putAll(t, client, "after", 5)
	got := w.until(rev)
	for _, n := range nodes { // each has the same history
		past := &watched{t: t, ch: c.Client(n).Watch(t.Context(), "w/", clientv3.WithPrefix(), clientv3.WithPrevKV(), clientv3.WithRev(2))}
		if want := past.until(rev); !slices.Equal(got, want) {
			t.Errorf("the watch saw\n%s\n%s has\n%s", strings.Join(got, "\n"), n.Name, strings.Join(want, "\n"))
		}
	}
}

// TestWatchWithoutLeader: a stream that requires a leader ends without one; one
// that does not stays, and goes on when there is one again.
func TestWatchWithoutLeader(t *testing.T) {
	t.Parallel()
	c, nodes := static(t)
	survivor := c.Client(nodes[0])
	led := survivor.Watch(clientv3.WithRequireLeader(t.Context()), "w/", clientv3.WithPrefix(), clientv3.WithCreatedNotify())
	if resp := <-led; !resp.Created {
		t.Fatalf("%v, %v", resp, resp.Err())
	}
	rest := &watched{t: t, ch: survivor.Watch(t.Context(), "w/", clientv3.WithPrefix())}
	rest.until(putAll(t, survivor, "before", 1))
	nodes[1].Kill()
	nodes[2].Kill()
	deadline := time.NewTimer(waitPatience)
	defer deadline.Stop()
	for ended := false; !ended; {
		select {
		case resp := <-led:
			switch {
			case errors.Is(resp.Err(), rpctypes.ErrNoLeader):
				ended = true
			case resp.Err() != nil || resp.Canceled:
				t.Fatalf("the stream that requires a leader: %v", resp.Err())
			}
		case <-deadline.C:
			t.Fatalf("the stream that requires a leader lives without one after %s", waitPatience)
		}
	}
	nodes[1].Restart()
	nodes[2].Restart()
	rest.until(putAll(t, survivor, "after", 1))
}

// TestWatchProgressNotify: a quiet watch hears of the revision by itself.
func TestWatchProgressNotify(t *testing.T) {
	t.Parallel()
	c := NewCluster(t, "--watch-progress-notify-interval", "100ms")
	client := c.Client(c.Start("n1"))
	quiet := client.Watch(t.Context(), "quiet", clientv3.WithProgressNotify())
	rev := putAll(t, client, "other", 3)
	deadline := time.NewTimer(waitPatience)
	defer deadline.Stop()
	for told := int64(0); told < rev; {
		select {
		case resp := <-quiet:
			if !resp.IsProgressNotify() || resp.Header.GetRevision() < told {
				t.Fatalf("told %d, then %v", told, resp)
			}
			told = resp.Header.GetRevision()
		case <-deadline.C:
			t.Fatalf("told of revision %d within %s, wanted %d", told, waitPatience, rev)
		}
	}
}
