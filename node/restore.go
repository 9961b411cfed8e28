package node

import (
	"bufio"
	"cmp"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"strings"
	"time"

	"github.com/chainfire/cfseed/internal/datadir"
	"github.com/chainfire/cfseed/internal/fault"
	"github.com/chainfire/cfseed/internal/ident"
	"github.com/chainfire/cfseed/internal/netsec"
	"github.com/chainfire/cfseed/internal/state"
	entryv1 "github.com/chainfire/cfseed/proto/chainfire/entry/v1"
	"github.com/chainfire/cfseed/raftlog"
	"github.com/chainfire/cfseed/snapshot"
	"github.com/chainfire/cfseed/snapshot/archive"
	"github.com/chainfire/cfseed/snapshot/manifest"
	"github.com/chainfire/cfseed/transfer"
)

// RestoreConfig is what `cfseed snapshot restore` is told.
type RestoreConfig struct {
	Dir            *datadir.Dir
	Archive        string   // the file
	Name           string   // of the member that the directory is for
	PeerURLs       []string // of that member; default those of InitialCluster
	InitialCluster string   // name=url,...; default this member alone
	Token          string
	Bump           uint64 // revisions that are passed over; those before are compacted
	Rand           io.Reader
	Logger         *slog.Logger
	Started        func(phase string)
	Moved          func(transfer.Progress)
}

// Restored is what a restore made.
type Restored struct {
	Identity datadir.Identity
	Position ident.Position // at which the new cluster begins
	Revision int64
	Members  []RestoredMember // all of the new cluster, by ID
	Archive  *manifest.Manifest
}

// RestoredMember is one member of the new cluster.
type RestoredMember struct {
	ID       uint64
	Name     string
	PeerURLs []string
}

// Restore makes the data directory of one member of a new cluster from an
// archive. All who restore the same archive with the same cluster, token and
// bump get members of one cluster, whose states and logs are equal; whoever
// differs in any of them gets one of another. The archive is read to its end
// before the directory is touched.
func Restore(ctx context.Context, cfg RestoreConfig) (out *Restored, err error) {
	if err := cfg.withDefaults(); err != nil {
		return nil, err
	}
	if class, err := cfg.Dir.Classify(); err != nil {
		return nil, err
	} else if class == datadir.Complete || class == datadir.Foreign {
		return nil, cfg.Dir.Begin() // refuses, with the reason; the lock would leave a file there
	}
	cfg.Started("read")
	m, err := readArchive(cfg, func(a *archive.Reader) error { return a.Check(ctx) })
	if err != nil {
		return nil, err
	}
	seats, err := restoredSeats(cfg.InitialCluster, cfg.Token, m.Root(), cfg.Bump)
	if err != nil {
		return nil, err
	}
	own, err := findSeat(seats, cfg.Name)
	if err != nil {
		return nil, err
	}
	lock, err := cfg.Dir.Lock()
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, lock.Close()) }()
	id := datadir.Identity{Cluster: newCluster(seats), MemberID: own.id, Name: own.name}
	if id.Directory, err = newNonce(cfg.Rand); err != nil {
		return nil, err
	}
	out = &Restored{Archive: m, Revision: m.Revision + int64(cfg.Bump)}
	for _, s := range seats {
		out.Members = append(out.Members, RestoredMember{ID: s.id, Name: s.name, PeerURLs: s.urls})
	}
	if out.Position, err = restore(ctx, cfg, m, id, seats); err != nil {
		return nil, err
	}
	out.Identity, err = cfg.Dir.ReadIdentity()
	return out, err
}

