package transfer

import (
	"context"
	"errors"
	"io"
	"sync"
	"time"

	"golang.org/x/time/rate"
	"google.golang.org/grpc/mem"

	"github.com/chainfire/cfseed/internal/fault"
	chainfirev1 "github.com/chainfire/cfseed/proto/chainfire/v1"
	"github.com/chainfire/cfseed/snapshot/chunk"
)

// inlineManifest is the largest manifest that travels inside an offer; a larger
// one follows it as frames.
const inlineManifest = 4 << 20

// PushConfig says what is pushed where. Dial, Target, Seed are required.
type PushConfig struct {
	Dial      DialFunc
	Target    string // the waiting node's peer URL
	Seed      Seed
	Lease     Lease
	JoinToken string
	Endpoints []string // members' client URLs, told to the target

	Compression string        // auto | zstd | s2 | none; "" = auto
	RateLimit   int64         // bytes per second; 0 = none
	IdleTimeout time.Duration // default 60 s
	Retry       time.Duration // how long a line that broke is tried again; default 15 s
	Backoff     func(attempt int) time.Duration
	Alive       func() error // of the lease; nil = always
	Progress    func(Progress)

	limiters []*rate.Limiter
	pace     *Pace
	codec    *chunk.Codec
	pool     *bufferPool
}

// PushResult says what a push moved.
type PushResult struct {
	Meta            Meta
	BytesWire       uint64 // chunk data sent, compressed, repetitions included
	BytesReused     uint64 // had by the target
	Seconds         float64
	AlreadyComplete bool
	Attempts        int
}

// pusher is one push.
type pusher struct {
	cfg     PushConfig
	layout  *layout
	meta    Meta
	choice  *chooser
	idle    *idleTimer
	counter byteCounter
	report  reporter
	result  PushResult
	moved   bool // the target answered
}

// Push sends a seed to a node that waits for one, and returns when the node
// has verified and installed it. A line that breaks is tried again for a
// while; only what is missing is sent.
func Push(ctx context.Context, cfg PushConfig) (PushResult, error) {
	setDefault(&cfg.IdleTimeout, time.Minute)
	setDefault(&cfg.Retry, 15*time.Second)
	if cfg.Backoff == nil {
		cfg.Backoff = DefaultBackoff
	}
	if cfg.Alive == nil {
		cfg.Alive = func() error { return nil }
	}
	if cfg.limiters == nil {
		cfg.limiters = []*rate.Limiter{newLimiter(cfg.RateLimit)}
	}
	if cfg.codec == nil {
		codec, err := chunk.NewCodec(1)
		if err != nil {
			return PushResult{}, err
		}
		defer codec.Close()
		cfg.codec, cfg.pool = codec, newBufferPool()
	}
	l, err := newLayout(cfg.Seed.ManifestBytes())
	if err != nil {
		return PushResult{}, err
	}
	choice, err := newChooser(cfg.Compression)
	if err != nil {
		return PushResult{}, err
	}
	p := &pusher{cfg: cfg, layout: l, meta: l.meta(cfg.Lease), choice: choice, report: reporter{call: cfg.Progress}}
	p.idle = newIdleTimer(&p.counter)
	start := time.Now()
	err = p.run(ctx)
	p.result.Meta = p.meta
	p.result.BytesWire = p.report.get().BytesWire
	p.result.Seconds = time.Since(start).Seconds()
	return p.result, err
}

func (p *pusher) run(ctx context.Context) error {
	var brokeAt time.Time
	for attempt := 0; ; attempt++ {
		p.result.Attempts++
		p.idle.touch()
		before := p.report.get().BytesWire
		err := p.once(ctx)
		// in_use: the target has not noticed yet that the line before broke.
		again := p.moved && (transient(err) || fault.Is(err, fault.InUse))
		if err == nil || ctx.Err() != nil || !again {
			return callerError(ctx, "push", err)
		}
		if brokeAt.IsZero() || p.report.get().BytesWire > before {
			brokeAt, attempt = time.Now(), 0
		}
		if time.Since(brokeAt) >= p.cfg.Retry || fault.Is(err, fault.Timeout) {
			return err
		}
		if err := sleep(ctx, p.cfg.Backoff(attempt)); err != nil {
			return callerError(ctx, "push", err)
		}
	}
}

// once makes a connection and pushes over it.
func (p *pusher) once(ctx context.Context) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	conn, err := p.cfg.Dial(ctx, p.cfg.Target, append(dialOptions(p.cfg.IdleTimeout), p.counter.dialOption())...)
	if err != nil {
		return peerFault(ctx, "dial "+p.cfg.Target, err)
	}
	defer func() { _ = conn.Close() }()
	var wg sync.WaitGroup
	defer wg.Wait()
	done := make(chan struct{})
	defer close(done)
	wg.Go(func() {
		if err := p.idle.wait(ctx, done, p.cfg.IdleTimeout, "push to "+p.cfg.Target); err != nil {
			cancel(err)
		}
	})
	stream, err := chainfirev1.NewAwaitClient(conn).Receive(ctx, callOptions(newCodec(p.cfg.pool))...)
	if err != nil {
		return p.streamError(ctx, err)
	}
	answers := make(chan *chainfirev1.ReceiveResponse, 1)
	wg.Go(func() { cancel(p.readAnswers(ctx, stream, answers)) })
	defer cancel(nil)
	return p.converse(ctx, stream, answers)
}

