package transfer

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/chainfire/cfseed/internal/fault"
	"github.com/chainfire/cfseed/internal/ident"
	chainfirev1 "github.com/chainfire/cfseed/proto/chainfire/v1"
	"github.com/chainfire/cfseed/snapshot/chunk"
	"github.com/chainfire/cfseed/snapshot/manifest"
)

// Offer is what a pushing member says before it sends anything.
type Offer struct {
	Meta      Meta
	JoinToken string
	Endpoints []string // members' client URLs
}

// ReceiveConfig says what a waiting node does with a pushed seed. Accept,
// OpenStage and Finish are required.
type ReceiveConfig struct {
	// Accept says whether the offer is to be taken; nothing was written yet.
	Accept func(ctx context.Context, o Offer) error
	// OpenStage opens the stage for a manifest, as in PullConfig.
	OpenStage func(manifest []byte) (Stage, error)
	// Finish verifies and installs the complete stage. The pusher is told that
	// the seed is done only when Finish returned nil. If that does not reach it,
	// it pushes again: Finish is to be repeatable, or Accept to refuse.
	Finish func(ctx context.Context, o Offer, s Stage) error

	IdleTimeout time.Duration // default 60 s
	Conns       *ConnMeter    // counts the server's connections; may be nil
	Progress    func(Progress)
	Logger      *slog.Logger // nil: slog.Default()
}

// ReceiveResult says what a push brought.
type ReceiveResult struct {
	Offer          Offer
	ManifestBytes  []byte
	BytesTotal     uint64
	BytesWire      uint64
	BytesReused    uint64
	BytesRefetched uint64
	Seconds        float64
}

// storing is how many chunks of a push are unpacked and stored at a time: while
// they are, the next ones come in.
const storing = 3

// receiver is one Receive call.
type receiver struct {
	cfg    ReceiveConfig
	stream chainfirev1.Await_ReceiveServer
	ctx    context.Context
	frames chan *inPush
	now    *inPush    // the frame that drain handles
	broken chan error // why reading ended
	ended  chan struct{}
	idle   *idleTimer
	codec  *chunk.Codec
	pool   *bufferPool
	report reporter
	offer  Offer
	layout *layout
	in     *intake
	sendMu sync.Mutex
	result ReceiveResult
}

// Receive is the target's side of a push: it serves one Await.Receive call. It
// returns nil exactly when Finish did; another error is a fault error, for the
// caller to turn into a status and to return from the handler at once: only
// that ends a goroutine which reads from a peer that sends nothing.
func Receive(stream chainfirev1.Await_ReceiveServer, cfg ReceiveConfig) (*ReceiveResult, error) {
	setDefault(&cfg.IdleTimeout, time.Minute)
	if cfg.Logger == nil {
		cfg.Logger = slog.Default()
	}
	codec, err := chunk.NewCodec(storing)
	if err != nil {
		return nil, err
	}
	defer codec.Close()
	ctx, cancel := context.WithCancel(stream.Context())
	defer cancel()
	r := &receiver{cfg: cfg, stream: stream, ctx: ctx, frames: make(chan *inPush), broken: make(chan error, 1), ended: make(chan struct{}),
		idle: newIdleTimer(cfg.Conns.of(ctx)), codec: codec, pool: newBufferPool(), report: reporter{call: cfg.Progress}}
	defer close(r.ended)
	start := time.Now()
	go r.read() // ends with the stream, which ends with the handler
	stage, err := r.run()
	if stage != nil {
		_ = stage.Close() // what counts was said by Finish, or by what went wrong before
	}
	r.result.Seconds = time.Since(start).Seconds()
	r.result.BytesWire = r.report.get().BytesWire
	if r.in != nil {
		r.result.BytesRefetched = r.in.refetched()
	}
	if err == nil {
		if derr := r.sendDone(); derr != nil { // the seed is installed all the same
			cfg.Logger.Warn("the pusher could not be told that the seed is installed", "error", derr)
		}
		return &r.result, nil
	}
	return &r.result, callerError(stream.Context(), "receive seed", err)
}

