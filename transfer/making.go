package transfer

import (
	"cmp"
	"context"
	"errors"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/chainfire/cfseed/internal/background"
	"github.com/chainfire/cfseed/internal/fault"
	"github.com/chainfire/cfseed/snapshot/record"
)

// The ways in which a pull uses a Delta beside the files that the two share.
const (
	DeltaAuto   = "auto"   // tables are made that are there before the lanes would have fetched all
	DeltaFiles  = "files"  // no table is made
	DeltaRanges = "ranges" // all tables are made that can be
)

// Delta is what a target has beside a stage: files that the seed shares, and
// records of which some of its other tables can be made. Make is called by
// several goroutines, for different tables.
type Delta interface {
	// Missing lists the tables that are neither staged nor shared.
	Missing() []int
	// Adopt stages what is shared and gives its bytes. It is called again when it
	// could not end.
	Adopt(ctx context.Context) (bytes uint64, err error)
	// Cost is what making a table takes, in bytes read and written.
	Cost(t record.Table) uint64
	// Make stages a table, chunk by chunk, of which stored is told, and gives their
	// bytes. What it could not make stays missing: an error is never the end of a
	// pull. ErrNotAlike: it came out as another table.
	Make(ctx context.Context, t record.Table, src *RecordSource, stored func(n int)) (made uint64, err error)
}

// Errors of Delta.Make after which no other table is begun.
var (
	ErrNotAlike = errors.New("the table that was made is not that of the seed")
	ErrStage    = errors.New("the stage can not be written") // nor by what is fetched
)

const (
	makers     = 2         // tables that are made at a time
	maxUnmade  = 3         // tables in a row that could not be made
	makeRate   = 100 << 20 // bytes of cost a second, until it is measured ...
	makeWeight = 1.0       // ... for so many seconds
	makeAgain  = time.Second / 20
	makeAhead  = 2 * time.Second // before the lanes begin, at least
)

// Made says what came of a delta.
type Made struct {
	BytesShared uint64 // of files that the base shares
	BytesMade   uint64 // of tables that were made of its records
	BytesMoved  uint64 // on the wire for these, both ways
	Tables      int    // made
}

// making makes tables of a seed of records that the target has, one by one from
// the cheapest on, beside the lanes, which fetch from the other end: until they
// meet, nobody waits for the other, but the lanes for lists that come over the same
// slow line (precedes). Before the lanes begin, which is a little after
// the last shared file is there, it takes what it can;
// then a table only if it will be there before the lanes could fetch all that is
// missing, or takes no longer than all did before: the few that are under way when
// the lanes are done make little of the whole.
type making struct {
	delta    Delta
	queue    *workQueue
	all      bool // whatever the lanes would take
	source   func() *RecordSource
	missing  func(file int) []Range // that is not staged
	progress func(n int)            // bytes staged
	flow     *flow                  // of lists and records
	log      *slog.Logger

	mu       sync.Mutex
	order    []candidate // not begun
	expected float64     // bytes of tables for a byte of lists
	since    time.Time   // the first was begun
	active   busy        // making
	awaits   bool        // a table is left for when a probe of it has come
	stopped  bool
	made     Made
	unmade   int // in a row
	cost     uint64
	spent    time.Duration
	failed   error // of the source
}

// candidate is a table that can be made.
type candidate struct {
	record.Table
	cost uint64
}

// run finds out what can be made, and makes it; it returns when nothing is left to
// be made, or after stop.
func (m *making) run(ctx context.Context) {
	src := m.source()
	tables, err := src.Describe(ctx, m.delta.Missing())
	if err != nil {
		m.end(ctx, nil, src, 0, 0, err)
		return
	}
	m.plan(ctx, tables)
	var wg sync.WaitGroup
	defer wg.Wait()
	for range makers {
		wg.Go(func() {
			background.Lower()
			m.work(ctx)
		})
	}
}

