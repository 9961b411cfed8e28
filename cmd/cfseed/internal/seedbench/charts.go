package seedbench

import (
	"strings"

	"github.com/chainfire/cfseed/cmd/cfseed/internal/measure"
	"github.com/chainfire/cfseed/cmd/cfseed/internal/output"
	"github.com/chainfire/cfseed/cmd/cfseed/internal/plot"
)

// bars makes a bar of each row that has figures.
func bars(rows []measure.Row) []plot.Bar {
	var out []plot.Bar
	for _, r := range rows {
		if r.Note != "" {
			continue
		}
		out = append(out, plot.Bar{Label: r.Name, Value: r.Median, Low: r.Low, High: r.High, Missed: r.Verdict == measure.Missed})
	}
	return out
}

// stem is a size as part of a file's name: "1.0GiB".
func stem(size uint64) string { return strings.ReplaceAll(output.Size(size), " ", "") }
