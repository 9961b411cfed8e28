package join

import (
	"context"
	"encoding/hex"
	"errors"
	"io"
	"os"

	"github.com/chainfire/cfseed/internal/datadir"
	"github.com/chainfire/cfseed/internal/fault"
	"github.com/chainfire/cfseed/internal/ident"
	entryv1 "github.com/chainfire/cfseed/proto/chainfire/entry/v1"
	chainfirev1 "github.com/chainfire/cfseed/proto/chainfire/v1"
	"github.com/chainfire/cfseed/snapshot"
	"github.com/chainfire/cfseed/transfer"
)

// nonceFile keeps the directory's nonce until identity takes it over, below
// staging/: 32 hex digits.
const nonceFile = "directory-nonce"

// DirectoryNonce finds or makes the nonce of a directory that has no identity
// yet. It survives a crash, so that a newcomer who tries again is known.
func DirectoryNonce(d *datadir.Dir, random io.Reader) (ident.Nonce, error) {
	const op = "directory nonce"
	path := d.FS().PathJoin(d.Staging(), nonceFile)
	if n, err := readNonce(d, path); err == nil {
		return n, nil
	} else if !errors.Is(err, os.ErrNotExist) && !fault.Is(err, fault.Corrupt) {
		return n, err
	}
	var n ident.Nonce
	if _, err := io.ReadFull(random, n[:]); err != nil {
		return n, fault.New(fault.Internal, op, err)
	}
	if err := d.Begin(); err != nil {
		return n, err
	}
	return n, keepNonce(d, n)
}

// keepNonce writes the nonce where DirectoryNonce finds it.
func keepNonce(d *datadir.Dir, n ident.Nonce) error {
	if err := datadir.MkdirAllSynced(d.FS(), d.Staging()); err != nil {
		return err
	}
	return datadir.WriteFileSynced(d.FS(), d.FS().PathJoin(d.Staging(), nonceFile), []byte(n.String()))
}

func readNonce(d *datadir.Dir, path string) (ident.Nonce, error) {
	var n ident.Nonce
	f, err := d.FS().Open(path)
	if err != nil {
		return n, err
	}
	text, err := io.ReadAll(io.LimitReader(f, 64))
	if err = errors.Join(err, f.Close()); err != nil {
		return n, fault.New(fault.Internal, "directory nonce", err).At(path)
	}
	b, err := hex.DecodeString(string(text))
	if err != nil || len(b) != len(n) {
		return n, fault.Newf(fault.Corrupt, "directory nonce", "not 32 hex digits").At(path)
	}
	copy(n[:], b)
	return n, nil
}

// PositionOf is the wire form of a position.
func PositionOf(p ident.Position) *entryv1.Position {
	return &entryv1.Position{Term: p.Term, Index: p.Index}
}

// ticketOf is what a seeded directory brings to admission.
func ticketOf(id datadir.Identity) *chainfirev1.JoinTicket {
	return &chainfirev1.JoinTicket{ClusterId: id.Cluster.ID, GenesisNonce: id.Cluster.Genesis.Bytes(), MemberId: id.MemberID,
		Position: PositionOf(id.Seed.Position), ManifestRoot: id.Seed.ManifestRoot[:], LeaseId: id.Seed.LeaseID}
}