// plan puts the tables in order, and the queue in the opposite one.
func (m *making) plan(ctx context.Context, tables []record.Table) {
	var order []candidate
	each := make(map[int]float64) // cost of a chunk
	chunks := m.queue.files()
	var listed, bytes float64
	for _, t := range tables {
		if ctx.Err() != nil { // to reckon a cost may take reading
			return
		}
		if n := chunks[t.File]; t.Listable && n > 0 {
			c := candidate{t, m.delta.Cost(t)}
			each[t.File] = float64(c.cost) / float64(n)
			order = append(order, c)
			listed += float64(t.Records) * listedBytes
			bytes += float64(n) * float64(m.queue.size)
		}
	}
	slices.SortFunc(order, func(a, b candidate) int {
		return cmp.Or(cmp.Compare(each[a.File], each[b.File]), cmp.Compare(a.File, b.File))
	})
	rank := make(map[int]int)
	for i, c := range order {
		rank[c.File] = len(order) - i
	}
	m.queue.arrange(rank)
	m.mu.Lock()
	defer m.mu.Unlock()
	m.order, m.expected = order, bytes/max(listed, 1)
}

// work makes one table after the other; its own goroutine.
func (m *making) work(ctx context.Context) {
	for {
		c, more := m.next(time.Now())
		if !more {
			return
		}
		if c == nil {
			if sleep(ctx, makeAgain) != nil {
				return
			}
			continue
		}
		src, began := m.source(), time.Now()
		made, err := m.delta.Make(ctx, c.Table, src, m.progress)
		if err != nil {
			m.queue.giveBack(c.File, func() []Range { return m.missing(c.File) })
		} else {
			m.queue.kept(c.File)
		}
		m.end(ctx, c, src, made, time.Since(began), err)
	}
}

// next claims the cheapest table that is worth making; nil when there is none at
// the moment.
func (m *making) next(now time.Time) (c *candidate, more bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.stopped {
		return nil, false
	}
	left, before, lanes := m.queue.ahead(now)
	var kept []candidate
	m.awaits = false
	for i, have := range m.order {
		if !m.all && lanes && m.takes(have.cost) >= max(left, before) {
			if m.queue.claimable(have.File) {
				kept = append(kept, have)
			}
			continue
		}
		if m.queue.claim(have.File) {
			m.order = append(kept, m.order[i+1:]...)
			if m.since.IsZero() {
				m.since = now
			}
			m.active.add(1, now)
			return &have, true
		}
		if m.queue.claimable(have.File) {
			kept, m.awaits = append(kept, have), true
		}
	}
	m.order = kept
	return nil, len(kept) > 0
}

// takes is how long making will take that costs so many bytes. making.mu is held.
func (m *making) takes(cost uint64) time.Duration {
	rate := (makeRate*makeWeight + float64(m.cost)) / (makeWeight + m.spent.Seconds())
	return time.Duration(float64(cost) / rate * float64(time.Second))
}

// end notes what came of a table, or of asking for all of them. After several that
// were not made, one that came out different, or an error of the source that another
// try may cure, no other is begun.
func (m *making) end(ctx context.Context, c *candidate, src *RecordSource, made uint64, took time.Duration, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if c != nil {
		m.active.add(-1, time.Now())
	}
	m.made.BytesMoved += src.wire
	m.made.BytesMade += made
	if err == nil {
		m.made.Tables++
		m.unmade = 0
		m.cost += c.cost
		m.spent += took
		return
	}
	if m.stopped { // for the same reason, as likely as not
		return
	}
	m.unmade++
	if errors.Is(err, ErrNotAlike) || errors.Is(err, ErrStage) {
		m.unmade = maxUnmade
	}
	m.failed = src.failed
	m.stopped = m.unmade >= maxUnmade || ctx.Err() != nil || transient(src.failed) || leaseEnded(src.failed)
	switch {
	case ctx.Err() != nil, errors.Is(err, ErrStage): // the lanes find out and tell
	case c == nil:
		m.log.Warn("no table can be made of records; all are fetched", "err", err)
	default:
		m.log.Warn("a table was not made of records; it is fetched", "file", c.File, "err", err)
	}
}

func leaseEnded(err error) bool { return fault.Is(err, fault.LeaseLost) }

// stop lets no other table be begun.
func (m *making) stop() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.stopped = true
}

// result is what came of it, once nothing runs any more: how many tables in a row
// were not made, and the source's last error.
func (m *making) result() (made Made, unmade int, failed error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.made, m.unmade, m.failed
}

