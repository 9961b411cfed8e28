package bench

import (
	"cmp"
	"slices"
	"time"
)

// spread is a median and the extremes.
type spread struct{ median, low, high float64 }

// over gives the spread of a value over samples; the zero spread of none.
func over(samples []Sample, of func(Sample) float64) spread {
	values := make([]float64, len(samples))
	for i, s := range samples {
		values[i] = of(s)
	}
	return spreadOf(values)
}

func spreadOf(values []float64) spread {
	if len(values) == 0 {
		return spread{}
	}
	s := slices.Sorted(slices.Values(values))
	mid := len(s) / 2
	median := s[mid]
	if len(s)%2 == 0 {
		median = (s[mid-1] + s[mid]) / 2
	}
	return spread{median: median, low: s[0], high: s[len(s)-1]}
}

// percentile is the smallest value that at least percent of all are not above;
// values are sorted. It is the zero value of none.
func percentile[T cmp.Ordered](sorted []T, percent int) T {
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

// slowest is how many slow puts are kept of a window.
const slowest = 24

// put is one put of a window.
type put struct{ at, took time.Duration }

// latencyOf takes what each put took, failed ones until they failed. puts is
// reordered.
func latencyOf(puts []put, failed int) Latency {
	slices.SortFunc(puts, func(a, b put) int { return cmp.Compare(a.took, b.took) })
	took := make([]time.Duration, len(puts))
	for i, p := range puts {
		took[i] = p.took
	}
	l := Latency{Puts: len(puts), Failed: failed, P50: ms(percentile(took, 50)), P99: ms(percentile(took, 99)), Max: ms(percentile(took, 100))}
	slow := puts[max(0, len(puts)-slowest):]
	slices.SortFunc(slow, func(a, b put) int { return cmp.Compare(a.at, b.at) })
	for _, p := range slow {
		l.Slow = append(l.Slow, Slow{p.at.Seconds(), ms(p.took)})
	}
	return l
}

func ms(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

// ratio is a over b; 0 when b is nothing to compare with.
func ratio(a, b float64) float64 {
	if b <= 0 {
		return 0
	}
	return a / b
}
