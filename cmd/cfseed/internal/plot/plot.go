// Package plot draws bar charts as SVG: one bar a figure, its lowest and highest
// run as a whisker, a bound as a dashed line.
package plot

import (
	"bytes"
	"encoding/xml"
	"fmt"
	"math"
	"strings"
)

// Chart is one picture.
type Chart struct {
	Name  string  // of the file, without its ending
	Title string  // one line
	Unit  string  // of the values
	Bound float64 // 0: none
	Log   bool    // each power of ten is as wide as the next
	Bars  []Bar
}

// Bar is one figure. Low and High are its extremes; both 0 where there are none.
type Bar struct {
	Label  string
	Value  float64
	Low    float64
	High   float64
	Missed bool   // it is drawn in another colour
	Note   string // printed behind the value
}

// Sizes in pixels.
const (
	width     = 960
	left      = 410 // where bars begin
	right     = 140 // behind the longest bar
	top       = 48
	barHeight = 18
	barStep   = 26
	bottom    = 40
)

// Colours.
const (
	good    = "#4878a8"
	bad     = "#c05030"
	ink     = "#222222"
	faint   = "#dddddd"
	whisker = "#111111"
)

// SVG gives the picture as a document.
func (c Chart) SVG() []byte {
	var b bytes.Buffer
	height := top + barStep*len(c.Bars) + bottom
	fmt.Fprintf(&b, `<svg xmlns="http://www.w3.org/2000/svg" width="%d" height="%d" viewBox="0 0 %d %d" font-family="sans-serif" font-size="12" fill="%s">`+"\n",
		width, height, width, height, ink)
	fmt.Fprintf(&b, `<rect class="back" width="%d" height="%d" fill="#ffffff"/>`+"\n", width, height)
	text(&b, 12, 24, "start", "title", c.Title)
	x := c.scale()
	floor := top + barStep*len(c.Bars)
	for _, mark := range x.marks() {
		at := x.at(mark)
		fmt.Fprintf(&b, `<line class="mark" x1="%.1f" y1="%d" x2="%.1f" y2="%d" stroke="%s"/>`+"\n", at, top-6, at, floor, faint)
		text(&b, at, float64(floor+16), "middle", "mark", figure(mark)+" "+c.Unit)
	}
	for i, bar := range c.Bars {
		c.bar(&b, x, bar, top+barStep*i)
	}
	if c.Bound > 0 {
		at := x.at(c.Bound)
		fmt.Fprintf(&b, `<line class="bound" x1="%.1f" y1="%d" x2="%.1f" y2="%d" stroke="%s" stroke-dasharray="5 4"/>`+"\n", at, top-6, at, floor, bad)
		text(&b, at, float64(floor+32), "middle", "bound", "bound "+figure(c.Bound)+" "+c.Unit)
	}
	b.WriteString("</svg>\n")
	return b.Bytes()
}

func (c Chart) bar(b *bytes.Buffer, x scale, bar Bar, y int) {
	middle := float64(y) + barHeight/2
	text(b, left-8, middle+4, "end", "label", bar.Label)
	colour := good
	if bar.Missed {
		colour = bad
	}
	end := x.at(bar.Value)
	fmt.Fprintf(b, `<rect class="bar" x="%d" y="%d" width="%.1f" height="%d" fill="%s"/>`+"\n", left, y, max(0, end-left), barHeight, colour)
	if bar.High > bar.Low {
		fmt.Fprintf(b, `<line class="whisker" x1="%.1f" y1="%.1f" x2="%.1f" y2="%.1f" stroke="%s" stroke-width="2"/>`+"\n",
			x.at(bar.Low), middle, x.at(bar.High), middle, whisker)
		end = max(end, x.at(bar.High))
	}
	text(b, end+6, middle+4, "start", "value", strings.TrimSpace(figure(bar.Value)+" "+c.Unit+" "+bar.Note))
}

func text(b *bytes.Buffer, x, y float64, anchor, class, s string) {
	fmt.Fprintf(b, `<text class="%s" x="%.1f" y="%.1f" text-anchor="%s">`, class, x, y, anchor)
	_ = xml.EscapeText(b, []byte(s)) // a buffer takes everything
	b.WriteString("</text>\n")
}

// figure prints a value with about three digits.
func figure(v float64) string {
	switch {
	case v == 0:
		return "0"
	case math.Abs(v) >= 100:
		return fmt.Sprintf("%.0f", v)
	case math.Abs(v) >= 10:
		return fmt.Sprintf("%.1f", v)
	}
	return fmt.Sprintf("%.2f", v)
}

// scale maps values to pixels.
type scale struct {
	from, to float64 // the values at the ends
	log      bool
}

// scale takes in all bars and the bound. A scale by powers of ten begins at the
// power below the smallest value; the other one at nothing.
func (c Chart) scale() scale {
	least, most := math.Inf(1), c.Bound
	for _, bar := range c.Bars {
		most = max(most, bar.Value, bar.High)
		for _, v := range []float64{bar.Value, bar.Low} {
			if v > 0 {
				least = min(least, v)
			}
		}
	}
	if most <= 0 {
		most = 1
	}
	if !c.Log || math.IsInf(least, 1) {
		return scale{to: most}
	}
	return scale{from: math.Pow(10, math.Floor(math.Log10(least))), to: max(most, least*1.01), log: true}
}

func (s scale) at(v float64) float64 {
	share := v / s.to
	if s.log {
		share = math.Log(max(v, s.from)/s.from) / math.Log(s.to/s.from)
	}
	return left + min(max(share, 0), 1)*(width-left-right)
}

// marks are round values within the scale.
func (s scale) marks() []float64 {
	if s.log {
		var out []float64
		for v := s.from; v <= s.to; v *= 10 {
			out = append(out, v)
		}
		return out
	}
	step := math.Pow(10, math.Floor(math.Log10(s.to)))
	for _, finer := range []float64{2, 5, 10} {
		if s.to/step >= 4 {
			break
		}
		step = math.Pow(10, math.Floor(math.Log10(s.to))) / finer
	}
	out := []float64{0}
	for i := 1.0; i*step <= s.to; i++ {
		out = append(out, i*step)
	}
	return out
}
