package join

import (
	"bufio"
	"context"
	"errors"
	"io"
	"os"
	"time"

	"google.golang.org/grpc"

	"github.com/chainfire/cfseed/internal/datadir"
	"github.com/chainfire/cfseed/internal/fault"
	"github.com/chainfire/cfseed/internal/ident"
	chainfirev1 "github.com/chainfire/cfseed/proto/chainfire/v1"
	"github.com/chainfire/cfseed/snapshot"
	"github.com/chainfire/cfseed/snapshot/archive"
	"github.com/chainfire/cfseed/snapshot/manifest"
	"github.com/chainfire/cfseed/transfer"
)

// PullConfig is what `cfseed pull` is told: a directory, and a source that is a
// running member (Config.Endpoints), the directory of a stopped one (Donor, way
// C1) or an archive.
type PullConfig struct {
	Config
	Donor   string
	Archive string // or a file that holds a seed
	Rand    io.Reader
}

// offline reports whether no running member is asked.
func (c PullConfig) offline() bool { return c.Donor != "" || c.Archive != "" }

// PullOutcome is what a pull achieved.
type PullOutcome struct {
	Outcome
	Files   int
	Seconds float64
	// LeaseExpires is when the lease ends unless it is renewed; zero for an
	// offline source, which has none, for one that has ended, and where nobody
	// could be asked.
	LeaseExpires time.Time
}

// Pull seeds a data directory and leaves it ready for `node --join`. It holds
// the directory's lock. Running it again resumes; a directory that holds a seed
// is AlreadyComplete, one that holds a member is refused.
func Pull(ctx context.Context, cfg PullConfig) (out *PullOutcome, err error) {
	if cfg.Archive != "" {
		if err := checkArchive(cfg); err != nil {
			return nil, err
		}
	}
	if class, err := cfg.Dir.Classify(); err != nil {
		return nil, err
	} else if class == datadir.Foreign {
		return nil, cfg.Dir.Begin() // refuses, with the reason; the lock would leave a file there
	}
	lock, err := cfg.Dir.Lock()
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, lock.Close()) }()
	began := time.Now()
	have, err := cfg.Dir.ReadIdentity()
	switch {
	case err == nil:
		out, err = pulledBefore(ctx, cfg, have)
	case errors.Is(err, os.ErrNotExist):
		out, err = pullAnew(ctx, cfg)
	}
	if err != nil {
		return nil, err
	}
	out.Seconds = time.Since(began).Seconds()
	return out, nil
}

func pullAnew(ctx context.Context, cfg PullConfig) (_ *PullOutcome, err error) {
	if cfg.offline() && cfg.DeltaBy == DeltaRanges {
		return nil, fault.Newf(fault.Usage, "pull", "the records of a stopped member or an archive are not compared").
			WithHint("name running members, or leave --delta-by out")
	}
	if cfg.Base != "" { // before anything is made or reserved
		base, err := snapshot.StoppedMember(cfg.Dir.FS(), cfg.Base)
		if err != nil {
			return nil, err
		}
		cfg.Cluster = base.Cluster
	}
	if cfg.Directory, err = DirectoryNonce(cfg.Dir, cfg.Rand); err != nil {
		return nil, err
	}
	if cfg.Name == "" {
		cfg.Name = "node-" + cfg.Directory.String()[:8]
	}
	switch {
	case cfg.Donor != "":
		return pullStopped(ctx, cfg)
	case cfg.Archive != "":
		return pullArchive(ctx, cfg)
	}
	return pullOnline(ctx, cfg)
}

// pulledBefore tells a complete seed again, from what is installed, and renews
// its lease where that still lives.
func pulledBefore(ctx context.Context, cfg PullConfig, have datadir.Identity) (*PullOutcome, error) {
	if have.Seed == nil || have.Seed.Joined {
		return nil, fault.Newf(fault.Refused, "pull", "the directory holds member %s", ident.FormatID(have.MemberID)).
			At(cfg.Dir.Path()).WithHint("choose an empty --data-dir; a member's directory is never overwritten")
	}
	if err := cfg.Dir.RemoveStaging(); err != nil {
		return nil, err
	}
	m, err := snapshot.InstalledManifest(cfg.Dir)
	if err != nil {
		return nil, err
	}
	out := &PullOutcome{Outcome: Outcome{Identity: have, Revision: m.Revision, AlreadyComplete: true}, Files: len(m.Files)}
	out.Result.BytesTotal, out.Result.BytesReused = m.TotalBytes(), m.TotalBytes()
	if have.Seed.LeaseID != 0 && !cfg.offline() {
		out.LeaseExpires, err = keepLease(ctx, cfg.Config, have)
	}
	return out, err
}

