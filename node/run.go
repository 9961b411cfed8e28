package node

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strings"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"golang.org/x/sync/errgroup"

	"github.com/chainfire/cfseed/internal/datadir"
	"github.com/chainfire/cfseed/internal/fault"
	"github.com/chainfire/cfseed/internal/ident"
	"github.com/chainfire/cfseed/node/join"
	"github.com/chainfire/cfseed/snapshot"
)

// node is one run of the process: from the flags to a running member.
type node struct {
	cfg      Config
	dir      *datadir.Dir
	logger   *slog.Logger
	registry registry
	metrics  *metrics
	fronts   *fronts
	nonce    ident.Nonce // of the directory; kept from the first attempt to join
	await    *join.Await
}

// Run runs a node until ctx ends (then it stops cleanly and returns nil) or
// something ends it. It holds the data directory's lock throughout.
func Run(ctx context.Context, cfg Config) (err error) {
	if cfg, err = cfg.withDefaults(); err != nil {
		return err
	}
	if cfg.Rand == nil {
		cfg.Rand = rand.Reader
	}
	n := &node{cfg: cfg, dir: datadir.At(cfg.FS, cfg.DataDir), logger: cfg.Logger.With("name", cfg.Name),
		registry: registry{prometheus.NewRegistry()}}
	n.metrics = newMetrics(n.registry)
	n.registry.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	class, err := n.dir.Classify()
	if err != nil {
		return err
	}
	if err := n.checkInvitation(class); err != nil {
		return err
	}
	if class == datadir.Foreign {
		return n.dir.Begin() // refuses, with the reason; the lock would leave a file there
	}
	lock, err := n.dir.Lock()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, lock.Close()) }()
	if class, err = n.dir.Classify(); err != nil {
		return err
	}
	if id, err := n.dir.ReadIdentity(); err == nil && cfg.Name == DefaultName && id.Name != "" {
		n.cfg.Name = id.Name
	}
	if err := n.autoTLS(); err != nil {
		return err
	}
	if n.fronts, err = openFronts(ctx, &n.cfg, n.registry.Registry); err != nil {
		return err
	}
	return n.run(ctx, class)
}

// run serves the addresses beside the member's own life.
func (n *node) run(ctx context.Context, class datadir.Class) error {
	g, gctx := errgroup.WithContext(ctx)
	// The doors outlive ctx: a leader that is asked to stop hands over first, and
	// hears its followers for that.
	open, shut := context.WithCancel(context.WithoutCancel(ctx))
	defer shut()
	g.Go(func() error { return n.fronts.run(open) })
	g.Go(func() error {
		defer shut() // a node whose life has ended closes its doors
		err := n.live(gctx, class)
		if ctx.Err() != nil && (errors.Is(err, context.Canceled) || fault.Is(err, fault.Interrupted)) {
			return nil // asked to stop while it waited or seeded
		}
		return err
	})
	return g.Wait()
}

// live brings the directory to an identity, then runs the member.
func (n *node) live(ctx context.Context, class datadir.Class) error {
	if class == datadir.Complete {
		id, err := n.dir.ReadIdentity()
		if err != nil {
			return err
		}
		if id, err = n.checkDirectory(id); err != nil {
			return err
		}
		if id.Seed == nil || id.Seed.Joined {
			return n.runMember(ctx, id, company{})
		}
	}
	switch {
	case n.cfg.AwaitSeed:
		return n.waitAndJoin(ctx)
	case len(n.cfg.Join) > 0:
		return n.joinAndRun(ctx, &invitation{endpoints: n.cfg.Join, clients: true, learner: n.cfg.Learner})
	case n.cfg.Existing:
		return n.joinExisting(ctx)
	case class == datadir.Complete:
		return fault.Newf(fault.Refused, "node", "the directory holds a seed that was not admitted yet").At(n.cfg.DataDir).
			WithHint("start it with --join ENDPOINTS of the cluster it came from")
	}
	if _, staged := snapshot.StagedRoot(n.dir); staged {
		return fault.Newf(fault.Refused, "node", "the directory holds a part of a seed").At(n.cfg.DataDir).
			WithHint("go on with --join ENDPOINTS, `cfseed pull` or `cfseed snapshot restore`; a new cluster needs an empty --data-dir")
	}
	id, err := n.bootstrap()
	if err != nil {
		return err
	}
	return n.runMember(ctx, id, company{})
}

// checkDirectory refuses a directory that is not where it was (S4).
func (n *node) checkDirectory(id datadir.Identity) (datadir.Identity, error) {
	if !n.cfg.AcceptMoved {
		return id, n.dir.CheckInode(id)
	}
	inode, err := n.dir.Inode()
	if err != nil || inode == id.Inode {
		return id, err
	}
	id.Inode = inode
	return id, n.dir.CommitIdentity(id)
}

// bootstrap makes the first files of a member of a new cluster; identity last.
func (n *node) bootstrap() (datadir.Identity, error) {
	var id datadir.Identity
	seats, err := parseInitialCluster(n.cfg.InitialCluster, n.cfg.Token)
	if err != nil {
		return id, err
	}
	own, err := findSeat(seats, n.cfg.Name)
	if err != nil {
		return id, err
	}
	if err := n.dir.RemoveUncommitted(); err != nil {
		return id, err
	}
	if err := n.dir.Begin(); err != nil {
		return id, err
	}
	entries, err := bootstrapEntries(seats)
	if err != nil {
		return id, err
	}
	if err := createStores(n.cfg, n.dir, entries); err != nil {
		return id, err
	}
	id = datadir.Identity{Cluster: newCluster(seats), MemberID: own.id, Name: n.cfg.Name}
	if id.Directory, err = newNonce(n.cfg.Rand); err != nil {
		return id, err
	}
	if id.Inode, err = n.dir.Inode(); err != nil {
		return id, err
	}
	if err := n.dir.CommitIdentity(id); err != nil {
		return id, err
	}
	return id, n.dir.RemoveStaging()
}

func newNonce(r io.Reader) (ident.Nonce, error) {
	var nonce ident.Nonce
	if _, err := io.ReadFull(r, nonce[:]); err != nil {
		return nonce, fault.New(fault.Internal, "random nonce", err)
	}
	return nonce, nil
}

// joinExisting is etcd's way to add a member: MemberAdd has reserved, and this
// node was started with state existing; it seeds by itself from the others.
func (n *node) joinExisting(ctx context.Context) error {
	seats, err := parseInitialCluster(started(n.cfg.InitialCluster), n.cfg.Token)
	if err != nil {
		return err
	}
	if _, err := findSeat(seats, n.cfg.Name); err != nil {
		return err
	}
	var endpoints []string
	for _, s := range seats {
		if s.name != n.cfg.Name {
			endpoints = append(endpoints, s.urls...)
		}
	}
	if len(endpoints) == 0 {
		return fault.Newf(fault.Usage, "--initial-cluster", "state existing needs the other members' URLs")
	}
	return n.joinAndRun(ctx, &invitation{endpoints: endpoints, learner: n.cfg.Learner})
}

// readyLine is the one line that tells scripts that clients are served.
func readyLine(client, peer []string, id uint64) string {
	return fmt.Sprintf("ready to serve client requests client=%s peer=%s id=%s",
		strings.Join(client, ","), strings.Join(peer, ","), ident.FormatID(id))
}
