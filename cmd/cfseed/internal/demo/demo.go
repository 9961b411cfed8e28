// Package demo runs a whole cluster of separate processes on this machine and
// measures it: one node loaded with real files, two more joined under a write
// load, the leader killed, every acknowledged key read back from every member,
// every data directory verified. Nothing in it is simulated; it starts its own
// binary and ends only the processes it started.
package demo

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/chainfire/cfseed/cmd/cfseed/internal/cluster"
	"github.com/chainfire/cfseed/cmd/cfseed/internal/output"
	"github.com/chainfire/cfseed/internal/fault"
	"github.com/chainfire/cfseed/internal/fault/rpcfault"
)

// Deadline is how long a demo may take; Run ends with its context.
const Deadline = 75 * time.Second

// callPatience bounds one call to a node: far more than it takes, far less than
// Deadline.
const callPatience = 10 * time.Second

// Config is what a demo is told.
type Config struct {
	Binary   string // of cfseed itself
	Load     string // directory whose files are loaded
	Writers  int    // concurrent writers while members join
	Progress output.Progress
	Say      func(format string, args ...any) // a line of narration

	// LoseKey deletes an acknowledged key behind the demo's back, to show that
	// the read-back sees it.
	LoseKey bool

	Patience time.Duration // of one call; 0: callPatience
}

// Report is what was measured.
type Report struct {
	Files           int         `json:"files"`
	Skipped         int         `json:"files_skipped"`
	BytesLoaded     int64       `json:"bytes_loaded"`
	LoadSeconds     float64     `json:"load_seconds"`
	Joins           []Join      `json:"joins"`
	WritesDuring    int         `json:"writes_acknowledged"`
	LongestGap      float64     `json:"longest_write_gap_seconds"`
	FailoverSeconds float64     `json:"leader_killed_to_next_write_seconds"`
	KeysChecked     int         `json:"keys_checked"`
	KeysLost        []string    `json:"keys_lost"`
	Verified        []Directory `json:"verified"`
	Seconds         float64     `json:"seconds"`
	PutBefore       Latency     `json:"put_before_joins"`
	PutDuring       Latency     `json:"put_during_joins"`
}

// Join is one member added.
type Join struct {
	output.MemberAdd
	Seconds float64 `json:"seconds"`
}

// Directory is one data directory verified.
type Directory struct {
	Name   string `json:"name"`
	OK     bool   `json:"ok"`
	Digest string `json:"digest"`
}

// run is one demo under way.
type run struct {
	cfg     Config
	cluster *cluster.Cluster
	acked   *ledger
	rep     Report
}

// Run runs the demo and leaves nothing behind. A lost key or a directory that
// does not verify is fault.Different or fault.Corrupt, with the report filled
// in; the end of ctx is what it was ended for.
func Run(ctx context.Context, cfg Config) (rep Report, err error) {
	began := time.Now()
	dir, err := os.MkdirTemp("", "cfseed-demo-")
	if err != nil {
		return rep, fault.New(fault.Internal, "demo", err)
	}
	r := newRun(cfg, cluster.New(cfg.Binary, dir))
	defer func() {
		err = errors.Join(err, r.cluster.KillAll(), os.RemoveAll(dir)) // what is left of them has shown what it had to
	}()
	err = r.steps(ctx)
	if err != nil && ctx.Err() != nil && !fault.Is(err, fault.Different) {
		err = rpcfault.FromStatus("demo", context.Cause(ctx)) // what the steps saw of it is no news
	}
	r.rep.Seconds = time.Since(began).Seconds()
	return r.rep, err
}

func newRun(cfg Config, c *cluster.Cluster) *run {
	if cfg.Patience == 0 {
		cfg.Patience = callPatience
	}
	return &run{cfg: cfg, cluster: c, acked: newLedger(),
		rep: Report{Joins: []Join{}, KeysLost: []string{}, Verified: []Directory{}}}
}

func (r *run) steps(ctx context.Context) error {
	r.cfg.Progress.Phase("start")
	first, err := r.cluster.Start(ctx, "n1")
	if err != nil {
		return err
	}
	r.cfg.Say("one node runs: %s", first.Client())
	if err := r.load(ctx, first.Client()); err != nil {
		return err
	}
	if err := r.joinUnderLoad(ctx); err != nil {
		return err
	}
	if r.cfg.LoseKey {
		if err := r.loseOne(ctx); err != nil {
			return err
		}
	}
	if err := r.readBack(ctx); err != nil {
		return err
	}
	return r.verifyAll(ctx)
}