// readAnswers passes on wants and the result, and notes progress. It returns
// why the stream ended.
func (p *pusher) readAnswers(ctx context.Context, stream chainfirev1.Await_ReceiveClient, out chan<- *chainfirev1.ReceiveResponse) error {
	for {
		m, err := stream.Recv()
		if err != nil {
			if errors.Is(err, io.EOF) {
				err = fault.Newf(fault.Unreachable, "push", "the target ended the stream without a result")
			}
			return peerFault(ctx, "push to "+p.cfg.Target, err)
		}
		p.idle.touch()
		if pr := m.GetProgress(); pr != nil {
			p.report.reached(pr.GetBytesDone(), p.meta.BytesTotal)
			continue
		}
		select {
		case out <- m:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// converse offers the seed and sends what the target wants until it is done.
func (p *pusher) converse(ctx context.Context, stream chainfirev1.Await_ReceiveClient, answers <-chan *chainfirev1.ReceiveResponse) error {
	snd := &sender{ctx: ctx, alive: p.cfg.Alive, seed: p.cfg.Seed, layout: p.layout, codec: p.cfg.codec,
		pool: p.cfg.pool, limiters: p.cfg.limiters, pace: p.cfg.pace, choice: p.choice}
	snd.send = func(m *chainfirev1.GetSnapshotResponse, payload mem.Buffer) error {
		req := &chainfirev1.ReceiveRequest{Msg: &chainfirev1.ReceiveRequest_Frame{Frame: m}}
		err := stream.SendMsg(&outPush{ReceiveRequest: req, payload: payload})
		p.idle.touch()
		return err
	}
	snd.sent = func(_, wire int) { p.report.wire(wire) }
	if err := p.offer(stream, snd); err != nil {
		return p.broken(ctx, err, answers)
	}
	for {
		select {
		case m := <-answers:
			p.moved = true
			if d := m.GetDone(); d != nil {
				p.finished(d)
				p.partWith(ctx, stream)
				return nil
			}
			ranges, err := p.layout.rangesFrom(m.GetWant().GetRanges())
			if err != nil {
				return fault.New(fault.Corrupt, "push", err)
			}
			if err := snd.run(func() error { return snd.ranges(ranges) }); err != nil {
				if snd.broken || ctx.Err() != nil {
					return p.broken(ctx, err, answers)
				}
				p.partWith(ctx, stream)
				return err
			}
		case <-ctx.Done():
			return p.broken(ctx, context.Cause(ctx), answers)
		}
	}
}

func (p *pusher) finished(d *chainfirev1.TransferResult) {
	p.moved = true
	p.result.BytesReused, p.result.AlreadyComplete = d.GetBytesReused(), d.GetAlreadyComplete()
}

// broken tells why the stream ended, unless the target said before that that it
// is done: it ends the stream right after, and either may be noticed first.
func (p *pusher) broken(ctx context.Context, err error, answers <-chan *chainfirev1.ReceiveResponse) error {
	err = p.streamError(ctx, err)
	select {
	case m := <-answers:
		if d := m.GetDone(); d != nil {
			p.finished(d)
			return nil
		}
	default:
	}
	return err
}

// farewell is how long the target may take to end its side of the stream.
const farewell = time.Second

// partWith waits for the target to end the stream: it has then heard why the push
// ends, and is free for another.
func (p *pusher) partWith(ctx context.Context, stream chainfirev1.Await_ReceiveClient) {
	if stream.CloseSend() == nil {
		_ = sleep(ctx, farewell) // readAnswers ends ctx with the stream
	}
}

func (p *pusher) offer(stream chainfirev1.Await_ReceiveClient, snd *sender) error {
	offer := &chainfirev1.ReceiveOffer{Meta: p.meta.Proto(), JoinToken: p.cfg.JoinToken, Endpoints: p.cfg.Endpoints}
	inline := len(p.layout.encoded) <= inlineManifest
	if inline {
		offer.Manifest = p.layout.encoded
	}
	err := stream.SendMsg(&chainfirev1.ReceiveRequest{Msg: &chainfirev1.ReceiveRequest_Offer{Offer: offer}})
	if err == nil && !inline {
		err = snd.run(snd.manifest)
	}
	return err
}

// streamError finds out why a stream broke: gRPC's sending side says io.EOF and
// leaves the reason to the receiving side.
func (p *pusher) streamError(ctx context.Context, err error) error {
	if errors.Is(err, io.EOF) {
		<-ctx.Done() // readAnswers ends with the stream
		err = context.Cause(ctx)
	} else if cause := context.Cause(ctx); cause != nil {
		err = cause
	}
	return peerFault(ctx, "push to "+p.cfg.Target, err)
}
