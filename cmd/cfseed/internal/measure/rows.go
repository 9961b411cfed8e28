package measure

import (
	"fmt"
	"io"

	"github.com/chainfire/cfseed/cmd/cfseed/internal/output"
)

// Row is one line of a table. Bound and Verdict are empty where nothing is
// expected; a row with a Note has no figures, and says why.
type Row struct {
	Name    string  `json:"name"`
	Unit    string  `json:"unit"`
	Median  float64 `json:"median"`
	Low     float64 `json:"low"`
	High    float64 `json:"high"`
	Bound   string  `json:"bound,omitempty"`
	Verdict string  `json:"verdict,omitempty"` // Within or Missed
	Note    string  `json:"note,omitempty"`
}

// Verdicts.
const (
	Within = "ok"
	Missed = "MISSED"
)

// RowOf is the row of a value over samples.
func RowOf[S any](name, unit string, samples []S, of func(S) float64) Row {
	s := Over(samples, of)
	return Row{Name: name, Unit: unit, Median: s.Median, Low: s.Low, High: s.High}
}

// AtMost holds the median against a bound.
func (r Row) AtMost(bound float64) Row {
	r.Bound, r.Verdict = "at most "+Number(bound, r.Unit), Within
	if r.Median > bound {
		r.Verdict = Missed
	}
	return r
}

// AtLeast holds the median against a bound from below.
func (r Row) AtLeast(bound float64) Row {
	r.Bound, r.Verdict = "at least "+Number(bound, r.Unit), Within
	if r.Median < bound {
		r.Verdict = Missed
	}
	return r
}

// Never holds the worst run against zero.
func (r Row) Never() Row {
	r.Bound, r.Verdict = "none in any run", Within
	if r.High > 0 {
		r.Verdict = Missed
	}
	return r
}

// Always holds every run against one value.
func (r Row) Always(want float64) Row {
	r.Bound, r.Verdict = Number(want, r.Unit)+" in every run", Within
	if r.Low != want || r.High != want {
		r.Verdict = Missed
	}
	return r
}

// WriteRows prints rows as a table.
func WriteRows(w io.Writer, rows []Row) {
	table := [][]string{{"", "median", "lowest", "highest", "bound", ""}}
	for _, row := range rows {
		if row.Note != "" {
			table = append(table, []string{row.Name, row.Note})
			continue
		}
		table = append(table, []string{row.Name, Number(row.Median, row.Unit), Number(row.Low, row.Unit), Number(row.High, row.Unit),
			row.Bound, row.Verdict})
	}
	output.Table(w, table...)
}

// Number prints a value with its unit.
func Number(v float64, unit string) string {
	switch unit {
	case "":
		return fmt.Sprintf("%.0f", v)
	case "s", "x":
		return fmt.Sprintf("%.2f %s", v, unit)
	}
	return fmt.Sprintf("%.1f %s", v, unit)
}

// MiB gives bytes in MiB.
func MiB[N ~int64 | ~uint64 | ~float64](bytes N) float64 { return float64(bytes) / (1 << 20) }