// read passes on what the peer sends.
func (r *receiver) read() {
	for {
		f := newInPush()
		if err := r.stream.RecvMsg(f); err != nil {
			r.broken <- err
			return
		}
		select {
		case r.frames <- f: // also after the line broke: what came is kept
		case <-r.ended:
			f.free()
			return
		}
	}
}

// next waits for the peer's next message; the caller frees it.
func (r *receiver) next() (*inPush, error) {
	r.idle.touch()
	defer r.idle.pause()
	tick := time.NewTicker(pollEvery(r.cfg.IdleTimeout))
	defer tick.Stop()
	for {
		select {
		case f := <-r.frames:
			return f, nil
		case err := <-r.broken:
			if errors.Is(err, io.EOF) {
				err = fault.Newf(fault.Unreachable, "receive seed", "the stream ended before the seed was complete")
			}
			return nil, peerFault(r.ctx, "receive seed", err)
		case <-tick.C:
			if r.idle.since() >= r.cfg.IdleTimeout {
				return nil, fault.Newf(fault.Timeout, "receive seed", "no byte for %s", r.cfg.IdleTimeout)
			}
		}
	}
}

// run takes the offer, fetches what is missing and finishes. The stage is the
// caller's to close.
func (r *receiver) run() (Stage, error) {
	encoded, err := r.takeOffer()
	if err != nil {
		return nil, err
	}
	r.layout, err = newLayout(encoded)
	if err != nil {
		return nil, err
	}
	if m := r.offer.Meta; r.layout.root != m.Root || r.layout.Position != m.Position || !r.layout.Cluster.Same(m.Cluster) {
		return nil, fault.Newf(fault.Corrupt, "receive seed", "the manifest is not the one announced")
	}
	r.cfg.Logger.Info("receiving seed", "peer", peerName(r.stream.Context()), "position", r.layout.Position.String(),
		"lease", ident.FormatID(r.offer.Meta.LeaseID), "bytes", r.layout.TotalBytes())
	var stage Stage
	err = r.alive(func() (err error) { stage, err = r.cfg.OpenStage(encoded); return err })
	if err != nil {
		return nil, err
	}
	r.in = &intake{layout: r.layout, stage: stage, codec: r.codec, pool: r.pool, report: &r.report, attempts: make(map[chunkID]int)}
	if err := r.account(stage.Missing()); err != nil {
		return stage, err
	}
	for {
		missing := stage.Missing()
		if len(missing) == 0 {
			break
		}
		if err := r.fetch(missing[:min(len(missing), maxRanges)]); err != nil {
			return stage, err
		}
	}
	return stage, r.finish(stage)
}

func (r *receiver) account(missing []Range) error {
	done := r.layout.TotalBytes()
	for _, m := range missing {
		if err := r.layout.checkRange(m); err != nil {
			return err
		}
		done -= r.layout.rangeBytes(m)
	}
	r.result.ManifestBytes, r.result.BytesTotal, r.result.BytesReused = r.layout.encoded, r.layout.TotalBytes(), done
	r.report.reset(done, r.layout.TotalBytes())
	return nil
}

// takeOffer reads and judges the offer and gives the manifest's bytes.
func (r *receiver) takeOffer() ([]byte, error) {
	first, err := r.next()
	if err != nil {
		return nil, err
	}
	defer first.free()
	o := first.GetOffer()
	if o == nil {
		return nil, fault.Newf(fault.Corrupt, "receive seed", "the stream does not begin with an offer")
	}
	meta, err := MetaFrom(o.GetMeta())
	if err != nil {
		return nil, err
	}
	r.offer = Offer{Meta: meta, JoinToken: o.GetJoinToken(), Endpoints: o.GetEndpoints()}
	r.result.Offer = r.offer
	if err := r.cfg.Accept(r.ctx, r.offer); err != nil {
		return nil, err
	}
	if meta.ManifestBytes == 0 || meta.ManifestBytes > manifest.MaxBytes {
		return nil, fault.Newf(fault.Corrupt, "receive seed", "a manifest of %d bytes", meta.ManifestBytes)
	}
	if len(o.GetManifest()) > 0 {
		return o.GetManifest(), nil
	}
	mi := &manifestIntake{want: meta.ManifestBytes}
	fr := &frameReader{file: ManifestFile, root: meta.Root, onChunk: func(_ chunkID, c *chainfirev1.FrameChunk) error { return mi.put(c, r.codec) }}
	if err := r.drain(fr, func() {}); err != nil {
		return nil, err
	}
	return mi.buf, nil
}

