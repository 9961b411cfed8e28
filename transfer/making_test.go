package transfer

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/chainfire/cfseed/snapshot/record"
)

const slowCost = 200 // of a record

// slowDelta takes so long for a byte of cost; on virtual time.
type slowDelta struct {
	rate float64 // bytes a second
	fail bool
	list func(ctx context.Context, src *RecordSource) // comes before
	mu   sync.Mutex
	made []int
}

func (d *slowDelta) Missing() []int                        { return nil }
func (d *slowDelta) Adopt(context.Context) (uint64, error) { return 0, nil }
func (d *slowDelta) Cost(t record.Table) uint64            { return t.Records * slowCost }
func (d *slowDelta) Make(ctx context.Context, t record.Table, src *RecordSource, _ func(int)) (uint64, error) {
	if d.list != nil {
		d.list(ctx, src)
	}
	if err := sleep(ctx, time.Duration(float64(d.Cost(t))/d.rate*float64(time.Second))); err != nil {
		return 0, err
	}
	if d.fail {
		return 0, errors.New("not made")
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.made = append(d.made, t.File)
	return meetChunks * meetBytes, nil
}

// meeting is a making beside lanes that fetch so many chunks a second, each.
type meeting struct {
	lanes  int
	line   float64 // chunks a second of all lanes
	rate   float64 // of the makers, in bytes of cost a second, each
	before time.Duration
	all    bool
	fail   bool

	lists  float64 // bytes of a list, which come over the same line; 0: no list
	source float64 // bytes a second, of lists that the source makes; 0: any
}

type met struct {
	fetched, made []int // files
	took          time.Duration
}

const (
	meetChunks = 32      // of each table
	meetBytes  = 1 << 20 // of a chunk
)

func (c meeting) run(t *testing.T, tables int) (out met) {
	synctest.Test(t, func(t *testing.T) {
		var missing []Range
		var described []record.Table
		for f := range tables {
			missing = append(missing, Range{File: f, Count: meetChunks})
			// The later ones are the cheaper ones.
			described = append(described, record.Table{File: f, Listable: true, Records: uint64(100<<20-f<<20) / slowCost})
		}
		d := &slowDelta{rate: c.rate, fail: c.fail}
		m := &making{delta: d, queue: newWorkQueue(missing, meetBytes), all: c.all, source: func() *RecordSource { return new(RecordSource) },
			missing: func(file int) []Range { return []Range{{File: file, Count: meetChunks}} }, progress: func(int) {}, flow: new(flow), log: quiet()}
		m.queue.gate = m.precedes
		line := &sharedLine{rate: c.line * meetBytes}
		if c.lists > 0 {
			d.list = func(ctx context.Context, src *RecordSource) { m.listOver(ctx, line, c, src) }
		}
		began := time.Now()
		m.plan(t.Context(), described)
		var makes, lanes sync.WaitGroup
		for range makers {
			makes.Go(func() { m.work(t.Context()) })
		}
		_ = sleep(t.Context(), c.before)
		m.queue.begin(func() []Range { return missing }, c.lanes, time.Now())
		var mu sync.Mutex
		got := make(map[int]int)
		for range c.lanes {
			lanes.Go(func() {
				for share, held := m.queue.take(mostShare); share != nil || held; share, held = m.queue.take(mostShare) {
					if held {
						_ = sleep(t.Context(), makeAgain)
					}
					for _, r := range share {
						for range r.Count {
							line.pass(t.Context(), meetBytes)
							m.queue.stored(meetBytes)
							mu.Lock()
							got[r.File]++
							mu.Unlock()
						}
					}
				}
			})
		}
		lanes.Wait()
		m.stop()
		makes.Wait()
		out.took, out.made = time.Since(began), d.made
		for f := range tables {
			switch made := slices.Contains(d.made, f); {
			case got[f] == meetChunks:
				out.fetched = append(out.fetched, f)
			case got[f] == 0, got[f] == 1 && made: // a probe
			default:
				t.Errorf("%d chunks of table %d were fetched", got[f], f)
			}
		}
	})
	return out
}

// TestMeetInTheMiddle: on a fast line the lanes fetch what making is too slow for,
// on a slow one nearly all is made, and in between each does a part, from its end,
// and the two are done at about the same time.
func TestMeetInTheMiddle(t *testing.T) {
	const tables = 20
	for name, tc := range map[string]struct {
		meeting
		least, most int // tables made
	}{
		"a fast line":          {meeting{lanes: 2, line: 10_000, rate: 60 << 20}, 0, 2},
		"a slow line":          {meeting{lanes: 2, line: 0.5, rate: 60 << 20}, 19, 20},
		"neither":              {meeting{lanes: 4, line: 20, rate: 60 << 20}, 10, 16},
		"slow makers":          {meeting{lanes: 4, line: 20, rate: 6 << 20}, 2, 6},
		"begun before":         {meeting{lanes: 2, line: 10_000, rate: 60 << 20, before: 8 * time.Second}, 9, 12},
		"whatever it takes":    {meeting{lanes: 2, line: 0.5, rate: 1 << 20, all: true, before: time.Hour}, 20, 20},
		"what can not be made": {meeting{lanes: 4, line: 0.5, rate: 60 << 20, fail: true}, 0, 0},
	} {
		t.Run(name, func(t *testing.T) {
			got := tc.run(t, tables)
			if n := len(got.made); n < tc.least || n > tc.most {
				t.Errorf("%d tables were made, want %d to %d (%+v)", n, tc.least, tc.most, got)
			}
			if !tc.fail && len(got.made)+len(got.fetched) != tables {
				t.Errorf("%d made and %d fetched of %d", len(got.made), len(got.fetched), tables)
			}
			for _, made := range got.made {
				for _, fetched := range got.fetched {
					if made < fetched {
						t.Fatalf("table %d was made and %d fetched, which is cheaper to make", made, fetched)
					}
				}
			}
			alone := time.Duration(tables * meetChunks / tc.line * float64(time.Second))
			if slack := time.Duration(100<<20/tc.rate*float64(time.Second)) + 2*time.Second; !tc.all && got.took > alone+slack+tc.before {
				t.Errorf("it took %s, the lanes alone %s", got.took, alone)
			}
		})
	}
}

// TestOutlast: tables that are being made when the lanes are done are waited for as
// long as they would have taken as files, and as all took before.
func TestOutlast(t *testing.T) {
	for name, tc := range map[string]struct {
		lanes, lists time.Duration // for a chunk; 0: not known
		came         int           // bytes over the lanes; 0: a chunk
		before       time.Duration
		takes        time.Duration // to make
		want         bool
		at           time.Duration // about
	}{
		"a slow line":              {lanes: time.Second, takes: 20 * time.Second, want: true, at: 20 * time.Second},
		"a fast line":              {lanes: time.Millisecond, takes: 20 * time.Second, want: false, at: 32 * time.Millisecond},
		"a fast line, much before": {lanes: time.Millisecond, before: 30 * time.Second, takes: 20 * time.Second, want: true, at: 20 * time.Second},
		"only lists, slow":         {lists: time.Second, takes: 20 * time.Second, want: true, at: 20 * time.Second},
		"only lists, fast":         {lists: 10 * time.Millisecond, takes: 20 * time.Second, want: false, at: 320 * time.Millisecond},
		"the lanes know better":    {lanes: time.Second, lists: time.Millisecond, takes: 20 * time.Second, want: true, at: 20 * time.Second},
		"the lanes had little":     {lanes: time.Millisecond, came: 2000, lists: time.Second, takes: 20 * time.Second, want: true, at: 20 * time.Second},
		"nothing is known":         {takes: 20 * time.Second, want: true, at: 20 * time.Second},
	} {
		synctest.Test(t, func(t *testing.T) {
			q := newWorkQueue([]Range{{File: 0, Count: meetChunks}, {File: 1, Count: meetChunks}, {File: 2, Count: 1}}, meetBytes)
			q.claim(0)
			q.claim(1)
			q.kept(0)
			q.begin(func() []Range { return []Range{{File: 2, Count: 1}} }, 1, time.Now())
			if share, _ := q.take(1); tc.lanes > 0 && share != nil {
				_ = sleep(t.Context(), tc.lanes)
				q.stored(cmp.Or(tc.came, meetBytes))
			}
			m, done, began := &making{queue: q}, make(chan struct{}), time.Now()
			made := time.AfterFunc(tc.takes, func() { close(done) })
			defer made.Stop()
			got := m.outlast(t.Context(), done, tc.before, func() time.Duration { return tc.lists })
			if took := time.Since(began); got != tc.want || took < tc.at || took > tc.at+2*makeAgain {
				t.Errorf("%s: %t after %s, want %t after %s", name, got, took, tc.want, tc.at)
			}
		})
	}
}

// TestGoAhead: the lanes begin when all is made, or after half of what passed, at
// least for makeAhead.
func TestGoAhead(t *testing.T) {
	for name, tc := range map[string]struct{ makes, half, want time.Duration }{
		"all is made":     {makes: time.Second / 4, want: time.Second / 4},
		"at least":        {makes: time.Hour, half: time.Second / 10, want: makeAhead},
		"half, and again": {makes: time.Hour, half: 30 * time.Second, want: 30 * time.Second},
	} {
		synctest.Test(t, func(t *testing.T) {
			began, done := time.Now(), make(chan struct{})
			made := time.AfterFunc(tc.makes, func() { close(done) })
			defer made.Stop()
			if goAhead(t.Context(), done, tc.half); time.Since(began) != tc.want {
				t.Errorf("%s: after %s, want %s", name, time.Since(began), tc.want)
			}
			ended, end := context.WithCancel(t.Context())
			end()
			goAhead(ended, make(chan struct{}), tc.half)
		})
	}
}

// TestMakingEnds: after a table that came out different, or a stage that can not be
// written, no other is begun; after one that was not made, others are.
func TestMakingEnds(t *testing.T) {
	for name, tc := range map[string]struct {
		err  error
		ends bool
	}{
		"made":      {},
		"not made":  {err: errors.New("no")},
		"not alike": {err: fmt.Errorf("it: %w", ErrNotAlike), ends: true},
		"stage":     {err: fmt.Errorf("it: %w", ErrStage), ends: true},
	} {
		m := &making{queue: newWorkQueue([]Range{{File: 1, Count: 1}}, 1), log: slog.New(slog.DiscardHandler), order: []candidate{{Table: record.Table{File: 1}}}}
		m.end(t.Context(), &candidate{}, &RecordSource{}, 0, 0, tc.err)
		if _, more := m.next(time.Now()); more == tc.ends {
			t.Errorf("%s: another is begun: %t", name, more)
		}
	}
	ended, end := context.WithCancel(t.Context())
	end()
	m := &making{queue: newWorkQueue([]Range{{File: 1, Count: 1}}, 1), delta: nil} // whose cost nobody asks for
	if m.plan(ended, []record.Table{{File: 1, Listable: true}}); m.order != nil {
		t.Error("planned after the end")
	}
}
