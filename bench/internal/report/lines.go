package report

import (
	"io"
	"math"
	"slices"
	"strconv"
)

// A series is a line in a panel.
type series struct {
	name   string
	style  style
	points []point // by x
}

// A linePanel has both axes logarithmic.
type linePanel struct {
	title          string
	xLabel, yLabel string
	xTick          func(float64) string // default: the number
	series         []series
}

// A lineChart is panels in columns, with one legend.
type lineChart struct {
	title, sub string
	note       string // that follows the subtitle
	columns    int
	panels     []linePanel
}

// Sizes of panels of lines.
const (
	plotWidth, plotHeight = 230, 190
	leftSpace             = 62 // of labels
	topSpace              = 26
	bottomSpace           = 44
	gap                   = 14
)

func (ch lineChart) writeSVG(w io.Writer) error {
	var c canvas
	columns := min(ch.columns, len(ch.panels))
	rows := (len(ch.panels) + columns - 1) / columns
	width := math.Max(2*margin+float64(columns)*(leftSpace+plotWidth+gap), headWidth(ch.title, ch.sub))
	c.text(margin, margin+titleSize, start, classTitle, ch.title)
	c.text(margin, margin+titleSize+20, start, classSub, ch.sub)
	top := float64(margin + titleSize + 32)
	for i, p := range ch.panels {
		x := margin + float64(i%columns)*(leftSpace+plotWidth+gap)
		y := top + float64(i/columns)*(topSpace+plotHeight+bottomSpace+gap)
		p.draw(&c, x+leftSpace, y+topSpace)
	}
	y := top + float64(rows)*(topSpace+plotHeight+bottomSpace+gap)
	y = ch.legend(&c, y+4, width)
	return c.writeTo(w, width, y+margin, ch.title)
}

// legend has each series once and returns where it ends.
func (ch lineChart) legend(c *canvas, y, width float64) float64 {
	const sample = 34
	const first = margin + 4 // a mark is as wide
	x := float64(first)
	seen := make(map[string]bool)
	for _, p := range ch.panels {
		for _, s := range p.series {
			if seen[s.name] || len(s.points) == 0 {
				continue
			}
			seen[s.name] = true
			w := sample + 8 + textWidth(s.name) + 18
			if x+w > width-margin && x > first {
				x, y = first, y+20
			}
			c.polyline([]point{{x, y}, {x + sample, y}}, s.style)
			c.text(x+sample+8, y+4, start, "", s.name)
			x += w
		}
	}
	return y + 8
}

func (p linePanel) draw(c *canvas, left, top float64) {
	c.text(left, top-10, start, classHead, p.title)
	var xs, ys []float64
	for _, s := range p.series {
		for _, q := range s.points {
			xs, ys = append(xs, q.x), append(ys, q.y)
		}
	}
	slices.Sort(xs)
	xs = slices.Compact(xs)
	right, bottom := left+plotWidth, top+float64(plotHeight)
	if len(xs) == 0 {
		c.text(left+plotWidth/2, top+plotHeight/2, middle, classSub, "not measured")
		return
	}
	x := newScale(xs[0], xs[len(xs)-1], left+14, right-14)
	ticks := logTicks(slices.Min(ys), slices.Max(ys))
	y := newScale(ticks[0], ticks[len(ticks)-1], bottom, top)
	for _, t := range ticks {
		c.line(left, y.at(t), right, y.at(t), "grid")
		c.text(left-6, y.at(t)+4, end, "", tick(t))
	}
	label := p.xTick
	if label == nil {
		label = func(v float64) string { return thousands(int(v)) }
	}
	last := math.Inf(-1)
	for _, t := range xs {
		at := x.at(t)
		c.line(at, bottom, at, bottom+4, "axis")
		if s := label(t); at-textWidth(s)/2 > last { // where there is room
			c.text(at, bottom+17, middle, "", s)
			last = at + textWidth(s)/2
		}
	}
	c.line(left, top, left, bottom, "axis")
	c.line(left, bottom, right, bottom, "axis")
	c.text(left+plotWidth/2, bottom+34, middle, classSub, p.xLabel)
	c.printf(`<text transform="translate(%s %s) rotate(-90)" text-anchor="middle" class="sub">%s</text>`+"\n",
		num(left-leftSpace+12), num(top+plotHeight/2), escaper.Replace(p.yLabel))
	for _, s := range p.series {
		var at []point
		for _, q := range s.points {
			at = append(at, point{x.at(q.x), y.at(q.y)})
		}
		c.polyline(at, s.style)
	}
}

// A scale is a logarithmic one.
type scale struct{ low, high, from, to float64 }

func newScale(low, high, from, to float64) scale {
	return scale{math.Log(low), math.Log(high), from, to}
}

func (s scale) at(v float64) float64 {
	if s.high == s.low {
		return (s.from + s.to) / 2
	}
	return s.from + (math.Log(v)-s.low)/(s.high-s.low)*(s.to-s.from)
}

// logTicks are round numbers around what is between low and high, no more than some
// eight of them.
func logTicks(low, high float64) []float64 {
	steps := []float64{1, 2, 5}
	if high/low > 300 {
		steps = []float64{1}
	}
	var ticks []float64
	for e := math.Floor(math.Log10(low)); ; e++ {
		for _, s := range steps {
			// A power of a negative exponent is not exact; a quotient of one is.
			t := s * math.Pow(10, e)
			if e < 0 {
				t = s / math.Pow(10, -e)
			}
			if t <= low {
				ticks = ticks[:0]
			}
			ticks = append(ticks, t)
			if t >= high && len(ticks) > 1 {
				return ticks
			}
		}
	}
}

// tick is a number on an axis.
func tick(v float64) string {
	switch {
	case v >= 1e6:
		return strconv.FormatFloat(v/1e6, 'g', 3, 64) + "M"
	case v >= 1e3:
		return strconv.FormatFloat(v/1e3, 'g', 3, 64) + "k"
	}
	return strconv.FormatFloat(v, 'g', 3, 64)
}

// sizeTick is a number of bytes on an axis.
func sizeTick(v float64) string { return Size(int(v)) }