// keepPatience bounds the renewal of a complete seed's lease: the seed is there,
// whether anybody answers or not.
const keepPatience = 5 * time.Second

// keepLease renews the lease of a complete seed and gives its end; zero when it
// could not be renewed.
func keepLease(ctx context.Context, cfg Config, have datadir.Identity) (time.Time, error) {
	cfg.Cluster = have.Cluster // another cluster's lease of that ID is another lease
	n := New(cfg)
	defer n.Close() //nolint:errcheck // idle connections
	n.cfg.IdleTimeout = min(n.cfg.IdleTimeout, keepPatience)
	err := n.confirmCluster(ctx)
	var ttl time.Duration
	if err == nil {
		ttl, err = n.renew(ctx, have.Seed.LeaseID)
	}
	switch {
	case err == nil:
		return n.cfg.Now().Add(ttl), nil
	case ctx.Err() != nil:
		return time.Time{}, asFault(ctx)
	}
	if cfg.Logger != nil {
		cfg.Logger.Warn("the lease of the seed was not renewed", "lease", ident.FormatID(have.Seed.LeaseID), "err", err)
	}
	return time.Time{}, nil
}

func pullOnline(ctx context.Context, cfg PullConfig) (*PullOutcome, error) {
	n := New(cfg.Config)
	defer n.Close() //nolint:errcheck // idle connections
	prepared, err := n.Prepare(ctx)
	if err != nil {
		return nil, err
	}
	out := &PullOutcome{Outcome: *prepared}
	ttl, err := n.renew(ctx, prepared.Identity.Seed.LeaseID)
	if err != nil {
		return nil, err
	}
	out.LeaseExpires = n.cfg.Now().Add(ttl)
	out.Files = int(prepared.Result.Meta.Files)
	return out, nil
}

// renew gives the lease the time and room that the caller asked for.
func (n *Newcomer) renew(ctx context.Context, lease uint64) (time.Duration, error) {
	req := &chainfirev1.RenewLeaseRequest{LeaseId: lease, TtlMs: uint64(n.cfg.LeaseTTL.Milliseconds()), CapBytes: n.cfg.LeaseBytes}
	var res *chainfirev1.RenewLeaseResponse
	err := n.cluster.call(ctx, "renew lease", n.cfg.IdleTimeout, func(ctx context.Context, c *grpc.ClientConn) (err error) {
		res, err = chainfirev1.NewSeedClient(c).RenewLease(ctx, req)
		return err
	})
	return time.Duration(res.GetTtlMs()) * time.Millisecond, err
}

// pullStopped copies from the directory of a stopped member: its state only,
// never its identity, vote or log.
func pullStopped(ctx context.Context, cfg PullConfig) (out *PullOutcome, err error) {
	fs := cfg.Dir.FS()
	scratch := fs.PathJoin(cfg.Dir.Staging(), "donor")
	if err := fs.RemoveAll(scratch); err != nil {
		return nil, fault.New(fault.Internal, "pull", err).At(scratch)
	}
	started(cfg.Started, PhaseSeed)
	seed, err := snapshot.FromStopped(ctx, fs, cfg.Donor, scratch)
	if err != nil {
		return nil, err
	}
	copied, err := seed.StageIn(cfg.Dir)
	if err != nil {
		return nil, errors.Join(err, seed.Remove())
	}
	stage, err := openStage(ctx, cfg.Config, seed.ManifestBytes())
	if err != nil {
		return nil, errors.Join(err, seed.Remove())
	}
	moved, err := copyChunks(ctx, cfg.Config, seed, stage)
	moved += copied
	if err = errors.Join(err, seed.Remove()); err != nil {
		return nil, errors.Join(err, stage.Close())
	}
	return install(ctx, cfg, stage, seed.Manifest(), moved)
}