// drain reads frames to the end frame.
func (r *receiver) drain(fr *frameReader, after func()) error {
	for !fr.ended {
		f, err := r.next()
		if err != nil {
			return err
		}
		r.now = f
		frame := f.GetFrame()
		if frame == nil {
			err = fault.Newf(fault.Corrupt, "receive seed", "a message that is not a frame")
		} else {
			err = fr.next(frame)
		}
		f.free()
		if err != nil {
			return err
		}
		after()
	}
	return nil
}

// fetch asks for ranges once. What comes damaged stays missing.
func (r *receiver) fetch(ranges []Range) error {
	if err := r.send(&chainfirev1.ReceiveResponse{Msg: &chainfirev1.ReceiveResponse_Want{
		Want: &chainfirev1.ReceiveWant{Ranges: rangesProto(ranges)}}}); err != nil {
		return err
	}
	fr := &frameReader{layout: r.layout, root: r.layout.root, ranges: ranges}
	group, ctx := errgroup.WithContext(r.ctx)
	group.SetLimit(storing)
	fr.onChunk = func(id chunkID, c *chainfirev1.FrameChunk) error {
		data := r.now.take()
		group.Go(func() error {
			defer freePayload(&data)
			_, err := r.in.put(id, c)
			return err
		})
		return ctx.Err() // why is told by the group
	}
	told := time.Now()
	err := r.drain(fr, func() {
		if time.Since(told) >= 5*reportEvery {
			told = time.Now()
			_ = r.sendProgress() // a broken stream shows at the next read
		}
	})
	if failed := group.Wait(); failed != nil {
		return failed
	}
	return err
}

// finish calls Finish.
func (r *receiver) finish(stage Stage) error {
	return r.alive(func() error { return r.cfg.Finish(r.ctx, r.offer, stage) })
}

// alive calls f, which may take long, and tells the pusher meanwhile that
// somebody is there.
func (r *receiver) alive(f func() error) error {
	done := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		tick := time.NewTicker(max(r.cfg.IdleTimeout/6, time.Millisecond))
		defer tick.Stop()
		for {
			select {
			case <-done:
				return
			case <-tick.C:
				_ = r.sendProgress()
			}
		}
	})
	err := f()
	close(done)
	wg.Wait()
	return err
}

func (r *receiver) send(m *chainfirev1.ReceiveResponse) error {
	r.sendMu.Lock()
	defer r.sendMu.Unlock()
	if err := r.stream.Send(m); err != nil {
		return peerFault(r.ctx, "receive seed", err)
	}
	return nil
}

func (r *receiver) sendProgress() error {
	p := r.report.get()
	return r.send(&chainfirev1.ReceiveResponse{Msg: &chainfirev1.ReceiveResponse_Progress{Progress: &chainfirev1.TransferProgress{
		BytesDone: p.BytesDone, BytesTotal: p.BytesTotal, BytesWire: p.BytesWire, BytesPerSecond: p.Rate}}})
}

func (r *receiver) sendDone() error {
	return r.send(&chainfirev1.ReceiveResponse{Msg: &chainfirev1.ReceiveResponse_Done{Done: &chainfirev1.TransferResult{
		Meta: r.offer.Meta.Proto(), BytesWire: r.result.BytesWire, BytesReused: r.result.BytesReused,
		Seconds: r.result.Seconds, AlreadyComplete: r.result.BytesReused == r.result.BytesTotal}}})
}
