package netbench

import (
	"bytes"
	"context"
	"encoding/json"
	"os/exec"
	"strings"
	"time"

	"github.com/chainfire/cfseed/cmd/cfseed/internal/measure"
	"github.com/chainfire/cfseed/internal/fault"
)

// pulled is what was seen of one pull from outside.
type pulled struct {
	began, ended time.Time
	counts       []count
	usage        measure.Usage
}

// count is the bytes that had come down the line at a time.
type count struct {
	at    time.Time
	bytes int64
}

const (
	// lookEvery is how often the line is read, and a tenth as often the process.
	lookEvery = 2 * time.Millisecond
	// chatter is more bytes than a pull exchanges before the seed and after it.
	chatter = 128 << 10
)

// pull runs `cfseed pull` through the line and watches both.
func (b *bench) pull(ctx context.Context, dir string, into any) (p pulled, err error) {
	args := append([]string{"pull", "--from", b.line.Addr(), "--data-dir", dir, "--name", "target", "-o", "json", "--log-level", "warn"}, b.cfg.Flags...)
	cmd := exec.CommandContext(ctx, b.cfg.Binary, args...) //nolint:gosec // our own binary
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	p.began = time.Now()
	if err := cmd.Start(); err != nil {
		return p, fault.New(fault.Internal, "run", err)
	}
	seen, stop := b.follow()
	done := make(chan error, 1)
	go func() { done <- cmd.Wait() }()
	tick := time.NewTicker(10 * lookEvery)
	defer tick.Stop()
	for p.ended.IsZero() {
		select {
		case err = <-done:
			p.ended = time.Now()
		case <-tick.C:
			if peak, err := measure.PeakRSS(cmd.Process.Pid); err == nil { // else it has just ended
				p.usage.PeakRSS = max(p.usage.PeakRSS, peak)
			}
		}
	}
	stop()
	p.counts = seen.counts
	if err != nil {
		return p, fault.Newf(fault.Internal, "run", "cfseed %s: %w: %s%s", strings.Join(args, " "), err, stdout.Bytes(), stderr.Bytes())
	}
	p.usage.CPUSeconds = (cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime()).Seconds()
	return p, json.Unmarshal(stdout.Bytes(), into)
}

// sample is what a pull made of a line of rate bytes per second.
func (p pulled) sample(rate int64) Sample {
	s := Sample{Seconds: p.ended.Sub(p.began).Seconds(), Target: p.usage}
	if len(p.counts) == 0 {
		return s
	}
	all := p.counts[len(p.counts)-1].bytes
	first, last := p.ended, p.ended
	for i := len(p.counts) - 1; i >= 0; i-- {
		if c := p.counts[i]; c.bytes >= all-chatter {
			last = c.at
		}
		if c := p.counts[i]; c.bytes >= chatter {
			first = c.at
		}
	}
	s.BytesLine = all
	s.Before, s.Moving, s.After = first.Sub(p.began).Seconds(), last.Sub(first).Seconds(), p.ended.Sub(last).Seconds()
	s.LineUse, s.CommandUse = measure.Ratio(max(0, float64(all-2*chatter)), float64(rate)*s.Moving), measure.Ratio(float64(all), float64(rate)*s.Seconds)
	return s
}
