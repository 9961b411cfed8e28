package join

import (
	"strings"
	"testing"

	"github.com/chainfire/cfseed/internal/fault"
)

// TestWeigh: ranges are chosen where the line is slow enough for what they save,
// and never where nothing is known of it.
func TestWeigh(t *testing.T) {
	// 1 GiB of records, 440 MB of files of which half are missing; the records that
	// differ are a tenth of what the files are.
	most := facts{files: 220 << 20, wire: 90 << 10, compared: 4 << 20, base: 1 << 30}
	with := func(change func(f *facts)) facts {
		f := most
		change(&f)
		return f
	}
	for _, c := range []struct {
		name string
		f    facts
		by   string
		why  string
	}{
		{"a slow line", with(func(f *facts) { f.line = 1 << 20 }), DeltaRanges, "before the files"},
		{"a fast line", with(func(f *facts) { f.line = 100 << 20 }), DeltaFiles, "before the records"},
		{"an unknown line", most, DeltaFiles, "too fast"},
		{"little is missing", with(func(f *facts) { f.files, f.line = compareLeast-1, 1<<10 }), DeltaFiles, "few bytes"},
		{"nothing is missing", facts{line: 1}, DeltaFiles, "few bytes"},
		{"all records differ", with(func(f *facts) { f.wire, f.line = f.compared, 1<<20 }), DeltaFiles, "before the records"},
		{"an empty base", facts{files: 1 << 30, growth: 1 << 30, line: 1 << 20}, DeltaFiles, "before the records"},
		{"nothing differs but the files", with(func(f *facts) { f.wire, f.line = 0, 10<<20 }), DeltaRanges, "before the files"},
	} {
		got := weigh(c.f)
		if got.by != c.by || !strings.Contains(got.why, c.why) {
			t.Errorf("%s: %s, %s (%+v)", c.name, got.by, got.why, got)
		}
	}
	got := weigh(with(func(f *facts) { f.line = 1 << 20 }))
	if mib := got.rangesBytes / (1 << 20); mib < 22 || mib > 24 || got.filesSeconds != 220 || got.rangesSeconds <= mib {
		t.Errorf("%+v", got)
	}
}

// What only files can mend is told from what ends the pull.
func TestMendedByFiles(t *testing.T) {
	for code, want := range map[fault.Code]bool{
		fault.Refused: true, fault.Corrupt: true, fault.NoSpace: true, fault.Usage: true,
		fault.Unreachable: false, fault.LeaseLost: false, fault.Internal: false, fault.Permission: false,
	} {
		if got := mendedByFiles(fault.Newf(code, "op", "text")); got != want {
			t.Errorf("%s: %t", code, got)
		}
	}
}

// Without a base there is no delta; with one asked for by name it is chosen at
// once.
func TestNewDelta(t *testing.T) {
	if d := newDelta(Config{DeltaBy: DeltaRanges}); d != nil || d.way() != "" || d.close() != nil {
		t.Error("a delta without a base")
	}
	for _, by := range []string{DeltaFiles, DeltaRanges} {
		if d := newDelta(Config{Base: "old", DeltaBy: by}); d.way() != by {
			t.Errorf("%s was asked for, it is %s", by, d.way())
		}
	}
	if d := newDelta(Config{Base: "old"}); d.way() != "" {
		t.Errorf("%s before anything is known", d.way())
	}
}

// The directory of a stopped member is not asked about its records.
func TestPullOfRecordsFromADirectory(t *testing.T) {
	cfg := PullConfig{Donor: "donor", Config: Config{DeltaBy: DeltaRanges}}
	if _, err := pullAnew(t.Context(), cfg); !fault.Is(err, fault.Usage) {
		t.Errorf("%v", err)
	}
}
