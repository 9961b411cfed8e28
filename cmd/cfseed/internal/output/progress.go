package output

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"sync"
	"time"

	"github.com/vbauerster/mpb/v8"
	"github.com/vbauerster/mpb/v8/decor"

	chainfirev1 "github.com/chainfire/cfseed/proto/chainfire/v1"
)

// Progress shows how far a long command is. Its methods may be called from
// several goroutines; after Close they do nothing.
type Progress interface {
	// Phase begins a part of the work and ends the one before.
	Phase(name string)
	// Transfer says how many bytes of the seed the target has, how many of them
	// crossed the wire, and how fast it goes.
	Transfer(done, total, wire uint64, perSecond float64)
	// Forecast says how the transfer will end. It may be told often: it is shown
	// at first, when it turns, and now and then. nil is none.
	Forecast(f *chainfirev1.Forecast)
	// Queued says that the source has no slot yet. nil is none.
	Queued(q *chainfirev1.SeedQueue)
	// Close ends the last phase; ok says whether the work was done. It waits
	// until everything is drawn.
	Close(ok bool)
}

// NewProgress draws bars on w when it is a terminal, and logs lines otherwise.
func NewProgress(w io.Writer, terminal bool, log *slog.Logger) Progress {
	if terminal {
		return &bars{screen: mpb.New(mpb.WithOutput(w), mpb.WithWidth(60))}
	}
	return &lines{log: log}
}

// lines logs each phase, and a transfer at each tenth of the way.
type lines struct {
	mu     sync.Mutex
	log    *slog.Logger
	phase  string
	tenth  uint64
	said   foretold
	closed bool
}

func (l *lines) Phase(name string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed || name == l.phase {
		return
	}
	l.phase, l.tenth = name, 0
	l.log.Info("phase", "name", name)
}

func (l *lines) Transfer(done, total, wire uint64, perSecond float64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed || total == 0 {
		return
	}
	tenth := uint64(float64(min(done, total)) / float64(total) * 10)
	if tenth <= l.tenth {
		return
	}
	l.tenth = tenth
	l.log.Info("transfer", "percent", tenth*10, "done", Size(done), "total", Size(total),
		"wire", Size(wire), "rate", Size(uint64(perSecond))+"/s")
}

func (l *lines) Forecast(f *chainfirev1.Forecast) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed || !l.said.worth(f, time.Now()) {
		return
	}
	level := slog.LevelInfo
	if !f.GetConverges() {
		level = slog.LevelWarn
	}
	l.log.Log(context.Background(), level, "forecast: "+ForecastLine(f))
}

func (l *lines) Queued(q *chainfirev1.SeedQueue) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.closed && q != nil {
		l.log.Info("waiting for a slot at the source", "source", q.GetSource(), "served", q.GetServed(), "waiting", q.GetWaiting())
	}
}

func (l *lines) Close(bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.closed = true
}

// bars draws one bar per phase; the one that moves bytes has a length.
type bars struct {
	mu     sync.Mutex
	screen *mpb.Progress
	phase  string
	bar    *mpb.Bar
	total  int64 // of bar; 0: the phase has no length
	said   foretold
	closed bool
}

func (b *bars) Phase(name string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed || name == b.phase {
		return
	}
	b.end(true)
	b.phase = name
	b.bar = b.screen.New(0, mpb.SpinnerStyle(), mpb.BarFillerClearOnComplete(),
		mpb.PrependDecorators(decor.Name(name, decor.WCSyncSpaceR)),
		mpb.AppendDecorators(decor.Elapsed(decor.ET_STYLE_GO), decor.OnComplete(decor.Name(""), " done")))
}

func (b *bars) Transfer(done, total, _ uint64, _ float64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed || total == 0 {
		return
	}
	if b.bar == nil || b.total == 0 {
		if b.bar != nil {
			b.bar.Abort(true)
		}
		b.total = int64(total)
		b.bar = b.screen.New(b.total, mpb.BarStyle(),
			mpb.PrependDecorators(decor.Name(b.phase, decor.WCSyncSpaceR), decor.CountersKibiByte("% .1f / % .1f")),
			mpb.AppendDecorators(decor.Percentage(), decor.AverageSpeed(decor.SizeB1024(0), " % .1f"),
				decor.AverageETA(decor.ET_STYLE_GO, decor.WC{W: 8})))
	}
	b.bar.SetCurrent(int64(min(done, total)))
}

func (b *bars) Forecast(f *chainfirev1.Forecast) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed || !b.said.worth(f, time.Now()) {
		return
	}
	_, _ = fmt.Fprintln(b.screen, ForecastLine(f)) // above the bars; there is nobody else to tell
}

func (b *bars) Queued(q *chainfirev1.SeedQueue) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if !b.closed && q != nil {
		_, _ = fmt.Fprintf(b.screen, "waiting for a slot at %s: it serves %d seeds, %d wait\n", q.GetSource(), q.GetServed(), q.GetWaiting())
	}
}

// end finishes the current bar; the caller holds mu.
func (b *bars) end(ok bool) {
	switch {
	case b.bar == nil:
		return
	case !ok:
		b.bar.Abort(false)
	case b.total > 0: // such a bar ends when it is full, and in no other way
		b.bar.SetCurrent(b.total)
	default:
		b.bar.SetTotal(1, true)
	}
	b.bar, b.total = nil, 0
}

func (b *bars) Close(ok bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed {
		return
	}
	b.closed = true
	b.end(ok)
	b.screen.Wait()
}
