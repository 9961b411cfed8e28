//go:build e2e

package e2e

import (
	"context"
	"flag"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/chainfire/cfseed/internal/shape"
)

// deltaMiB is how much TestPullDeltaByRanges loads, in values of 256 bytes.
// docs/performance.md has the figures of 128.
var deltaMiB = flag.Int("delta-mib", 16, "values of TestPullDeltaByRanges in MiB")

// ledger is a data set of small records as a service keeps them: JSON of 256
// bytes. Each value follows from its key and how often it was changed.
type ledger struct {
	c       *Cluster
	n       int
	version []int // 0: never written; -1: deleted
	rng     *rand.Rand
}

const (
	ledgerPrefix = "account/"
	ledgerValue  = 256
	ledgerTxn    = 100 // puts at a time
)

func ledgerKey(i int) string { return fmt.Sprintf("%s%08d", ledgerPrefix, i) }

func ledgerText(i, version int) string {
	r := rand.New(rand.NewPCG(uint64(i), uint64(version)))
	s := fmt.Sprintf(`{"id":"%08d","owner":"%016x","balance":%d,"currency":"EUR","state":"active","updated":"2026-%02d-%02dT%02d:%02d:%02dZ","limits":{"day":%d,"month":%d},"note":"`,
		i, r.Uint64(), r.IntN(1e6), 1+r.IntN(12), 1+r.IntN(28), r.IntN(24), r.IntN(60), r.IntN(60), r.IntN(5000), r.IntN(90000))
	words := strings.Fields("paid open late transfer fee order refund monthly yearly shop travel food rent note check")
	for len(s) < ledgerValue-2 {
		s += words[r.IntN(len(words))] + " "
	}
	return s[:ledgerValue-2] + `"}`
}

func (c *Cluster) ledger(mib int) *ledger {
	n := mib << 20 / ledgerValue
	l := &ledger{c: c, n: n, version: make([]int, n), rng: rand.New(rand.NewPCG(7, 7))}
	l.change(l.rng.Perm(n))
	return l
}

// change writes accounts anew.
func (l *ledger) change(accounts []int) {
	l.c.t.Helper()
	l.commit(accounts, func(i int) clientv3.Op {
		l.version[i]++
		return clientv3.OpPut(ledgerKey(i), ledgerText(i, l.version[i]))
	})
}

// drop deletes accounts.
func (l *ledger) drop(accounts []int) {
	l.c.t.Helper()
	l.commit(accounts, func(i int) clientv3.Op {
		l.version[i] = -1
		return clientv3.OpDelete(ledgerKey(i))
	})
}

func (l *ledger) commit(accounts []int, op func(int) clientv3.Op) {
	l.c.t.Helper()
	client := l.c.Client()
	batches := make(chan []clientv3.Op)
	errs := make([]error, 4)
	var wg sync.WaitGroup
	for w := range errs {
		wg.Go(func() {
			for ops := range batches {
				ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
				if _, err := client.Txn(ctx).Then(ops...).Commit(); err != nil {
					errs[w] = err
				}
				cancel()
			}
		})
	}
	for len(accounts) > 0 {
		k := min(ledgerTxn, len(accounts))
		ops := make([]clientv3.Op, 0, k)
		for _, i := range accounts[:k] {
			ops = append(ops, op(i))
		}
		batches <- ops
		accounts = accounts[k:]
	}
	close(batches)
	wg.Wait()
	for _, err := range errs {
		if err != nil {
			l.c.t.Fatalf("write: %v", err)
		}
	}
}

// compact drops the history; the members delete it at their own pace.
func (l *ledger) compact() {
	l.c.t.Helper()
	client := l.c.Client()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	res, err := client.Get(ctx, ledgerPrefix, clientv3.WithCountOnly())
	if err == nil {
		_, err = client.Compact(ctx, res.Header.Revision)
	}
	if err != nil {
		l.c.t.Fatalf("compact: %v", err)
	}
}

// checkOn reads every account back from the node's own state.
func (l *ledger) checkOn(n *Node) {
	l.c.t.Helper()
	have := readAll(l.c.t, n, ledgerPrefix)
	want := 0
	for i, v := range l.version {
		if v < 0 {
			continue
		}
		want++
		if have[ledgerKey(i)] != ledgerText(i, v) {
			l.c.t.Fatalf("%s: account %d is %q", n.Name, i, have[ledgerKey(i)])
		}
	}
	if len(have) != want {
		l.c.t.Errorf("%s has %d accounts, want %d", n.Name, len(have), want)
	}
}

