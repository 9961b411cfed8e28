package join

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/datadriven"

	"github.com/chainfire/cfseed/internal/ident"
	chainfirev1 "github.com/chainfire/cfseed/proto/chainfire/v1"
	"github.com/chainfire/cfseed/transfer"
)

func TestForesee(t *testing.T) {
	const mb = 1e6
	datadriven.RunTest(t, "testdata/forecast", func(t *testing.T, d *datadriven.TestData) string {
		var total, room uint64
		d.ScanArgs(t, "total", &total)
		d.ScanArgs(t, "room", &room)
		after := time.Second
		if d.HasArg("after") {
			var s string
			d.ScanArgs(t, "after", &s)
			after, _ = time.ParseDuration(s)
		}
		began := time.Unix(1000, 0)
		looks := map[string]look{}
		for _, line := range strings.Split(strings.TrimSpace(d.Input), "\n") {
			fields := strings.Fields(line)
			l := look{at: began, total: total * mb, room: room * mb}
			packed := false
			for _, f := range fields[1:] {
				name, value, _ := strings.Cut(f, "=")
				var n uint64
				if _, err := fmt.Sscan(value, &n); err != nil {
					t.Fatal(err)
				}
				switch name {
				case "done":
					l.done = n * mb
				case "wire":
					l.wire, packed = n*mb, true
				case "applied":
					l.applied = n
				case "used":
					l.used = n * mb
				case "behind":
					l.behind = n
				default:
					d.Fatalf(t, "what is %s", name)
				}
			}
			if !packed {
				l.wire = l.done
			}
			looks[fields[0]] = l
		}
		to := looks["to"]
		to.at = began.Add(after)
		f := foresee(looks["from"], to)
		if f == nil {
			return "nothing\n"
		}
		out := fmt.Sprintf("%.1f s, %d entries behind; %.1f MB/s written, %.1f MB/s fetched", f.GetSeconds(), f.GetEntriesBehind(),
			f.GetWrittenBytesPerSecond()/mb, f.GetFetchedBytesPerSecond()/mb)
		if f.GetConverges() {
			return "converges: " + out + "\n"
		}
		out = fmt.Sprintf("does not converge: %s; needs %.1f MB/s", out, f.GetNeededBytesPerSecond()/mb)
		if room := float64(f.GetLeaseBytesNeeded()); room > 0 {
			out += fmt.Sprintf(" or a lease of %.1f MB", room/mb)
		}
		return out + "\n"
	})
}

// A forecaster asks the cluster while bytes come, and tells what it makes of two
// answers; it is silent before there is a seed, and ends when it is told to.
func TestForecaster(t *testing.T) {
	c := &cluster{tails: []*chainfirev1.GetTailResponse{
		{Applied: PositionOf(ident.Position{Term: 2, Index: 140}), LeaseBytes: 1 << 20, LeaseCapBytes: 1 << 30},
		{Applied: PositionOf(ident.Position{Term: 2, Index: 150}), LeaseBytes: 2 << 20, LeaseCapBytes: 1 << 30}}}
	told := make(chan *chainfirev1.Forecast, 1)
	now := time.Unix(1000, 0)
	n, _ := newcomer(t, c, func(cfg *Config) {
		cfg.Now = func() time.Time { now = now.Add(time.Second); return now }
		cfg.Foreseen = func(f *chainfirev1.Forecast) {
			select {
			case told <- f:
			default:
			}
		}
	})
	f := &forecaster{n: n}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	stop := f.start(ctx)
	defer stop()
	f.opened(transfer.Event{Kind: transfer.EventRetry, Meta: transfer.Meta{LeaseID: 1}}) // not this
	f.opened(transfer.Event{Kind: transfer.EventOpened, Meta: transfer.Meta{LeaseID: 9, Position: ident.Position{Term: 2, Index: 100}}})
	for moved := uint64(0); ; moved += 1 << 20 {
		f.progress(transfer.Progress{BytesDone: moved, BytesTotal: 1 << 40, BytesWire: moved})
		select {
		case got := <-told:
			if got.GetEntriesBehind() < 50 || got.GetWrittenBytesPerSecond() != 1<<20 {
				t.Errorf("%v", got)
			}
			stop()
			if asked := c.firstTail(); asked.GetLeaseId() != 9 || asked.GetMaxBytes() != 0 || asked.GetAfter().GetIndex() != 100 {
				t.Errorf("asked %v", asked)
			}
			return
		case <-time.After(10 * time.Millisecond):
		}
	}
}
