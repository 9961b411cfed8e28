package transfer

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/chainfire/cfseed/internal/fault"
	"github.com/chainfire/cfseed/internal/ident"
	"github.com/chainfire/cfseed/snapshot/chunk"
)

// PullConfig says what is pulled from where. Endpoints, Dial and OpenStage are
// required.
type PullConfig struct {
	Endpoints []string // preferred source first
	Fixed     bool     // no others are tried: members that a source names do not have this seed
	Dial      DialFunc
	// DialChannel connects for channels, which sources may offer for chunks; nil:
	// streams do.
	DialChannel DialChannelFunc
	// OpenStage opens the stage for a manifest. When another source can not
	// serve the seed begun with, the stage is closed and opened again with the
	// new manifest: what the two have in common is to be kept. The last stage
	// stays open, for the caller to install and close.
	OpenStage func(manifest []byte) (Stage, error)
	// OpenDelta gives what the target has beside the stage that was opened last; nil:
	// nothing. An error ends the pull. What is opened is the caller's to close.
	OpenDelta func(ctx context.Context) (Delta, error)
	DeltaBy   string // DeltaAuto, DeltaFiles or DeltaRanges; "" = auto

	Cluster     ident.Cluster // expected; zero = any
	WantRoot    []byte        // the seed that is staged in part; nil = any
	MinPosition ident.Position
	MemberID    uint64 // reservation served; 0 = a plain pull
	Target      string // for people
	LeaseID     uint64 // lease to continue; 0 = open one
	TTL         time.Duration
	CapBytes    uint64

	Parallel    int    // connections that chunks come over; default 2, or 4 on a long line
	RateLimit   int64  // bytes per second; 0 = none
	Compression string // auto | zstd | s2 | none; "" = auto

	IdleTimeout   time.Duration // no byte for so long, and one last try, end the pull; default 60 s
	OpenTimeout   time.Duration // for opening the seed while a source answers; default 10 min
	ContactWithin time.Duration // some endpoint must answer within; default 10 s, at most IdleTimeout
	Grace         time.Duration // a source may be away for so long at least; default 2 s
	Backoff       func(attempt int) time.Duration

	Progress func(Progress) // one call at a time, not too often; may be nil
	Notify   func(Event)    // one call at a time; may be nil
	Logger   *slog.Logger   // nil: slog.Default()
}

func (c *PullConfig) setDefaults() {
	setDefault(&c.IdleTimeout, time.Minute)
	setDefault(&c.OpenTimeout, 10*time.Minute)
	setDefault(&c.ContactWithin, 10*time.Second)
	c.ContactWithin = min(c.ContactWithin, c.IdleTimeout)
	setDefault(&c.Grace, 2*time.Second)
	if c.Backoff == nil {
		c.Backoff = DefaultBackoff
	}
	if c.Logger == nil {
		c.Logger = slog.Default()
	}
	if c.RateLimit > 0 && c.RateLimit < 4*MinRate {
		c.Parallel = 1 // each stream must show life within the idle timeout
	}
}

// EventKind says what an Event tells.
type EventKind string

// The kinds of events.
const (
	EventOpened   EventKind = "opened"   // Source serves the seed
	EventRetry    EventKind = "retry"    // Source failed with Err, tried again
	EventFailover EventKind = "failover" // Source failed with Err, the next one is Next
	EventQueued   EventKind = "queued"   // Source serves as many seeds as it can, Served; so many are Waiting for one to end
	EventRestaged EventKind = "restaged" // Source serves another seed: BytesLost of what was there can not be shared
)

// Event is something about the course of a pull that an operator may want to
// know.
type Event struct {
	Kind      EventKind
	Source    string
	Next      string
	Err       error
	Meta      Meta
	BytesKept uint64
	BytesLost uint64
	Served    int
	Waiting   int // this pull included
}

// PullResult says what a pull moved. It is filled in as far as the pull came
// when that fails, so that the caller can close the lease.
type PullResult struct {
	Meta           Meta
	ManifestBytes  []byte
	Stage          Stage // the last that OpenStage gave, open; nil if there is none
	BytesTotal     uint64
	BytesWire      uint64 // chunk data received, compressed, repetitions included; and what moved for tables that were made
	BytesReused    uint64 // of BytesTotal, there before this pull, shared by the Delta's base, or made of its records
	BytesRefetched uint64 // raw bytes that came damaged and were asked for again
	BytesDiscarded uint64 // fetched or reused, but not shared with the seed of a later source
	Source         string // endpoint of the last source
	LeaseID        uint64
	Seconds        float64
	Failovers      int
	Retries        int
	Made           Made // of a Delta
}