// pullDelta pulls with a base into a directory of its own.
func (c *Cluster) pullDelta(name, from, base, by string, more ...string) (*Node, Result) {
	c.t.Helper()
	n := c.New(name)
	args := []string{"pull", "--from", from, "--data-dir", n.DataDir, "--name", name}
	if base != "" {
		args = append(args, "--delta", base, "--delta-by", by)
	}
	r := c.begin(append(args, more...)...).wait(2 * cliDeadline)
	if r.Code != 0 {
		c.t.Fatalf("pull of %s: %s", name, r)
	}
	return n, r
}

// TestPullDeltaByRanges: where changes are all over the keys, tables are made of
// records, and what comes over the line is a fraction of what differs in files.
// What is installed is the source's seed, joins, is what the others have, and
// verifies.
func TestPullDeltaByRanges(t *testing.T) {
	t.Parallel()
	c := NewCluster(t, "--heartbeat-interval", "50ms", "--election-timeout", "1s")
	source, line := c.behind("n1")
	l := c.ledger(*deltaMiB)
	random := func(percent int) []int { return l.rng.Perm(l.n)[:l.n*percent/100] }
	var last *Node
	steps := []struct {
		name   string
		most   float64 // percent of the seed that may come over the line
		merged bool    // into tables of which the base has none
		change func()
	}{
		{"1 % at random", 5, false, func() { l.change(random(1)) }},
		{"1 % at random, all merged", 15, true, func() { l.change(random(1)) }},
		{"5 % at random", 35, true, func() { l.change(random(5)) }},
		{"20 % at random", 65, true, func() { l.change(random(20)) }},
		{"5 % in one range", 25, true, func() {
			hot := make([]int, l.n/20)
			for k := range hot {
				hot[k] = l.n/3 + k
			}
			l.change(hot)
		}},
		{"10 % deleted, history compacted", 35, true, func() { l.drop(random(10)); l.compact() }},
	}
	for i, step := range steps {
		base, _ := c.pullDelta(fmt.Sprintf("base%d", i), line.URL(), "", "", "--lease-ttl", "3s")
		c.AwaitNoLease() // or the next pull would share its seed
		step.change()
		if step.merged {
			l.c.merge()
		}
		before, seen := treeHash(t, base.DataDir), line.Bytes(shape.Down)
		n, r := c.pullDelta(fmt.Sprintf("ranges%d", i), line.URL(), base.DataDir, "ranges")
		down, total := float64(line.Bytes(shape.Down)-seen), r.Num("bytes_total")
		seen = line.Bytes(shape.Down)
		_, byFiles := c.pullDelta(fmt.Sprintf("files%d", i), line.URL(), base.DataDir, "files", "--lease-ttl", "3s")
		files := float64(line.Bytes(shape.Down) - seen)
		t.Logf("%-32s of %.0f bytes %4.1f %% came by files, %4.1f %% by ranges; %.2fs, %.2fs", step.name, total,
			100*files/byFiles.Num("bytes_total"), 100*down/total, byFiles.Num("seconds"), r.Num("seconds"))
		if step.merged && files < 0.9*byFiles.Num("bytes_total") {
			t.Errorf("%s: the base has files of what was merged: %s", step.name, byFiles)
		}
		if byFiles.Str("delta") != "files" || r.Str("delta") != "ranges" {
			t.Errorf("delta is %q and %q", byFiles.Str("delta"), r.Str("delta"))
		}
		most := step.most
		if !step.merged && files > total/5 { // the source has merged much of it all the same
			most = 15
		}
		if most := total*most/100 + 256<<10; down > most { // with what is said beside it
			t.Errorf("%s: %.0f bytes came down, at most %.0f were expected: %s", step.name, down, most, r)
		}
		if down > r.Num("bytes_wire")+256<<10 {
			t.Errorf("%s: %.0f bytes came down, %v are told", step.name, down, r.Num("bytes_wire"))
		}
		if after := treeHash(t, base.DataDir); after != before {
			t.Errorf("%s: the base has changed", step.name)
		}
		c.VerifyDirs(n)
		if last = n; i < len(steps)-1 {
			c.MustAsk("member", "remove", r.Str("member_id")) // and with it its lease
			c.AwaitNoLease()
		}
	}
	last.Spawn("--join", source.Client)
	last.WaitReady(startPatience)
	c.AwaitRole("voter", last)
	c.noRaftSnapshots()
	c.AwaitEqual(source, last)
	l.checkOn(last)
	if r := c.CLI("verify", "--cluster", source.Client+","+last.Client); r.Code != 0 {
		t.Errorf("verify: %s", r)
	}
}