// withDefaults fills in what was left open and refuses what can not be.
func (c *RestoreConfig) withDefaults() error {
	const op = "restore"
	c.Name, c.Token = cmp.Or(c.Name, DefaultName), cmp.Or(c.Token, DefaultToken)
	if strings.ContainsAny(c.Name, "=,") {
		return fault.Newf(fault.Usage, op, "--name %q must not contain = or ,", c.Name)
	}
	if c.InitialCluster == "" {
		if len(c.PeerURLs) == 0 {
			c.PeerURLs = []string{DefaultPeerURL}
		}
		var parts []string
		for _, u := range c.PeerURLs {
			parts = append(parts, c.Name+"="+u)
		}
		c.InitialCluster = strings.Join(parts, ",")
	}
	seats, err := parseInitialCluster(c.InitialCluster, c.Token)
	if err != nil {
		return err
	}
	for _, s := range seats {
		for _, u := range s.urls {
			if _, err := netsec.ParseURL(u); err != nil {
				return fault.New(fault.Usage, "--initial-cluster", err)
			}
		}
	}
	own, err := findSeat(seats, c.Name)
	if err != nil {
		return err
	}
	if urls := slices.Sorted(slices.Values(c.PeerURLs)); len(urls) > 0 && !slices.Equal(urls, own.urls) {
		return fault.Newf(fault.Usage, op, "--initial-advertise-peer-urls %s, but --initial-cluster has %s for %s",
			strings.Join(urls, ","), strings.Join(own.urls, ","), c.Name).WithHint("give the same URLs in both, or --initial-cluster alone")
	}
	if c.Started == nil {
		c.Started = func(string) {}
	}
	if c.Moved == nil {
		c.Moved = func(transfer.Progress) {}
	}
	return nil
}

// restoredSeats gives the members of the cluster that a restore founds, their
// IDs derived as those of any first members are. What makes the members' state
// is part of the token: a cluster is never given the IDs of the one that the
// archive is of, or of one that was restored from another archive, and members
// whose states would differ refuse each other.
func restoredSeats(initialCluster, token string, root [32]byte, bump uint64) ([]seat, error) {
	seats, err := parseInitialCluster(initialCluster, token)
	if err != nil {
		return nil, err
	}
	h := sha256.New()
	fmt.Fprintf(h, "restored %x %d", root, bump)
	for _, s := range seats {
		fmt.Fprintf(h, " %q %q", s.name, s.urls)
	}
	return parseInitialCluster(initialCluster, fmt.Sprintf("%s %x", token, h.Sum(nil)))
}

// readArchive opens the archive and has it read.
func readArchive(cfg RestoreConfig, read func(*archive.Reader) error) (m *manifest.Manifest, err error) {
	f, err := cfg.Dir.FS().Open(cfg.Archive)
	if err != nil {
		return nil, fault.New(fault.Usage, "restore", err).At(cfg.Archive)
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	a, err := archive.Open(bufio.NewReaderSize(f, archiveBuffer))
	if err == nil {
		err = read(a)
	}
	if err != nil {
		return nil, fault.New(fault.CodeOf(err), "restore", err).At(cfg.Archive)
	}
	return a.Manifest(), nil
}

// archiveBuffer is what is read of an archive at a time, in bytes.
const archiveBuffer = 1 << 20

// restore stages the archive and founds the cluster with it. The directory holds
// a whole member after it, or nothing.
func restore(ctx context.Context, cfg RestoreConfig, m *manifest.Manifest, id datadir.Identity, seats []seat) (pos ident.Position, err error) {
	cfg.Started("seed")
	var stage *snapshot.Stage
	_, err = readArchive(cfg, func(a *archive.Reader) error {
		if a.Manifest().Root() != m.Root() {
			return fault.Newf(fault.Corrupt, "", "it has changed while it was read")
		}
		s, err := snapshot.OpenStage(ctx, cfg.Dir, a.ManifestBytes())
		if err != nil {
			return err
		}
		stage = s
		before, began := s.BytesDone(), time.Now()
		return s.Fill(ctx, a, func() {
			moved := s.BytesDone() - before
			cfg.Moved(transfer.Progress{BytesDone: s.BytesDone(), BytesTotal: m.TotalBytes(), BytesWire: moved,
				Rate: float64(moved) / max(time.Since(began).Seconds(), 1e-3)})
		})
	})
	if err != nil {
		if stage != nil {
			err = errors.Join(err, stage.Discard())
		}
		return pos, err
	}
	cfg.Started("verify")
	f := state.Founding{Bump: cfg.Bump}
	for _, s := range seats {
		f.Voters = append(f.Voters, &entryv1.BootstrapVoter{Id: s.id, Name: s.name, PeerUrls: s.urls})
	}
	return stage.Found(ctx, id, f, raftlog.Options{Logger: cfg.Logger})
}