// seed streams a snapshot into staging/, verifies and installs it.
func (n *Newcomer) seed(ctx context.Context, res *chainfirev1.ReserveResponse) (_ *Outcome, err error) {
	n.startPhase(PhaseSeed)
	var stage *snapshot.Stage
	defer func() {
		if stage != nil {
			err = errors.Join(err, stage.Close())
		}
	}()
	ahead := &forecaster{n: n}
	stop := ahead.start(ctx)
	old := &base{cfg: n.cfg}
	defer func() { err = errors.Join(err, old.close()) }()
	cfg := transfer.PullConfig{
		Endpoints: n.sources(res), Dial: n.cfg.DialSeed, DialChannel: n.cfg.DialChannel, Cluster: n.cfg.Cluster,
		MemberID: res.GetMemberId(), Target: n.cfg.Name, TTL: n.cfg.LeaseTTL, CapBytes: n.cfg.LeaseBytes,
		WantRoot: stagedRoot(n.cfg.Dir), Parallel: n.cfg.Parallel, RateLimit: n.cfg.RateLimit, Compression: n.cfg.Compression,
		IdleTimeout: n.cfg.IdleTimeout, Progress: ahead.progress, Logger: n.cfg.Logger,
		Notify: func(ev transfer.Event) {
			ahead.opened(ev)
			n.notify(ev)
		},
		OpenStage: func(manifest []byte) (transfer.Stage, error) {
			if stage != nil { // of a seed that nobody serves any more
				if err := stage.Close(); err != nil {
					return nil, err
				}
			}
			s, err := snapshot.OpenStage(ctx, n.cfg.Dir, manifest)
			if err != nil {
				return nil, err
			}
			stage = s
			return Staged{s}, nil
		}}
	if n.cfg.Base != "" {
		cfg.DeltaBy = n.cfg.DeltaBy
		cfg.OpenDelta = func(ctx context.Context) (transfer.Delta, error) {
			m, err := old.match(ctx, stage)
			if err != nil {
				return nil, err
			}
			return Matched{m}, nil
		}
	}
	result, err := transfer.Pull(ctx, cfg)
	stop()
	// The line may have swallowed the connection from before the transfer; a new
	// one costs a round trip, an old one whose packets are lost all the patience.
	if err == nil {
		err = n.cluster.Close()
	}
	if err != nil {
		return nil, err
	}
	n.holdLease(ctx, result.LeaseID)
	n.startPhase(PhaseVerify)
	id := datadir.Identity{Cluster: n.cfg.Cluster, MemberID: res.GetMemberId(), Directory: n.cfg.Directory, Name: n.cfg.Name,
		Seed: &datadir.SeedRef{Position: result.Meta.Position, ManifestRoot: result.Meta.Root, LeaseID: result.LeaseID}}
	if err := n.alive(func() error { return stage.Install(ctx, id, snapshot.InstallOptions{}) }); err != nil {
		return nil, err
	}
	if id, err = n.cfg.Dir.ReadIdentity(); err != nil {
		return nil, err
	}
	n.finishPhase()
	return &Outcome{Identity: id, Result: result, Revision: result.Meta.Revision, Delta: wayOf(n.cfg, result.Made), Reserved: res}, nil
}

// sources lists where the seed may come from, best first: what the cluster says,
// then the endpoints that were given.
func (n *Newcomer) sources(res *chainfirev1.ReserveResponse) []string {
	var out []string
	for _, id := range res.GetSources() {
		for _, m := range res.GetMembers() {
			if m.GetId() == id && n.cfg.SourceURLs != nil {
				out = append(out, n.cfg.SourceURLs(m)...)
			}
		}
	}
	return append(out, n.cfg.Endpoints...) // one that stands twice is tried once
}

func (n *Newcomer) notify(ev transfer.Event) {
	if ev.Kind == transfer.EventQueued {
		if n.cfg.Queued != nil {
			n.cfg.Queued(&chainfirev1.SeedQueue{Source: ev.Source, Served: uint32(ev.Served), Waiting: uint32(ev.Waiting)})
		}
		return
	}
	if n.cfg.Logger == nil {
		return
	}
	n.cfg.Logger.Info("seed", "event", string(ev.Kind), "source", ev.Source, "next", ev.Next, "err", ev.Err,
		"bytes_kept", ev.BytesKept, "bytes_lost", ev.BytesLost)
}

// stagedRoot names the seed that an earlier attempt has staged in part.
func stagedRoot(d *datadir.Dir) []byte {
	root, ok := snapshot.StagedRoot(d)
	if !ok {
		return nil
	}
	return root[:]
}

// Staged is a snapshot.Stage as transfer wants it. Closing leaves the stage
// open for Verify and Install, which end it; what is staged stays.
type Staged struct{ *snapshot.Stage }

// Missing lists what is not there yet.
func (s Staged) Missing() []transfer.Range {
	var out []transfer.Range
	for _, r := range s.Stage.Missing() {
		out = append(out, transfer.Range{File: r.File, First: r.First, Count: r.Count})
	}
	return out
}

// Close implements transfer.Stage.
func (s Staged) Close() error { return nil }
