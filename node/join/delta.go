package join

import (
	"context"
	"errors"

	"github.com/chainfire/cfseed/internal/fault"
	"github.com/chainfire/cfseed/snapshot"
	"github.com/chainfire/cfseed/transfer"
)

// The ways in which a pull uses a base: the files that the seed shares with it, or
// its records, of which those that differ are fetched.
const (
	DeltaAuto   = "auto" // whichever is estimated to be there first
	DeltaFiles  = "files"
	DeltaRanges = "ranges"
)

// What comparing records is taken to cost.
const (
	// compareRate is the bytes of records that a processor reads, hashes and
	// compares in a second, about (BenchmarkDeltaCompare of package snapshot).
	compareRate = 256 << 20
	// comparePasses is how often all records are read, one time after the other:
	// by the source for its list, by the target beside it, by both where spans
	// differ, and by the target to prove what it made of them.
	comparePasses = 5
	// compareLeast is how many bytes of files must be missing for a look at the
	// records to be worth its time.
	compareLeast = 1 << 20
)

// facts are what a choice between the two ways is made from, in bytes.
type facts struct {
	files    uint64  // of the seed's files that the base does not have
	wire     uint64  // that a sample of the records moved ...
	compared uint64  // ... which was of so many
	base     uint64  // of all records of the base
	growth   uint64  // by which the seed's files exceed those of the base
	line     float64 // per second; 0: not known, which is taken for fast
}

// forecastOf says what the two ways would take.
type forecastOf struct {
	by                        string
	why                       string
	filesSeconds, rangesBytes float64
	rangesSeconds             float64
}

// weigh chooses the way that is there first.
func weigh(f facts) forecastOf {
	out := forecastOf{by: DeltaFiles, rangesBytes: float64(f.growth)}
	if f.compared > 0 {
		out.rangesBytes = max(out.rangesBytes, float64(f.wire)/float64(f.compared)*float64(f.base))
	}
	switch {
	case f.files < compareLeast:
		out.why = "few bytes of files are missing"
		return out
	case f.line <= 0:
		out.why = "the line is too fast to be measured"
		return out
	}
	out.filesSeconds = float64(f.files) / f.line
	out.rangesSeconds = out.rangesBytes/f.line + comparePasses*float64(f.base)/compareRate
	if out.rangesSeconds < out.filesSeconds {
		out.by, out.why = DeltaRanges, "the records that differ are there before the files"
	} else {
		out.why = "the files are there before the records that differ"
	}
	return out
}

// delta makes the seed of a pull from a base, when that is the better way. It is
// used by one goroutine.
type delta struct {
	cfg   Config
	by    string          // the way that was chosen; "": none was yet
	work  *snapshot.Delta // nil: not open
	src   *transfer.SpanSource
	built *snapshot.Seed // nil: nothing was
	room  uint64         // bytes of the seed that the spans stand for
	told  uint64         // of these, reported as done
}

// newDelta gives nil without a base.
func newDelta(cfg Config) *delta {
	if cfg.Base == "" {
		return nil
	}
	d := &delta{cfg: cfg}
	if cfg.DeltaBy == DeltaFiles || cfg.DeltaBy == DeltaRanges {
		d.choose(forecastOf{by: cfg.DeltaBy, why: "as asked for"}, facts{})
	}
	return d
}

// Build implements transfer.Delta.
func (d *delta) Build(ctx context.Context, src *transfer.SpanSource) (bool, error) {
	if d.by == DeltaFiles {
		return false, nil
	}
	d.src = src
	err := d.build(ctx)
	if err == nil {
		return d.built != nil, nil
	}
	if d.cfg.DeltaBy == DeltaRanges || ctx.Err() != nil || !mendedByFiles(err) {
		return false, err
	}
	d.log("the records can not be compared; the files are fetched", "err", err)
	d.by = DeltaFiles
	return false, d.closeWork()
}

// mendedByFiles reports whether the other way may do where comparing records
// failed.
func mendedByFiles(err error) bool {
	switch fault.CodeOf(err) {
	case fault.Refused, fault.Corrupt, fault.NoSpace, fault.Usage:
		return true
	}
	return false
}

