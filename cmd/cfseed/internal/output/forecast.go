package output

import (
	"fmt"
	"math"
	"time"

	chainfirev1 "github.com/chainfire/cfseed/proto/chainfire/v1"
)

// ForecastLine says in a line how a seed under way will end, and what to do if
// not well.
func ForecastLine(f *chainfirev1.Forecast) string {
	written, fetched := speed(f.GetWrittenBytesPerSecond()), speed(f.GetFetchedBytesPerSecond())
	if f.GetConverges() {
		return fmt.Sprintf("done in %s; about %d entries behind then (%s written, %s fetched)",
			roughly(f.GetSeconds()), f.GetEntriesBehind(), written, fetched)
	}
	line := fmt.Sprintf("will not converge: %s written, %s fetched; raise --rate-limit above %s", written, fetched, speed(f.GetNeededBytesPerSecond()))
	if room := f.GetLeaseBytesNeeded(); room > 0 {
		line += " or --lease-bytes above " + Size(room)
	}
	return line
}

func speed(bytesPerSecond float64) string { return Size(uint64(bytesPerSecond)) + "/s" }

// roughly rounds a time ahead to what can be known of it.
func roughly(seconds float64) time.Duration {
	switch d := time.Duration(math.Ceil(min(seconds, 1e9))) * time.Second; {
	case d < 2*time.Minute:
		return d
	default:
		return d.Round(time.Minute)
	}
}

// foretold remembers what was said of the future.
type foretold struct {
	last      time.Time
	converges bool
}

// forecastEvery is how often a forecast that does not turn is said again.
const forecastEvery = 10 * time.Second

func (s *foretold) worth(f *chainfirev1.Forecast, now time.Time) bool {
	if f == nil || (!s.last.IsZero() && s.converges == f.GetConverges() && now.Sub(s.last) < forecastEvery) {
		return false
	}
	s.last, s.converges = now, f.GetConverges()
	return true
}
