package transfer

import (
	"context"
	"errors"
	"io"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"

	"github.com/chainfire/cfseed/internal/fault"
	"github.com/chainfire/cfseed/internal/ident"
	entryv1 "github.com/chainfire/cfseed/proto/chainfire/entry/v1"
	chainfirev1 "github.com/chainfire/cfseed/proto/chainfire/v1"
	"github.com/chainfire/cfseed/snapshot/manifest"
)

// round is one try at one source: a connection, the seed opened, and all that
// is missing fetched over connections of their own.
type round struct {
	*puller
	addr   string
	source *endpoint
	client chainfirev1.SeedClient
	meta   Meta
	secret []byte      // for channels; empty: the source offers none
	check  atomic.Bool // chunks are to be checked before they are sent
	end    context.CancelCauseFunc
	limit  atomic.Int64 // of silence, in nanoseconds

	flow     flow // of lists and records
	lanes    []*lane
	asked    atomic.Pointer[[]chainfirev1.SeedClient] // of the connections that must answer
	trip     time.Duration                            // of a small call; set before measured is closed; 0: not known
	measured chan struct{}
	long     bool // trip is
}

// round makes a connection to e and fetches what is missing. A watchdog ends it
// when the source shows no life.
func (p *puller) round(ctx context.Context, e *endpoint) error {
	caller := ctx
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	conn, err := p.cfg.Dial(ctx, e.addr, append(dialOptions(p.cfg.IdleTimeout), p.counter.dialOption())...)
	if err != nil {
		return peerFault(ctx, "dial "+e.addr, err)
	}
	defer func() { _ = conn.Close() }()
	r := &round{puller: p, addr: e.addr, source: e, client: chainfirev1.NewSeedClient(conn), measured: make(chan struct{}), end: cancel}
	r.asked.Store(&[]chainfirev1.SeedClient{r.client})
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel(nil)
	r.allow()
	wg.Go(func() { cancel(r.watch(ctx)) })
	if err := r.open(ctx); err != nil {
		return r.why(caller, ctx, err)
	}
	r.allow() // it is contacted now
	wg.Go(func() { r.renew(ctx) })
	wg.Go(func() { r.measure(ctx) })
	defer r.closeLanes()
	if err := r.openLanes(ctx); err != nil {
		return r.why(caller, ctx, err)
	}
	return r.why(caller, ctx, r.fetchAll(ctx))
}

// why gives the reason for which a round was ended, if that is what err comes
// from.
func (r *round) why(caller, ctx context.Context, err error) error {
	if err == nil || caller.Err() != nil {
		return err
	}
	if cause := context.Cause(ctx); cause != nil {
		return cause
	}
	return err
}

// open asks the source for the seed and checks what it announces.
func (r *round) open(ctx context.Context) error {
	resp, err := r.openSeed(ctx)
	if err != nil {
		return peerFault(ctx, "open seed at "+r.addr, err)
	}
	meta, err := MetaFrom(resp.GetMeta())
	if err != nil {
		return err
	}
	known := r.cfg.Cluster
	if r.layout != nil {
		known = r.layout.Cluster
	}
	switch {
	case known.ID != 0 && !known.Same(meta.Cluster):
		return fault.Newf(fault.Refused, "open seed at "+r.addr, "it is of cluster %s, want cluster %s",
			ident.FormatID(meta.Cluster.ID), ident.FormatID(known.ID)).WithHint("check the endpoints")
	case meta.LeaseID == 0 || (r.result.LeaseID != 0 && meta.LeaseID != r.result.LeaseID):
		return fault.Newf(fault.Corrupt, "open seed at "+r.addr, "it answers with lease %s, asked for %s",
			ident.FormatID(meta.LeaseID), ident.FormatID(r.result.LeaseID))
	case meta.ManifestBytes == 0 || meta.ManifestBytes > manifest.MaxBytes:
		return fault.Newf(fault.Corrupt, "open seed at "+r.addr, "a manifest of %d bytes", meta.ManifestBytes)
	case meta.Position.Index < r.cfg.MinPosition.Index:
		return fault.Newf(fault.Refused, "open seed at "+r.addr, "its seed is at %s, want %s", meta.Position, r.cfg.MinPosition)
	}
	r.meta, r.opening = meta, time.Time{}
	if secret := resp.GetChannel(); len(secret) == channelSecret {
		r.secret = secret
	}
	r.result.Meta, r.result.LeaseID, r.result.Source = meta, meta.LeaseID, r.addr
	if !r.cfg.Fixed {
		r.learn(resp.GetClientUrls(), true)
	}
	r.tell(Event{Kind: EventOpened, Source: r.addr, Meta: meta})
	r.cfg.Logger.Info("pulling seed", "source", r.addr, "lease", ident.FormatID(meta.LeaseID),
		"position", meta.Position.String(), "bytes", meta.BytesTotal)
	return nil
}

