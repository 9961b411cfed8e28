package plot

import (
	"bytes"
	"encoding/xml"
	"errors"
	"io"
	"math"
	"slices"
	"strconv"
	"testing"
)

// element is one element of a document: its attributes and its text.
type element struct {
	name, class, text string
	attr              map[string]string
}

func (e element) number(t *testing.T, name string) float64 {
	t.Helper()
	v, err := strconv.ParseFloat(e.attr[name], 64)
	if err != nil {
		t.Fatalf("%s of %v: %v", name, e, err)
	}
	return v
}

// parse reads a whole document, strictly.
func parse(doc []byte) (out []element, err error) {
	d := xml.NewDecoder(bytes.NewReader(doc))
	var open []int
	for {
		token, err := d.Token()
		if errors.Is(err, io.EOF) {
			return out, nil
		}
		if err != nil {
			return out, err
		}
		switch tok := token.(type) {
		case xml.StartElement:
			e := element{name: tok.Name.Local, attr: map[string]string{}}
			for _, a := range tok.Attr {
				e.attr[a.Name.Local] = a.Value
			}
			e.class = e.attr["class"]
			open = append(open, len(out))
			out = append(out, e)
		case xml.EndElement:
			open = open[:len(open)-1]
		case xml.CharData:
			if len(open) > 0 {
				out[open[len(open)-1]].text += string(tok)
			}
		}
	}
}

func ofClass(all []element, name, class string) []element {
	return slices.DeleteFunc(slices.Clone(all), func(e element) bool { return e.name != name || e.class != class })
}

var chart = Chart{Name: "a", Title: `Bytes & "seconds" <1>`, Unit: "s", Bound: 3, Bars: []Bar{
	{Label: "pull", Value: 2, Low: 1, High: 4}, {Label: "<copy>", Value: 1, Note: "alone"}, {Label: "missed", Value: 4, Missed: true}, {Label: "none"}}}

// What is drawn is the data: bars as long as their values, whiskers between the
// extremes, the bound where it is.
func TestChartShowsItsData(t *testing.T) {
	all, err := parse(chart.SVG())
	if err != nil {
		t.Fatal(err)
	}
	var widths []float64
	bars := ofClass(all, "rect", "bar")
	for _, bar := range bars {
		widths = append(widths, bar.number(t, "width")/bars[0].number(t, "width"))
	}
	if want := []float64{1, 0.5, 2, 0}; !slices.Equal(widths, want) {
		t.Errorf("bars are as %v, want %v", widths, want)
	}
	if bars[0].attr["fill"] == bars[2].attr["fill"] {
		t.Error("what missed its bound looks like the others")
	}
	one := bars[1].number(t, "width") // the length of 1
	whiskers := ofClass(all, "line", "whisker")
	if len(whiskers) != 1 || whiskers[0].number(t, "x1") != left+one || whiskers[0].number(t, "x2") != left+4*one {
		t.Errorf("whiskers %v, of 1 to 4 with 1 = %.1f", whiskers, one)
	}
	if bound := ofClass(all, "line", "bound"); len(bound) != 1 || math.Abs(bound[0].number(t, "x1")-left-3*one) > 0.2 {
		t.Errorf("bound %v, of 3 with 1 = %.1f", bound, one)
	}
	var labels, values []string
	for _, e := range ofClass(all, "text", "label") {
		labels = append(labels, e.text)
	}
	for _, e := range ofClass(all, "text", "value") {
		values = append(values, e.text)
	}
	if !slices.Equal(labels, []string{"pull", "<copy>", "missed", "none"}) || !slices.Equal(values, []string{"2.00 s", "1.00 s alone", "4.00 s", "0 s"}) {
		t.Errorf("labels %q, values %q", labels, values)
	}
	if title := ofClass(all, "text", "title"); len(title) != 1 || title[0].text != chart.Title {
		t.Errorf("title %v", title)
	}
}

func TestNotWellFormedIsSeen(t *testing.T) {
	for _, bad := range []string{"<svg><rect></svg>", "<svg>a & b</svg>", `<svg x=1/>`} {
		if _, err := parse([]byte(bad)); err == nil {
			t.Errorf("%s is taken", bad)
		}
	}
}

// On a scale by powers of ten, equal ratios are equal lengths.
func TestLogarithmic(t *testing.T) {
	c := Chart{Log: true, Bars: []Bar{{Value: 10}, {Value: 100}, {Value: 1000}, {Value: 0}}}
	all, err := parse(c.SVG())
	if err != nil {
		t.Fatal(err)
	}
	var widths []float64
	for _, bar := range ofClass(all, "rect", "bar") {
		widths = append(widths, bar.number(t, "width"))
	}
	if widths[0] != 0 || widths[1] <= 0 || math.Abs(widths[2]-2*widths[1]) > 0.2 || widths[3] != 0 {
		t.Errorf("%v", widths)
	}
}

// Charts without anything to show, or with one value, are pictures too.
func TestLittleData(t *testing.T) {
	for _, c := range []Chart{{}, {Log: true}, {Bars: []Bar{{}}}, {Log: true, Bars: []Bar{{Value: 10}}}, {Bars: []Bar{{Value: 1e9, Low: 1e9, High: 1e9}}}} {
		all, err := parse(c.SVG())
		if err != nil || len(ofClass(all, "rect", "bar")) != len(c.Bars) || bytes.Contains(c.SVG(), []byte("NaN")) || bytes.Contains(c.SVG(), []byte("Inf")) {
			t.Errorf("%+v: %v\n%s", c, err, c.SVG())
		}
	}
}