// openDelta opens the delta of the stage that was opened last, if there is a base.
func (r *round) openDelta(ctx context.Context) (err error) {
	r.delta, r.adopted, r.wentAhead, r.unmade = nil, false, false, 0
	if r.cfg.OpenDelta == nil {
		return nil
	}
	r.delta, err = r.cfg.OpenDelta(ctx)
	return err
}

// fetchBeside brings in what a base has, and makes tables beside the lanes.
func (r *round) fetchBeside(ctx context.Context) error {
	beside, cancel := context.WithCancel(ctx)
	defer cancel()
	r.idle.pause() // until somebody waits for the source
	limiter := newLimiter(r.cfg.RateLimit)
	m := &making{delta: r.delta, queue: newWorkQueue(r.stage.Missing(), int(r.layout.ChunkSize)), all: r.cfg.DeltaBy == DeltaRanges, unmade: r.unmade,
		source:  func() *RecordSource { return &RecordSource{r: r, limiter: limiter} },
		missing: r.missingOf, progress: r.report.stored, flow: &r.flow, log: r.cfg.Logger}
	m.queue.gate = m.precedes
	began, ran := time.Now(), make(chan struct{})
	go func() {
		defer close(ran)
		if r.cfg.DeltaBy != DeltaFiles && r.unmade < maxUnmade {
			m.run(beside)
		}
	}()
	err := r.adopt(ctx)
	if err == nil && m.all {
		<-ran
		// Where another try may do it, the lanes are not to fetch what can be made.
		if _, unmade, failed := m.result(); leaseEnded(failed) || transient(failed) && unmade < maxUnmade {
			err = failed
		}
	}
	if err == nil {
		if !r.wentAhead {
			r.wentAhead = true // not again by every try
			goAhead(ctx, ran, time.Since(began)/2)
		}
		err = r.fetchFrom(ctx, m.queue)
	}
	m.stop()
	switch {
	case err == nil:
		m.outlast(ctx, ran, time.Since(began), func() time.Duration { return r.flow.each(int(r.layout.ChunkSize)) })
		cancel()
	case !transient(err):
		cancel()
	}
	<-ran
	made, unmade, failed := m.result()
	r.unmade = unmade
	r.result.Made.add(made)
	r.result.BytesReused += made.BytesMade
	if err == nil && leaseEnded(failed) {
		err = failed
	}
	return err
}

// goAhead lets tables be made alone for a while before the lanes begin: a fast line
// would have all of them at once, and what a base is named for are bytes that need
// not move. Half as long as what passed, or two seconds, is little of the whole.
func goAhead(ctx context.Context, done <-chan struct{}, half time.Duration) {
	timer := time.NewTimer(max(half, makeAhead))
	defer timer.Stop()
	select {
	case <-done:
	case <-timer.C:
	case <-ctx.Done():
	}
}

// outlast waits for the tables that are being made when the lanes have nothing left
// to fetch: as long as fetching these would take, at the lanes' rate or else at
// that of lists, each of whose chunks would take so long, and as long as all took
// before. By then they would have been there as files, and a busy processor is not
// to be waited for. False: they are to be fetched.
func (m *making) outlast(ctx context.Context, done <-chan struct{}, before time.Duration, each func() time.Duration) bool {
	began := time.Now()
	tick := time.NewTicker(makeAgain)
	defer tick.Stop()
	for {
		select {
		case <-done:
			return true
		case <-ctx.Done():
			return false
		case now := <-tick.C:
			left, known := m.queue.behind(each())
			if spent := now.Sub(began); known && spent > max(left, before) {
				return false
			}
		}
	}
}

// adopt brings in what the base shares, once for each stage.
func (r *round) adopt(ctx context.Context) error {
	if r.adopted {
		return nil
	}
	bytes, err := r.delta.Adopt(ctx)
	r.report.found(bytes)
	r.result.BytesReused += bytes
	r.result.Made.BytesShared += bytes
	r.adopted = err == nil
	if err != nil && ctx.Err() == nil {
		err = &localError{err}
	}
	return err
}

// missingOf lists what of a file is not staged.
func (r *round) missingOf(file int) []Range {
	return slices.DeleteFunc(r.stage.Missing(), func(m Range) bool { return m.File != file })
}

func (m *Made) add(n Made) {
	m.BytesShared += n.BytesShared
	m.BytesMade += n.BytesMade
	m.BytesMoved += n.BytesMoved
	m.Tables += n.Tables
}