// openSeed calls OpenSeed. Making a checkpoint of a large store takes long, so
// while the call is open the source is asked for signs of life.
func (r *round) openSeed(ctx context.Context) (*chainfirev1.OpenSeedResponse, error) {
	ctx, cancel := context.WithTimeout(ctx, r.cfg.OpenTimeout)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	wg.Go(func() { r.ping(ctx) })
	req := &chainfirev1.OpenSeedRequest{
		MemberId: r.cfg.MemberID, Target: r.cfg.Target, TtlMs: uint64(r.cfg.TTL / time.Millisecond),
		CapBytes: r.cfg.CapBytes, ClusterId: r.cfg.Cluster.ID, GenesisNonce: r.cfg.Cluster.Genesis.Bytes(),
		LeaseId: r.result.LeaseID, ManifestRoot: r.cfg.WantRoot,
		MinPosition: &entryv1.Position{Term: r.cfg.MinPosition.Term, Index: r.cfg.MinPosition.Index},
	}
	if r.layout != nil {
		req.ManifestRoot = r.layout.root[:]
		req.ClusterId, req.GenesisNonce = r.layout.Cluster.ID, r.layout.Cluster.Genesis.Bytes()
	}
	resp, err := r.client.OpenSeed(ctx, req, grpc.MaxCallRecvMsgSize(MaxMessage))
	if err == nil {
		r.contacted = true
		r.idle.touch()
	}
	return resp, err
}

// fetchAll brings the stage to the source's seed and fetches what is missing.
func (r *round) fetchAll(ctx context.Context) error {
	if r.layout == nil || r.layout.root != r.meta.Root {
		if h := r.home; r.layout != nil && h != nil && h != r.source && h.bad == nil && !r.wentHome {
			r.wentHome = true
			return errAnotherSeed
		}
		if err := r.restage(ctx); err != nil {
			return err
		}
	}
	r.home, r.wentHome = r.source, false
	defer r.idle.resume()
	if r.delta != nil {
		if err := r.fetchBeside(ctx); err != nil {
			return err
		}
	}
	for {
		missing := r.stage.Missing()
		if len(missing) == 0 {
			return nil
		}
		if err := r.fetchFrom(ctx, newWorkQueue(missing, int(r.layout.ChunkSize))); err != nil {
			return err
		}
	}
}

// fetchFrom fetches what is missing and nobody has claimed.
func (r *round) fetchFrom(ctx context.Context, queue *workQueue) error {
	for _, m := range r.stage.Missing() {
		if err := r.layout.checkRange(m); err != nil {
			return &localError{err}
		}
	}
	began := time.Now()
	err := r.fetchRanges(ctx, queue)
	r.fetching += time.Since(began)
	return err
}

