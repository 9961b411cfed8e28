package transfer

import (
	"cmp"
	"context"
	"net"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// sharedLine gives each that uses it the same part of it.
type sharedLine struct {
	mu    sync.Mutex
	rate  float64 // bytes a second
	users float64
}

// pass takes as long as so many bytes do beside others.
func (l *sharedLine) pass(ctx context.Context, bytes float64) {
	step := max(10*time.Millisecond, time.Duration(bytes/l.rate/50*float64(time.Second)))
	l.use(1)
	defer l.use(-1)
	for bytes > 0 {
		part := step.Seconds() * l.rate / l.use(0)
		_ = sleep(ctx, time.Duration(float64(step)*min(1, bytes/part)))
		bytes -= part
	}
}

func (l *sharedLine) use(n float64) float64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.users += n
	return l.users
}

// listOver lets a list come over the line, in pieces.
func (m *making) listOver(ctx context.Context, line *sharedLine, c meeting, src *RecordSource) {
	m.flow.turn()
	defer m.flow.over()
	for left := c.lists; left > 0; left -= recordsPiece {
		if c.source > 0 {
			_ = sleep(ctx, time.Duration(recordsPiece/c.source*float64(time.Second)))
		}
		line.pass(ctx, recordsPiece)
		m.flow.add(recordsPiece)
		src.wire += recordsPiece
	}
}

// TestListsGoFirst: over a slow line the lanes wait for lists, of which tables are
// made sooner than they could be fetched. Where a list takes long for another reason
// nobody waits: a fast line, or a source that is slow to make it.
func TestListsGoFirst(t *testing.T) {
	const tables, list = 20, 4 << 20
	for name, tc := range map[string]struct {
		meeting
		least, most int // tables made
		within      time.Duration
	}{
		// 80 MiB of lists, a chunk that shows how slow the line is, and the last tables.
		"a slow line":                  {meeting{line: 2, rate: 300 << 20, lists: list}, 19, 20, 50 * time.Second},
		"a slow line, many lanes":      {meeting{line: 2, rate: 300 << 20, lists: list, lanes: 8}, 19, 20, 50 * time.Second},
		"a fast line":                  {meeting{line: 1000, rate: 300 << 20, lists: list}, 8, 12, 2 * time.Second},
		"a slow source, a fast line":   {meeting{line: 200, rate: 300 << 20, lists: list, source: 2 << 20}, 1, 6, 6 * time.Second},
		"slow processors, a slow line": {meeting{line: 20, rate: 10 << 20, lists: list}, 2, 10, 32 * time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			tc.lanes = cmp.Or(tc.lanes, shortLanes)
			tc.before = time.Second
			got := tc.run(t, tables)
			if n := len(got.made); n < tc.least || n > tc.most {
				t.Errorf("%d tables were made, want %d to %d", n, tc.least, tc.most)
			}
			if got.took > tc.within {
				t.Errorf("it took %s, want %s at most", got.took, tc.within)
			}
		})
	}
}

// TestHeldLane: while a lane may ask for nothing, the source's silence is not held
// against it, and it lets go of a channel that the source would end.
func TestHeldLane(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		here, there := net.Pipe()
		defer func() { _ = there.Close() }()
		idle := newIdleTimer(nil)
		l := &lane{round: &round{puller: &puller{idle: idle}}, plugged: newChannel(here, newBufferPool()), release: func() bool { return true }}
		began := time.Now()
		q := newWorkQueue([]Range{{Count: 1}}, 1)
		q.gate = func(now time.Time) (hold, probe bool) {
			if d := idle.since(); d != 0 {
				t.Errorf("the source has been waited for %s", d)
			}
			if held := now.Sub(began); held < laneRest && l.plugged == nil {
				t.Fatalf("it has let go after %s", held)
			}
			return now.Sub(began) < 2*laneRest, false
		}
		idle.turn()
		if ranges, err := l.share(t.Context(), q, 1, false); ranges != nil || err != nil {
			t.Errorf("beside another share: %v, %v", ranges, err)
		}
		if ranges, err := l.share(t.Context(), q, 1, true); len(ranges) != 1 || err != nil || time.Since(began) < 2*laneRest {
			t.Errorf("%v after %s, %v", ranges, time.Since(began), err)
		}
		if l.plugged != nil || channelPause <= laneRest {
			t.Error("the source would have ended the channel")
		}
		ended, end := context.WithCancel(t.Context())
		end()
		q.put([]Range{{Count: 1}})
		q.gate = func(time.Time) (hold, probe bool) { return true, false }
		if _, err := l.share(ended, q, 1, true); err == nil {
			t.Error("it waits on after the end")
		}
	})
}