// joinUnderLoad adds two members and kills the leader while writers write.
func (r *run) joinUnderLoad(ctx context.Context) error {
	w := newWriters(r.acked, r.cluster.Clients)
	wctx, stop := context.WithCancel(ctx)
	defer stop()
	g, gctx := errgroup.WithContext(wctx)
	for i := range r.cfg.Writers {
		g.Go(func() error { return w.write(gctx, i) })
	}
	err := r.joinAndKill(ctx, w)
	stop()
	return errors.Join(err, g.Wait(), r.finishWriters(w))
}

func (r *run) finishWriters(w *writers) error {
	r.rep.WritesDuring, r.rep.LongestGap = w.count(), w.longestGap().Seconds()
	if r.rep.WritesDuring == 0 {
		return fault.Newf(fault.Internal, "demo", "no write was acknowledged while members joined")
	}
	return nil
}

func (r *run) joinAndKill(ctx context.Context, w *writers) error {
	if err := pause(ctx, 2*time.Second); err != nil { // what a put costs without a join
		return err
	}
	r.rep.PutBefore = w.latency()
	for _, name := range []string{"n2", "n3"} {
		if err := r.join(ctx, name); err != nil {
			return err
		}
	}
	r.rep.PutDuring = w.latency()
	leader, err := r.cluster.Leader(ctx)
	if err != nil {
		return err
	}
	r.cfg.Progress.Phase("kill leader")
	killed := time.Now()
	if err := leader.Kill(); err != nil {
		return err
	}
	took, err := w.nextAfter(ctx, killed)
	if err != nil {
		return err
	}
	r.rep.FailoverSeconds = took.Seconds()
	r.cfg.Say("leader %s killed (process %d): the next write was acknowledged %.2f s later", leader.Name, leader.PID(), took.Seconds())
	if err := pause(ctx, time.Second); err != nil {
		return err
	}
	return r.cluster.Restart(ctx, leader)
}

func (r *run) join(ctx context.Context, name string) error {
	r.cfg.Progress.Phase("join " + name)
	target, err := r.cluster.Start(ctx, name, "--await-seed")
	if err != nil {
		return err
	}
	began := time.Now()
	var added output.MemberAdd
	if err := r.cluster.Command(ctx, &added, "member", "add", name, "--peer-urls", target.Peer(), "--endpoints", r.cluster.Nodes()[0].Client()); err != nil {
		return err
	}
	j := Join{MemberAdd: added, Seconds: time.Since(began).Seconds()}
	r.rep.Joins = append(r.rep.Joins, j)
	if err := target.Ready(ctx); err != nil {
		return err
	}
	r.cfg.Say("%s is a %s after %.2f s: %s seeded, %s on the wire, %s entries after add, %s raft snapshots",
		name, added.Role, j.Seconds, output.Bytes(added.BytesTotal), output.Bytes(added.BytesWire),
		output.Count(added.EntriesAfterAdd), output.Count(added.RaftSnapshotsSent))
	return nil
}

// verifyAll stops the members and judges their directories.
func (r *run) verifyAll(ctx context.Context) error {
	r.cfg.Progress.Phase("verify")
	if err := r.cluster.StopAll(ctx); err != nil {
		return err
	}
	var bad error
	for _, p := range r.cluster.Nodes() {
		var v struct {
			OK     bool   `json:"ok"`
			Digest string `json:"digest"`
		}
		err := r.cluster.Command(ctx, &v, "verify", "--data-dir", p.DataDir)
		r.rep.Verified = append(r.rep.Verified, Directory{Name: p.Name, OK: err == nil && v.OK, Digest: v.Digest})
		if err != nil || !v.OK {
			bad = errors.Join(bad, fault.Newf(fault.Corrupt, "demo", "%s does not verify: %v", p.Name, err).At(p.DataDir))
		}
	}
	return bad
}

// DefaultLoad finds real files that are on every machine that builds this
// program: the source of Go.
func DefaultLoad(ctx context.Context) (string, error) {
	root, err := goRoot(ctx)
	if err != nil {
		return "", fault.New(fault.Usage, "demo", err).WithHint("name a directory with files: --load DIR")
	}
	return filepath.Join(root, "src"), nil
}

func pause(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-t.C:
		return nil
	}
}
