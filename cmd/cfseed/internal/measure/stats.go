package measure

import (
	"cmp"
	"slices"
	"time"
)

// Spread is a median and the extremes.
type Spread struct{ Median, Low, High float64 }

// Over gives the spread of a value over samples; the zero Spread of none.
func Over[S any](samples []S, of func(S) float64) Spread {
	values := make([]float64, len(samples))
	for i, s := range samples {
		values[i] = of(s)
	}
	return SpreadOf(values)
}

// SpreadOf gives the spread of values; the zero Spread of none.
func SpreadOf(values []float64) Spread {
	if len(values) == 0 {
		return Spread{}
	}
	s := slices.Sorted(slices.Values(values))
	mid := len(s) / 2
	median := s[mid]
	if len(s)%2 == 0 {
		median = (s[mid-1] + s[mid]) / 2
	}
	return Spread{Median: median, Low: s[0], High: s[len(s)-1]}
}

// Percentile is the smallest value that at least percent of all are not above;
// values are sorted. It is the zero value of none.
func Percentile[T cmp.Ordered](sorted []T, percent int) T {
	if len(sorted) == 0 {
		var none T
		return none
	}
	rank := (percent*len(sorted) + 99) / 100
	return sorted[min(max(rank, 1), len(sorted))-1]
}

// Latency is of puts, in milliseconds, each counted from the moment it was due.
type Latency struct {
	Puts   int     `json:"puts"`
	Failed int     `json:"failed"`
	P50    float64 `json:"p50_ms"`
	P99    float64 `json:"p99_ms"`
	Max    float64 `json:"max_ms"`
	Slow   []Slow  `json:"slow,omitempty"` // the slowest, by the time at which they were due
	// OtherCores is how many processors the rest of the machine kept busy
	// meanwhile: other programs, and the kernel on its own account.
	OtherCores float64 `json:"other_cores"`
}

// Slow is one slow put.
type Slow struct {
	At float64 `json:"at_seconds"` // from the beginning of the window
	Ms float64 `json:"ms"`
}

// Slowest is how many slow puts are kept of a window.
const Slowest = 24

// Put is one put of a window: when it was due, from the beginning of the window,
// and how long it took from then.
type Put struct{ At, Took time.Duration }

// LatencyOf takes what each put took, failed ones until they failed. puts is
// reordered.
func LatencyOf(puts []Put, failed int) Latency {
	slices.SortFunc(puts, func(a, b Put) int { return cmp.Compare(a.Took, b.Took) })
	took := make([]time.Duration, len(puts))
	for i, p := range puts {
		took[i] = p.Took
	}
	l := Latency{Puts: len(puts), Failed: failed, P50: ms(Percentile(took, 50)), P99: ms(Percentile(took, 99)), Max: ms(Percentile(took, 100))}
	slow := puts[max(0, len(puts)-Slowest):]
	slices.SortFunc(slow, func(a, b Put) int { return cmp.Compare(a.At, b.At) })
	for _, p := range slow {
		l.Slow = append(l.Slow, Slow{p.At.Seconds(), ms(p.Took)})
	}
	return l
}

func ms(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

// Ratio is a over b; 0 when b is nothing to compare with.
func Ratio(a, b float64) float64 {
	if b <= 0 {
		return 0
	}
	return a / b
}