// puller is one pull. Its methods run on one goroutine unless they say so.
type puller struct {
	cfg     PullConfig
	codec   *chunk.Codec
	raw     *Codec
	pool    *bufferPool
	counter byteCounter
	idle    *idleTimer // of the whole pull

	endpoints []*endpoint
	current   int
	contacted bool
	home      *endpoint     // that serves the seed that is staged; nil: not known
	wentHome  bool          // it was tried again since then, before another one's seed was taken
	queued    atomic.Int64  // Unix time, in ns, when a source last said that we have to wait
	opening   time.Time     // when opening began; zero once a source has opened the seed
	until     time.Duration // of silence, which ends the pull
	first     error         // that went wrong since there was progress
	fetching  time.Duration // what is in the stage took so long to fetch

	layout *layout // nil until there is a stage
	stage  Stage
	in     *intake

	delta     Delta // beside the stage; nil: none
	adopted   bool  // what its base shares is staged
	wentAhead bool  // tables were made alone for a while
	unmade    int   // tables in a row that it could not make

	report reporter
	notify sync.Mutex
	result PullResult
}

type endpoint struct {
	addr string
	told bool      // of by a source, as a client address
	bad  error     // it will not do
	away time.Time // since when it fails; zero = it does not
	dry  int       // rounds in a row that stored nothing

	channels atomic.Int32 // what is known of them
}

// Pull fetches a seed into a stage, from the first endpoint that can serve it,
// and returns when nothing is missing. The lease stays open: the caller renews,
// uses or closes it.
func Pull(ctx context.Context, cfg PullConfig) (PullResult, error) {
	cfg.setDefaults()
	if len(cfg.Endpoints) == 0 {
		return PullResult{}, fault.Newf(fault.Usage, "pull", "no endpoint is given")
	}
	if _, err := newChooser(cfg.Compression); err != nil {
		return PullResult{}, err
	}
	codec, err := chunk.NewCodec(max(cfg.Parallel, longLanes))
	if err != nil {
		return PullResult{}, err
	}
	defer codec.Close()
	pool := newBufferPool()
	p := &puller{cfg: cfg, codec: codec, pool: pool, raw: newCodec(pool), report: reporter{call: cfg.Progress}}
	p.idle, p.opening, p.until = newIdleTimer(&p.counter), time.Now(), cfg.IdleTimeout
	p.learn(cfg.Endpoints, false)
	p.result.LeaseID = cfg.LeaseID
	start := time.Now()
	err = p.run(ctx)
	p.result.Stage = p.stage
	p.result.Seconds = time.Since(start).Seconds()
	p.result.BytesWire = p.report.get().BytesWire
	if p.in != nil {
		p.result.BytesRefetched += p.in.refetched()
	}
	err = callerError(ctx, "pull", err)
	if cfg.OpenDelta != nil {
		made := p.result.Made
		cfg.Logger.Info("delta ended", "bytes_shared", made.BytesShared, "bytes_made", made.BytesMade, "tables_made", made.Tables,
			"bytes_wire_for_made", made.BytesMoved, "bytes_fetched", p.result.BytesTotal-min(p.result.BytesReused, p.result.BytesTotal))
	}
	cfg.Logger.Info("pull ended", "source", p.result.Source, "lease", ident.FormatID(p.result.LeaseID),
		"seconds", p.result.Seconds, "bytes_wire", p.result.BytesWire, "channels", p.overChannels(), "result", result(err))
	return p.result, err
}

// learn adds endpoints that are not known yet; told says that a source named them.
func (p *puller) learn(addrs []string, told bool) {
	const most = 1024
	known := make(map[string]bool)
	for _, e := range p.endpoints {
		known[bare(e.addr)] = true
	}
	for _, a := range addrs {
		if a == "" || len(a) > 1024 || len(p.endpoints) >= most || known[bare(a)] {
			continue
		}
		known[bare(a)] = true
		p.endpoints = append(p.endpoints, &endpoint{addr: a, told: told})
	}
}

// bare is an endpoint without its scheme, for comparison.
func bare(addr string) string {
	if _, rest, ok := strings.Cut(addr, "://"); ok {
		addr = rest
	}
	return strings.TrimSuffix(addr, "/")
}

// run goes from round to round until one completes the stage.
func (p *puller) run(ctx context.Context) error {
	for attempt := 0; ; {
		e := p.endpoints[p.current]
		before := p.report.get().BytesDone
		err := p.round(ctx, e)
		// A client address may ask for a user, whom a member does not need to be.
		stranger := e.told && fault.Is(err, fault.Permission)
		if err == nil || ctx.Err() != nil || final(err) && !stranger {
			return err
		}
		opened := p.opening.IsZero()
		if opened {
			p.opening = time.Now()
		}
		switch {
		case p.report.get().BytesDone > before:
			e.away, e.dry, attempt = time.Time{}, 0, 0
			p.until, p.first = p.cfg.IdleTimeout, nil
		case opened:
			e.dry++
		}
		again, err := p.decide(e, err)
		if err != nil {
			return err
		}
		if again {
			if err := sleep(ctx, min(p.cfg.Backoff(attempt), p.cfg.IdleTimeout/20)); err != nil {
				return err
			}
			attempt++
		} else {
			attempt = 0
		}
	}
}

