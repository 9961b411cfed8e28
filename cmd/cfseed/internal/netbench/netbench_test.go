package netbench

import (
	"bytes"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/chainfire/cfseed/cmd/cfseed/internal/measure"
	"github.com/chainfire/cfseed/internal/fault"
	"github.com/chainfire/cfseed/internal/shape"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// TestSample: the shares of a line, reckoned by hand.
func TestSample(t *testing.T) {
	const rate = 1 << 20
	start := time.Now()
	p := pulled{began: start, ended: start.Add(20 * time.Second)}
	for _, c := range []struct {
		after time.Duration
		bytes int64
	}{
		{0, 0}, {time.Second, chatter - 1}, {2 * time.Second, chatter}, {5 * time.Second, 3 << 20},
		{18 * time.Second, 8<<20 + chatter - 1}, {19 * time.Second, 8<<20 + chatter}, {20 * time.Second, 8<<20 + 2*chatter},
	} {
		p.counts = append(p.counts, count{start.Add(c.after), c.bytes})
	}
	s := p.sample(rate)
	if s.Seconds != 20 || s.Before != 2 || s.Moving != 17 || s.After != 1 || s.BytesLine != 8<<20+2*chatter {
		t.Errorf("%+v", s)
	}
	if got, want := s.LineUse, 8.0/17; got < want-1e-6 || got > want+1e-6 {
		t.Errorf("%v of the line, want %v", got, want)
	}
	if got, want := s.CommandUse, 8.25/20; got < want-1e-6 || got > want+1e-6 {
		t.Errorf("%v over the command, want %v", got, want)
	}
	if s := (pulled{began: start, ended: start}).sample(rate); s.LineUse != 0 || s.CommandUse != 0 {
		t.Errorf("of nothing: %+v", s)
	}
}

// TestRowsMiss: a pull that leaves the line idle, or takes memory, is a missed
// bound, and only that.
func TestRowsMiss(t *testing.T) {
	verdicts := func(s Sample) string {
		var out []string
		for _, r := range rows(Cell{Samples: []Sample{s}}) {
			if r.Verdict != "" {
				out = append(out, r.Verdict)
			}
		}
		return strings.Join(out, " ")
	}
	good := Sample{LineUse: 0.9, SourceIdle: 1 << 30, Source: measure.Usage{PeakRSS: 1<<30 + 10<<20}, Target: measure.Usage{PeakRSS: 60 << 20}}
	if got := verdicts(good); got != "ok ok ok" {
		t.Error(got)
	}
	slow, source, target := good, good, good
	slow.LineUse = 0.84
	source.Source.PeakRSS = 1<<30 + 65<<20
	target.Target.PeakRSS = 65 << 20
	for want, s := range map[string]Sample{"MISSED ok ok": slow, "ok MISSED ok": source, "ok ok MISSED": target} {
		if got := verdicts(s); got != want {
			t.Errorf("%s, want %s", got, want)
		}
	}
	var text bytes.Buffer
	Report{Window: 3 << 20, Cells: []Cell{{RTT: 0.05, Mbit: 100, Samples: []Sample{good}, Rows: rows(Cell{Samples: []Sample{slow}})}}}.Write(&text)
	for _, want := range []string{"50ms round trip, 100 Mbit/s", "84.0 %", "MISSED", "3.0 MiB"} {
		if !strings.Contains(text.String(), want) {
			t.Errorf("no %q in:\n%s", want, text.String())
		}
	}
}

func TestCheck(t *testing.T) {
	good := Config{RTTs: []time.Duration{0}, Mbits: []int{1}, Busy: time.Second, Runs: 1}
	if err := good.Check(); err != nil {
		t.Error(err)
	}
	for name, change := range map[string]func(*Config){
		"no rtt":   func(c *Config) { c.RTTs = nil },
		"no rate":  func(c *Config) { c.Mbits = nil },
		"rtt":      func(c *Config) { c.RTTs[0] = 3 * time.Second },
		"negative": func(c *Config) { c.RTTs[0] = -1 },
		"rate":     func(c *Config) { c.Mbits[0] = 0 },
		"runs":     func(c *Config) { c.Runs = 0 },
		"busy":     func(c *Config) { c.Busy = time.Millisecond },
	} {
		bad := good
		bad.RTTs, bad.Mbits = []time.Duration{0}, []int{1}
		change(&bad)
		if err := bad.Check(); !fault.Is(err, fault.Usage) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestPlain sends bytes over a line by TCP alone: all of them are seen.
func TestPlain(t *testing.T) {
	line, err := shape.New("127.0.0.1:1", 1)
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := line.Close(); err != nil {
			t.Error(err)
		}
	}()
	b := &bench{line: line, direct: "127.0.0.1:1"}
	const size = 8 << 20
	use, err := b.plain(t.Context(), 1<<30, size)
	if err != nil || use <= 0 || line.Bytes(shape.Down) != size {
		t.Errorf("%v of the line, %d bytes of %d, %v", use, line.Bytes(shape.Down), size, err)
	}
}

// TestValues: the same for the same number, of the right size, and not
// compressible by repetition.
func TestValues(t *testing.T) {
	if a, b := value(7), value(7); !bytes.Equal(a, b) || len(a) != valueBytes || bytes.Equal(a, value(8)) || bytes.Equal(a[:100], a[100:200]) {
		t.Error("values are not what they are said to be")
	}
}