func (d *delta) build(ctx context.Context) (err error) {
	if d.by == "" {
		if err := d.decide(ctx); err != nil || d.by == DeltaFiles {
			return err
		}
	}
	if err := d.open(ctx); err != nil {
		return err
	}
	d.room = max(d.src.Missing(), d.told)
	d.built, err = d.work.Build(ctx, d.src, d.src.Manifest())
	return err
}

// open makes the copy of the base, once.
func (d *delta) open(ctx context.Context) (err error) {
	if d.work == nil {
		d.work, err = snapshot.OpenDelta(ctx, d.cfg.Dir, d.cfg.Base, d.ahead)
	}
	return err
}

// decide chooses the way: by what is missing, then by the line, then by what a
// sample of the records tells, as each costs more than the one before.
func (d *delta) decide(ctx context.Context) (err error) {
	f := facts{files: d.src.Missing()}
	if f.files >= compareLeast {
		if f.line, err = d.src.Line(ctx); err != nil {
			return err
		}
		f.files = d.src.Missing()
	}
	if f.files < compareLeast || f.line == 0 {
		d.choose(weigh(f), f)
		return nil
	}
	if err := d.open(ctx); err != nil {
		return err
	}
	before := d.src.Wire()
	found, err := d.work.Sample(ctx, d.src)
	if err != nil {
		return err
	}
	f.wire, f.compared, f.base = d.src.Wire()-before, found.Compared, found.Base
	if total := d.src.Manifest().TotalBytes(); total > found.BaseFiles {
		f.growth = total - found.BaseFiles
	}
	if d.choose(weigh(f), f); d.by == DeltaFiles {
		return d.closeWork()
	}
	return nil
}

func (d *delta) choose(c forecastOf, f facts) {
	d.by = c.by
	if f == (facts{}) {
		d.log("delta by "+c.by, "why", c.why)
		return
	}
	d.log("delta by "+c.by, "why", c.why, "files_bytes", f.files, "ranges_bytes", uint64(c.rangesBytes),
		"line_bytes_per_second", uint64(f.line), "files_seconds", c.filesSeconds, "ranges_seconds", c.rangesSeconds)
}

func (d *delta) log(message string, args ...any) {
	if d.cfg.Logger != nil {
		d.cfg.Logger.Info(message, args...)
	}
}

// ahead turns spans that are done into bytes of the seed.
func (d *delta) ahead(done, total uint64) {
	if now := uint64(float64(d.room) * float64(done) / float64(max(total, 1))); now > d.told {
		d.src.Stored(int(now - d.told))
		d.told = now
	}
}

func (d *delta) closeWork() error {
	if d.work == nil {
		return nil
	}
	err := d.work.Close()
	d.work = nil
	return err
}

// close removes what is left of the delta; d may be nil.
func (d *delta) close() error {
	if d == nil {
		return nil
	}
	err := d.closeWork()
	if d.built != nil {
		err = errors.Join(err, d.built.Remove())
	}
	return err
}

// way is what was chosen; "" without a base.
func (d *delta) way() string {
	if d == nil {
		return ""
	}
	return d.by
}

// stageBuilt stages the seed that was built from a base, in place of the
// source's, as that of a stopped member.
func (n *Newcomer) stageBuilt(ctx context.Context, d *delta, sources *snapshot.Stage, result *transfer.PullResult) (*snapshot.Stage, error) {
	if err := errors.Join(sources.Close(), d.closeWork()); err != nil {
		return nil, err
	}
	if _, err := d.built.StageIn(n.cfg.Dir); err != nil {
		return nil, err
	}
	stage, err := snapshot.OpenStage(ctx, n.cfg.Dir, d.built.ManifestBytes())
	if err != nil {
		return nil, err
	}
	quiet := n.cfg
	quiet.Moved = nil // nothing crosses the wire any more
	_, err = copyChunks(ctx, quiet, d.built, stage)
	if err := errors.Join(err, d.built.Remove()); err != nil {
		return nil, errors.Join(err, stage.Close())
	}
	m := d.built.Manifest()
	result.ManifestBytes, result.Meta.Root, result.Meta.Files = d.built.ManifestBytes(), d.built.Root(), uint64(len(m.Files))
	result.Meta.BytesTotal, result.BytesTotal = m.TotalBytes(), m.TotalBytes()
	result.BytesReused = m.TotalBytes() - min(result.BytesWire, m.TotalBytes())
	return stage, nil
}
