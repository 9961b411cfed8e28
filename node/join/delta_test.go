package join

import (
	"testing"

	"github.com/chainfire/cfseed/internal/fault"
	"github.com/chainfire/cfseed/transfer"
)

// TestWayOf: what is told of a delta is what became of it.
func TestWayOf(t *testing.T) {
	made := transfer.Made{Tables: 1}
	for _, c := range []struct {
		base, by string
		made     transfer.Made
		want     string
	}{
		{"", DeltaAuto, transfer.Made{}, ""},
		{"", DeltaRanges, made, ""},
		{"old", DeltaAuto, transfer.Made{}, DeltaFiles},
		{"old", DeltaAuto, made, DeltaRanges},
		{"old", DeltaFiles, transfer.Made{BytesShared: 1}, DeltaFiles},
		{"old", DeltaRanges, transfer.Made{}, DeltaRanges},
	} {
		if got := wayOf(Config{Base: c.base, DeltaBy: c.by}, c.made); got != c.want {
			t.Errorf("%+v: %q", c, got)
		}
	}
}

// The directory of a stopped member is not asked about its records.
func TestPullOfRecordsFromADirectory(t *testing.T) {
	cfg := PullConfig{Donor: "donor", Config: Config{DeltaBy: DeltaRanges}}
	if _, err := pullAnew(t.Context(), cfg); !fault.Is(err, fault.Usage) {
		t.Errorf("%v", err)
	}
}
