// Package output is what cfseed prints: results as text or JSON on stdout,
// failures, and the shapes that scripts rely on. Progress goes to stderr.
package output

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"

	"github.com/chainfire/cfseed/internal/fault"
)

// The formats of --output.
const (
	Text = "text"
	JSON = "json"
)

// Printer prints the results of one command.
type Printer struct {
	w    io.Writer
	json bool
}

// NewPrinter returns a Printer that writes to w.
func NewPrinter(w io.Writer, asJSON bool) *Printer { return &Printer{w: w, json: asJSON} }

// Result prints value as one line of JSON, or what text writes. Nothing is
// printed when text fails.
func (p *Printer) Result(value any, text func(w io.Writer)) error {
	var out bytes.Buffer
	if p.json {
		if err := encode(&out, value); err != nil {
			return fault.New(fault.Internal, "print result", err)
		}
	} else {
		text(&out)
	}
	if _, err := p.w.Write(out.Bytes()); err != nil {
		return fault.New(fault.Internal, "print result", err)
	}
	return nil
}

// IsJSON reports whether results are printed as JSON.
func (p *Printer) IsJSON() bool { return p.json }

func encode(w io.Writer, value any) error {
	e := json.NewEncoder(w)
	e.SetEscapeHTML(false)
	return e.Encode(value)
}

// failure is the shape of a failed command's JSON.
type failure struct {
	Error failureBody `json:"error"`
}

type failureBody struct {
	Code    fault.Code `json:"code"`
	Message string     `json:"message"`
	Hint    string     `json:"hint"`
}

// Failure prints err: as JSON on stdout, where a script looks for the result,
// or as lines on stderr. There is nobody left to tell when that fails.
func Failure(stdout, stderr io.Writer, asJSON bool, program string, err error) {
	message, hint := strings.TrimSpace(err.Error()), fault.HintOf(err)
	if asJSON {
		_ = encode(stdout, failure{failureBody{fault.CodeOf(err), message, hint}})
		return
	}
	fmt.Fprintf(stderr, "%s: %s\n", program, strings.TrimPrefix(message, program+" "))
	if hint != "" {
		fmt.Fprintf(stderr, "hint: %s\n", hint)
	}
}

// Table writes rows in columns; the first row is the head.
func Table(w io.Writer, rows ...[]string) {
	columns := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	for _, row := range rows {
		fmt.Fprintln(columns, strings.TrimRight(strings.Join(row, "\t"), "\t"))
	}
	columns.Flush() // w is a buffer of Result
}

// Size gives bytes for people, "1.5 MiB".
func Size(bytes uint64) string {
	const units = "KMGTPE"
	if bytes < 1024 {
		return fmt.Sprintf("%d B", bytes)
	}
	value, unit := float64(bytes)/1024, 0
	for value >= 1024 && unit < len(units)-1 {
		value, unit = value/1024, unit+1
	}
	return fmt.Sprintf("%.1f %ciB", value, units[unit])
}