// restage fetches the manifest and opens the stage for it.
func (r *round) restage(ctx context.Context) error {
	encoded, err := r.fetchManifest(ctx)
	for tries := 0; fault.Is(err, fault.Corrupt) && tries < maxRefetch; tries++ {
		encoded, err = r.fetchManifest(ctx)
	}
	if err != nil {
		return err
	}
	l, err := newLayout(encoded)
	if err != nil {
		return err
	}
	if l.root != r.meta.Root || l.Position != r.meta.Position || !l.Cluster.Same(r.meta.Cluster) {
		return fault.Newf(fault.Corrupt, "pull from "+r.addr, "the manifest is not the one announced")
	}
	var had uint64
	if r.stage != nil {
		had = r.report.get().BytesDone
		r.result.BytesRefetched += r.in.refetched()
		err := r.stage.Close()
		r.stage, r.layout, r.in = nil, nil, nil
		if err != nil {
			return &localError{err}
		}
	}
	r.idle.pause() // it may read back a large stage, and the source is not to blame
	stage, err := r.cfg.OpenStage(encoded)
	if err == nil {
		r.stage, r.layout, r.fetching = stage, l, 0
		if err = r.openDelta(ctx); err != nil { // the round may have ended; the next one opens both
			err = errors.Join(err, stage.Close())
			r.stage, r.layout, r.delta = nil, nil, nil
		}
	}
	r.idle.touch()
	if err != nil {
		return &localError{err}
	}
	r.in = &intake{layout: l, stage: stage, codec: r.codec, pool: r.pool, report: &r.report, attempts: make(map[chunkID]int)}
	r.account(had)
	return nil
}

// account states what the stage had when it was opened; had is what the stage
// before it had.
func (r *round) account(had uint64) {
	total := r.layout.TotalBytes()
	done := total
	for _, m := range r.stage.Missing() {
		if r.layout.checkRange(m) == nil {
			done -= r.layout.rangeBytes(m)
		}
	}
	first := r.result.ManifestBytes == nil
	r.result.ManifestBytes, r.result.BytesTotal = r.layout.encoded, total
	r.report.reset(done, total)
	if first {
		r.result.BytesReused = done
		return
	}
	lost := had - min(had, done)
	r.result.BytesDiscarded += lost
	r.result.BytesReused = min(r.result.BytesReused, done)
	r.tell(Event{Kind: EventRestaged, Source: r.addr, Meta: r.meta, BytesKept: done, BytesLost: lost})
	r.cfg.Logger.Warn("the source serves another seed", "source", r.addr, "position", r.meta.Position.String(),
		"bytes_kept", done, "bytes_lost", lost)
}

func (r *round) fetchManifest(ctx context.Context) ([]byte, error) {
	mi := &manifestIntake{want: r.meta.ManifestBytes}
	fr := &frameReader{file: ManifestFile, root: r.meta.Root}
	fr.onChunk = func(_ chunkID, c *chainfirev1.FrameChunk) error {
		r.report.wire(len(c.GetData()))
		return mi.put(c, r.codec)
	}
	req := &chainfirev1.GetSnapshotRequest{LeaseId: r.meta.LeaseID, ManifestRoot: r.meta.Root[:], Manifest: true,
		Compression: r.cfg.Compression, RateLimit: uint64(max(r.cfg.RateLimit, 0))}
	if err := r.stream(ctx, r.getSnapshot(req), fr); err != nil {
		return nil, err
	}
	if manifest.RootOf(mi.buf) != r.meta.Root {
		return nil, fault.Newf(fault.Corrupt, "pull from "+r.addr, "the manifest does not have the root announced")
	}
	return mi.buf, nil
}

// openStream opens a stream of frames.
type openStream func(ctx context.Context) (grpc.ServerStreamingClient[chainfirev1.GetSnapshotResponse], error)

func (r *round) getSnapshot(req *chainfirev1.GetSnapshotRequest) openStream {
	return func(ctx context.Context) (grpc.ServerStreamingClient[chainfirev1.GetSnapshotResponse], error) {
		return r.client.GetSnapshot(ctx, req, callOptions(r.raw)...)
	}
}

// stream runs one stream to its end frame.
func (r *round) stream(ctx context.Context, open openStream, fr *frameReader) error {
	op := "pull from " + r.addr
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := open(ctx)
	if err != nil {
		return peerFault(ctx, op, err)
	}
	for {
		f := newInFrame()
		err := stream.RecvMsg(f)
		if errors.Is(err, io.EOF) {
			if !fr.ended {
				return fault.Newf(fault.Unreachable, op, "the stream ended before its end frame")
			}
			return nil
		}
		if err != nil {
			return peerFault(ctx, op, err)
		}
		r.idle.touch()
		err = fr.next(f.GetSnapshotResponse)
		f.free()
		if err != nil {
			return err
		}
	}
}