// maxDry is how many rounds in a row a source may open the seed and then bring
// no chunk of it.
const maxDry = 16

// decide says, after a source failed, whether to try it again after a pause. If
// not, the next one is current. An error ends the pull.
func (p *puller) decide(e *endpoint, err error) (again bool, _ error) {
	if p.first == nil {
		p.first = err
	}
	if idle := p.idle.since(); idle >= p.until {
		if !p.contacted || p.until > p.cfg.IdleTimeout {
			return false, p.exhausted(err)
		}
		// A line that was away for just so long is there again: one last try.
		p.until += p.cfg.IdleTimeout / 12
		return true, nil
	} else if !p.contacted && idle >= p.cfg.ContactWithin && p.allTried(e) {
		return false, p.exhausted(err)
	} else if !p.opening.IsZero() && min(time.Since(p.opening), time.Since(time.Unix(0, p.queued.Load()))) >= p.cfg.OpenTimeout {
		return false, p.exhausted(err) // it lives, but does not open the seed
	}
	if e.away.IsZero() {
		e.away = time.Now()
	}
	if errors.Is(err, errAnotherSeed) {
		p.goTo(e, slices.Index(p.endpoints, p.home), err)
		return false, nil
	}
	stay := transient(err) && e.dry < maxDry
	if !stay {
		e.bad = err
	}
	patient := (p.contacted || p.cfg.WantRoot != nil) && time.Since(e.away) < p.grace() && !fault.Is(err, fault.Timeout) &&
		!(p.wentHome && e == p.home)
	next := p.next()
	if stay && (patient || next == p.current) {
		p.result.Retries++
		p.tell(Event{Kind: EventRetry, Source: e.addr, Err: err})
		return true, nil
	}
	if next < 0 {
		return false, err
	}
	// A source that is back in turn gets its patience again, after a pause.
	wrapped := !p.endpoints[next].away.IsZero()
	p.goTo(e, next, err)
	return wrapped, nil
}

// goTo makes another endpoint the current one, since e has failed with err.
func (p *puller) goTo(e *endpoint, next int, err error) {
	e.away = time.Now()
	p.current = next
	p.result.Failovers++
	if p.in != nil {
		p.in.forgive()
	}
	p.tell(Event{Kind: EventFailover, Source: e.addr, Next: p.endpoints[next].addr, Err: err})
}

// errAnotherSeed ends a round whose source has another seed than the one that is
// staged, while the one that had it was not tried again: what is staged may be most
// of it, and its source have been away for as long as the line was.
var errAnotherSeed = fault.Newf(fault.Unreachable, "pull", "it has another seed than the one that was begun")

// allTried reports whether every endpoint has failed, e just now.
func (p *puller) allTried(e *endpoint) bool {
	return !slices.ContainsFunc(p.endpoints, func(o *endpoint) bool { return o != e && o.bad == nil && o.away.IsZero() })
}

// grace is how long a source may be away before another one takes over, whose
// seed may have nothing in common with what is here: as long as it took to fetch
// that, up to a third of the idle timeout. Then a source that is only started
// again costs no more than the wait, and one that stays away at most twice.
func (p *puller) grace() time.Duration {
	return max(p.cfg.Grace, min(p.fetching, p.cfg.IdleTimeout/3))
}

// next is the number of the endpoint to try after the current one, itself when
// there is no other, -1 when none will do.
func (p *puller) next() int {
	for i := 1; i <= len(p.endpoints); i++ {
		n := (p.current + i) % len(p.endpoints)
		if p.endpoints[n].bad == nil {
			return n
		}
	}
	return -1
}

// exhausted is the end of a pull that came no further for the idle timeout. Its
// class is that of what went wrong first: a source that fell silent, or one that
// is not there.
func (p *puller) exhausted(err error) error {
	code := fault.Timeout
	if fault.Is(p.first, fault.Unreachable) {
		code = fault.Unreachable
	}
	return fault.New(code, "pull: no progress", err).
		WithHint("what was transferred is kept: run the command again to go on")
}

// tell passes an event on; any goroutine.
func (p *puller) tell(e Event) {
	p.notify.Lock()
	defer p.notify.Unlock()
	if p.cfg.Notify != nil {
		p.cfg.Notify(e)
	}
}
