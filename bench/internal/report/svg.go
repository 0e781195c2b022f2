package report

import (
	"fmt"
	"io"
	"math"
	"strconv"
	"strings"
	"unicode/utf8"
)

// Sizes in pixels.
const (
	fontSize  = 12
	titleSize = 16
	charWidth = 6.6 // of the usual sans-serif font at fontSize, on the safe side
	margin    = 16
)

// A canvas collects the elements of an SVG image.
type canvas struct {
	b strings.Builder
}

func (c *canvas) printf(format string, args ...any) { fmt.Fprintf(&c.b, format, args...) }

// num is a coordinate.
func num(x float64) string {
	return strconv.FormatFloat(math.Round(x*10)/10, 'f', -1, 64)
}

var escaper = strings.NewReplacer("&", "&amp;", "<", "&lt;", ">", "&gt;", `"`, "&quot;")

// An anchor says where of a text its position is.
type anchor string

const (
	start  anchor = "start"
	middle anchor = "middle"
	end    anchor = "end"
)

func (c *canvas) text(x, y float64, a anchor, class, s string) {
	c.printf(`<text x="%s" y="%s" text-anchor="%s"%s>%s</text>`+"\n", num(x), num(y), a, class, escaper.Replace(s))
}

func (c *canvas) line(x1, y1, x2, y2 float64, class string) {
	c.printf(`<line x1="%s" y1="%s" x2="%s" y2="%s" class="%s"/>`+"\n", num(x1), num(y1), num(x2), num(y2), class)
}

func (c *canvas) rect(x, y, w, h float64, fill string) {
	c.printf(`<rect x="%s" y="%s" width="%s" height="%s" fill="%s"/>`+"\n", num(x), num(y), num(w), num(h), fill)
}

// writeTo writes the image.
func (c *canvas) writeTo(w io.Writer, width, height float64, title string) error {
	_, err := fmt.Fprintf(w, `<svg xmlns="http://www.w3.org/2000/svg" width="%[1]s" height="%[2]s" viewBox="0 0 %[1]s %[2]s" role="img" aria-label="%[3]s">
<style>
text { font: %[4]dpx "Helvetica Neue", Arial, "DejaVu Sans", sans-serif; fill: #222 }
.title { font-size: %[5]dpx; font-weight: bold }
.sub { fill: #555 }
.head { font-weight: bold }
.axis { stroke: #444; stroke-width: 1 }
.grid { stroke: #ddd; stroke-width: 1 }
</style>
<rect width="%[1]s" height="%[2]s" fill="#fff"/>
%[6]s</svg>
`, num(width), num(height), escaper.Replace(title), fontSize, titleSize, c.b.String())
	return err
}

// textWidth is about how wide a text is.
func textWidth(s string) float64 { return float64(utf8.RuneCountInString(s)) * charWidth }

// boldWidth is how much wider bold text is.
const boldWidth = 1.12

// headWidth is the width of an image that has room for a title and a subtitle.
func headWidth(title, sub string) float64 {
	return 2*margin + max(textWidth(title)*boldWidth*titleSize/fontSize, textWidth(sub))
}

// Colours that people tell apart who do not see all of them, by Okabe and Ito. Yellow is
// left out, which nobody sees on white.
const (
	black      = "#000000"
	grey       = "#8c8c8c"
	orange     = "#e69f00"
	sky        = "#56b4e9"
	green      = "#009e73"
	blue       = "#0072b2"
	vermillion = "#d55e00"
	purple     = "#cc79a7"
)

// A style is how a series looks, by shape as well as by colour.
type style struct {
	colour string
	mark   mark
	dash   string
}

type mark byte

const (
	circle mark = iota
	square
	triangle
	diamond
	cross
)

func (c *canvas) mark(x, y float64, s style) {
	const r = 4
	points := func(ps ...float64) {
		c.b.WriteString(`<polygon points="`)
		for i := 0; i < len(ps); i += 2 {
			c.printf("%s,%s ", num(x+ps[i]), num(y+ps[i+1]))
		}
		c.printf(`" fill="%s"/>`+"\n", s.colour)
	}
	switch s.mark {
	case circle:
		c.printf(`<circle cx="%s" cy="%s" r="%d" fill="%s"/>`+"\n", num(x), num(y), r, s.colour)
	case square:
		c.rect(x-r+0.5, y-r+0.5, 2*r-1, 2*r-1, s.colour)
	case triangle:
		points(0, -r-0.5, r+0.5, r-0.5, -r-0.5, r-0.5)
	case diamond:
		points(0, -r-1, r+1, 0, 0, r+1, -r-1, 0)
	case cross:
		c.printf(`<path d="M%s %sl%d %dm0 -%d l-%d %d" stroke="%s" stroke-width="2" fill="none"/>`+"\n",
			num(x-r), num(y-r), 2*r, 2*r, 2*r, 2*r, 2*r, s.colour)
	}
}

func (c *canvas) polyline(points []point, s style) {
	if len(points) > 1 {
		var b strings.Builder
		for _, p := range points {
			b.WriteString(num(p.x) + "," + num(p.y) + " ")
		}
		dash := ""
		if s.dash != "" {
			dash = ` stroke-dasharray="` + s.dash + `"`
		}
		c.printf(`<polyline points="%s" fill="none" stroke="%s" stroke-width="2"%s/>`+"\n", strings.TrimSpace(b.String()), s.colour, dash)
	}
	for _, p := range points {
		c.mark(p.x, p.y, s)
	}
}

type point struct{ x, y float64 }

// classTitle and so on are attributes for text.
const (
	classTitle = ` class="title"`
	classSub   = ` class="sub"`
	classHead  = ` class="head"`
)