// TestPullDeltaKilled kills a pull by ranges at several moments; it leaves no node
// behind, and the next one makes a whole one. The base is that of a member that
// wrote its files itself, which are others than the source's though most of their
// records are the same: on a slow line nobody has to ask for ranges then.
func TestPullDeltaKilled(t *testing.T) {
	t.Parallel()
	c := NewCluster(t, "--heartbeat-interval", "50ms", "--election-timeout", "1s")
	source, line := c.behind("n1")
	base := c.StartAwaiting("old")
	c.add(base, "--learner") // it may be away
	l := c.ledger(8)
	c.AwaitEqual(source, base)
	if code := base.Stop(); code != 0 {
		t.Fatalf("SIGTERM: exit %d", code)
	}
	c.MustAsk("member", "remove", base.ID)
	l.change(l.rng.Perm(l.n)[:l.n/10])
	n := c.New("n2")
	pull := func() *command {
		return c.pull(n, line.URL(), "--delta", base.DataDir, "--delta-by", "ranges")
	}
	for _, after := range []int64{64 << 10, 200 << 10, 400 << 10} {
		reached := line.NoticeAfter(after)
		k := pull()
		select {
		case <-reached:
		case <-k.done:
			t.Fatalf("the pull was over after fewer than %d bytes:\n%s", after, k.stderr.String())
		case <-time.After(startPatience):
			t.Fatalf("%d bytes never came", after)
		}
		k.kill()
		if r := c.CLI("verify", "--data-dir", n.DataDir); r.Code == 0 {
			t.Errorf("a pull that was killed left a node: %s", r)
		}
	}
	if r := pull().wait(startPatience); r.Code != 0 || r.Str("delta") != "ranges" {
		t.Fatalf("pull: %s", r)
	}
	n.Spawn("--join", source.Client)
	n.WaitReady(startPatience)
	c.AwaitRole("voter", n)
	c.AwaitEqual(source, n)
	l.checkOn(n)
	line.Rate(shape.Down, 600<<10)
	_, slow := c.pullDelta("slow", line.URL(), base.DataDir, "auto")
	line.Rate(shape.Down, 0)
	if slow.Str("delta") != "ranges" || !strings.Contains(slow.Stderr, "delta ended") {
		t.Errorf("on a slow line: %s\n%s", slow, slow.Stderr)
	}
	near, _ := c.pullDelta("near", line.URL(), "", "")
	_, same := c.pullDelta("same", line.URL(), near.DataDir, "auto")
	if same.Str("delta") != "files" || same.Num("bytes_reused") < 0.9*same.Num("bytes_total") {
		t.Errorf("with all there: %s\n%s", same, same.Stderr)
	}
}

// TestPullDeltaOfADamagedBase: what can not be made because the base is damaged is
// fetched, whatever way was asked for, and nothing of the damage gets into a node.
func TestPullDeltaOfADamagedBase(t *testing.T) {
	t.Parallel()
	c := NewCluster(t, "--heartbeat-interval", "50ms", "--election-timeout", "1s")
	source, line := c.behind("n1")
	base := c.StartAwaiting("old")
	c.add(base, "--learner") // it may be away
	l := c.ledger(8)
	c.AwaitEqual(source, base)
	if code := base.Stop(); code != 0 {
		t.Fatalf("SIGTERM: exit %d", code)
	}
	c.MustAsk("member", "remove", base.ID)
	flipByte(t, base.DataDir)
	first, r := c.pullDelta("n2", line.URL(), base.DataDir, "ranges")
	if r.Str("delta") != "ranges" {
		t.Errorf("pull: %s", r)
	}
	c.VerifyDirs(first)
	n, _ := c.pullDelta("n3", line.URL(), base.DataDir, "auto")
	n.Spawn("--join", source.Client)
	n.WaitReady(startPatience)
	c.AwaitRole("voter", n)
	c.AwaitEqual(source, n)
	l.checkOn(n)
}