// install makes a seed without a lease of what is staged whole.
func install(ctx context.Context, cfg PullConfig, stage *snapshot.Stage, m *manifest.Manifest, moved uint64) (out *PullOutcome, err error) {
	started(cfg.Started, PhaseVerify)
	id := datadir.Identity{Cluster: m.Cluster, Directory: cfg.Directory, Name: cfg.Name,
		Seed: &datadir.SeedRef{Position: m.Position, ManifestRoot: stage.Root()}}
	if err := stage.Install(ctx, id, snapshot.InstallOptions{}); err != nil {
		return nil, err
	}
	if id, err = cfg.Dir.ReadIdentity(); err != nil {
		return nil, err
	}
	out = &PullOutcome{Outcome: Outcome{Identity: id, Revision: m.Revision}, Files: len(m.Files)}
	if cfg.Base != "" {
		out.Delta = DeltaFiles
	}
	out.Result = transfer.PullResult{BytesTotal: m.TotalBytes(), BytesWire: moved, BytesReused: m.TotalBytes() - moved}
	return out, nil
}

// openStage opens the stage of a seed and takes the files from the base that it has
// of it.
func openStage(ctx context.Context, cfg Config, manifest []byte) (*snapshot.Stage, error) {
	s, err := snapshot.OpenStage(ctx, cfg.Dir, manifest)
	if err != nil {
		return nil, err
	}
	old := &base{cfg: cfg}
	if err := errors.Join(old.adopt(ctx, s), old.close()); err != nil {
		return nil, errors.Join(err, s.Close())
	}
	return s, nil
}

func started(say func(string), phase string) {
	if say != nil {
		say(phase)
	}
}

// copyChunks moves what the stage misses; each chunk is checked on both sides.
func copyChunks(ctx context.Context, cfg Config, seed *snapshot.Seed, stage *snapshot.Stage) (uint64, error) {
	var moved uint64
	began := time.Now()
	total := seed.Manifest().TotalBytes()
	buf := make([]byte, seed.Manifest().ChunkSize)
	for _, r := range stage.Missing() {
		for i := r.First; i < r.First+r.Count; i++ {
			data, err := seed.ReadChunk(ctx, r.File, i, buf)
			if err != nil {
				return moved, err
			}
			if err := stage.Put(r.File, i, data); err != nil {
				return moved, err
			}
			moved += uint64(len(data))
		}
		if cfg.Moved != nil {
			cfg.Moved(transfer.Progress{BytesDone: stage.BytesDone(), BytesTotal: total, BytesWire: moved,
				Rate: float64(moved) / max(time.Since(began).Seconds(), 1e-3)})
		}
	}
	return moved, nil
}

// pullArchive takes a seed from a file. What is staged already is not written
// again, and nothing is installed before the file was read to its end.
func pullArchive(ctx context.Context, cfg PullConfig) (out *PullOutcome, err error) {
	f, err := cfg.Dir.FS().Open(cfg.Archive)
	if err != nil {
		return nil, fault.New(fault.Usage, "pull", err).At(cfg.Archive)
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	started(cfg.Started, PhaseSeed)
	a, err := archive.Open(bufio.NewReaderSize(f, archiveBuffer))
	if err != nil {
		return nil, err
	}
	stage, err := openStage(ctx, cfg.Config, a.ManifestBytes())
	if err != nil {
		return nil, err
	}
	before, began := stage.BytesDone(), time.Now()
	err = stage.Fill(ctx, a, func() {
		if cfg.Moved != nil {
			moved := stage.BytesDone() - before
			cfg.Moved(transfer.Progress{BytesDone: stage.BytesDone(), BytesTotal: a.Manifest().TotalBytes(), BytesWire: moved,
				Rate: float64(moved) / max(time.Since(began).Seconds(), 1e-3)})
		}
	})
	if err != nil {
		return nil, errors.Join(err, stage.Close())
	}
	return install(ctx, cfg, stage, a.Manifest(), stage.BytesDone()-before)
}

// checkArchive reads the head of an archive: a file that is none makes no
// directory.
func checkArchive(cfg PullConfig) error {
	f, err := cfg.Dir.FS().Open(cfg.Archive)
	if err != nil {
		return fault.New(fault.Usage, "pull", err).At(cfg.Archive)
	}
	_, err = archive.Open(f)
	return errors.Join(err, f.Close())
}

// archiveBuffer is what is read of an archive at a time, in bytes.
const archiveBuffer = 1 << 20
