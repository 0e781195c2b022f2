package report

import (
	"io"
	"math"
)

// A part is one colour of bars that are made of several.
type part struct {
	name, colour string
}

// A bar has a value for each part of its chart.
type bar struct {
	name   string
	values []float64
	ours   bool
}

// A barPanel has one bar below the other, on a linear axis from zero.
type barPanel struct {
	title, xLabel string
	parts         []part
	bars          []bar
}

// A barChart is panels in columns, with one legend for all parts that have a name.
type barChart struct {
	title, sub string
	columns    int
	panels     []barPanel
}

// Sizes of panels of bars.
const (
	barWidth  = 250 // of the longest
	barHeight = 14
	barStep   = 20
	valueRoom = 52
)

func (p barPanel) labelRoom() (room float64) {
	for _, b := range p.bars {
		room = math.Max(room, textWidth(b.name)*boldWidth+10)
	}
	return room
}

func (p barPanel) height() float64 { return topSpace + float64(len(p.bars)*barStep) + 8 + bottomSpace }

func (ch barChart) writeSVG(w io.Writer) error {
	var c canvas
	columns := min(ch.columns, len(ch.panels))
	label := 0.0
	for _, p := range ch.panels {
		label = math.Max(label, p.labelRoom())
	}
	panelWidth := label + barWidth + valueRoom
	width := math.Max(2*margin+float64(columns)*(panelWidth+gap)-gap, headWidth(ch.title, ch.sub))
	c.text(margin, margin+titleSize, start, classTitle, ch.title)
	c.text(margin, margin+titleSize+20, start, classSub, ch.sub)
	y := ch.legend(&c, margin+titleSize+38)
	for row := 0; row < len(ch.panels); row += columns {
		height := 0.0
		for i, p := range ch.panels[row:min(row+columns, len(ch.panels))] {
			p.draw(&c, margin+float64(i)*(panelWidth+gap)+label, y+topSpace)
			height = math.Max(height, p.height())
		}
		y += height + gap
	}
	return c.writeTo(w, width, y, ch.title)
}

// legend returns where it ends.
func (ch barChart) legend(c *canvas, y float64) float64 {
	seen := make(map[string]bool)
	x := float64(margin)
	for _, p := range ch.panels {
		for _, q := range p.parts {
			if q.name == "" || seen[q.name] {
				continue
			}
			seen[q.name] = true
			c.rect(x, y-2, 12, 12, q.colour)
			c.text(x+18, y+8, start, "", q.name)
			x += 18 + textWidth(q.name) + 20
		}
	}
	if len(seen) == 0 {
		return y
	}
	return y + 22
}

func (p barPanel) draw(c *canvas, left, top float64) {
	c.text(left, top-10, start, classHead, p.title)
	most := 0.0
	for _, b := range p.bars {
		most = math.Max(most, b.sum())
	}
	if most == 0 {
		c.text(left, top+barStep, start, classSub, "not measured")
		return
	}
	step := linearStep(most)
	bottom := top + float64(len(p.bars)*barStep) + 4
	axis := math.Ceil(most/step) * step
	at := func(v float64) float64 { return left + v/axis*barWidth }
	for i := 0; float64(i)*step <= axis*1.0001; i++ {
		v := float64(i) * step
		c.line(at(v), top, at(v), bottom, "grid")
		c.text(at(v), bottom+16, middle, "", tick(v))
	}
	for i, b := range p.bars {
		y := top + float64(i*barStep) + 4
		class := ""
		if b.ours {
			class = classHead
		}
		c.text(left-6, y+11, end, class, b.name)
		if b.sum() == 0 {
			c.text(left+4, y+11, start, classSub, "not measured")
			continue
		}
		x := left
		for j, v := range b.values {
			c.rect(x, y, v/axis*barWidth, barHeight, p.parts[j].colour)
			x += v / axis * barWidth
		}
		c.text(x+4, y+11, start, "", barValue(b.sum()))
	}
	c.line(left, top, left, bottom, "axis")
	c.line(left, bottom, left+barWidth, bottom, "axis")
	c.text(left+barWidth/2, bottom+34, middle, classSub, p.xLabel)
}

func (b bar) sum() (sum float64) {
	for _, v := range b.values {
		sum += v
	}
	return sum
}

// barValue is short enough for the end of a bar.
func barValue(v float64) string {
	if v >= 1e5 {
		return tick(v)
	}
	return figure(v)
}

// linearStep makes some four steps to most.
func linearStep(most float64) float64 {
	step := math.Pow(10, math.Floor(math.Log10(most)))
	for _, f := range []float64{0.2, 0.25, 0.5, 1} {
		if f == 0.25 && step < 10 { // would have digits that say nothing
			continue
		}
		if most/(f*step) <= 5 {
			return f * step
		}
	}
	return 2 * step
}
