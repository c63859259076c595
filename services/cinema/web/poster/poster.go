// Package poster draws film posters: the picture depends on the genre, the colours on genre and year, the text is the
// title. The same film always gives the same poster. A poster is one SVG element without ids, styles or scripts, so
// that a page with a strict content security policy can have many of them.
package poster

import (
	"fmt"
	"hash/fnv"
	"html"
	"html/template"
	"math/rand/v2"
	"strconv"
	"strings"
	"unicode/utf8"
)

// Film has the data from which a poster is drawn. Every field may be empty.
type Film struct {
	ID    string
	Name  string
	Genre string
	// Zero: not known.
	Year int
}

// Poster returns a picture of 2:3 with title and year on it. It is hidden from screen readers, because the page has the
// name of the film as text.
func Poster(f Film) template.HTML {
	c := newCanvas(f, 200, 300)
	c.picture(f.Genre)
	c.rect(0, 204, 200, 96, c.deep, 0.82)
	c.rect(14, 214, 26, 3, c.accent, 1)
	c.title(f.Name)
	if f.Year > 0 {
		c.text(14, 290, 9.5, "600", c.paper, strconv.Itoa(f.Year))
	}
	return c.done()
}

// Banner returns a wide picture for the film, with the colours of its poster and without text.
func Banner(f Film) template.HTML {
	c := newCanvas(f, 1200, 420)
	c.picture(f.Genre)
	return c.done()
}

// canvas collects SVG elements. Colours are #rrggbb.
type canvas struct {
	strings.Builder
	w, h                          float64
	random                        *rand.Rand
	deep, sky, mid, accent, paper string
}

func newCanvas(f Film, w, h float64) *canvas {
	sum := fnv.New64a()
	_, _ = sum.Write([]byte(f.ID))
	r := rand.New(rand.NewPCG(sum.Sum64(), 7)) //nolint:gosec // not for secrets
	hue := hueOf(f.Genre) + r.Float64()*50 - 25
	strength := 0.62
	if f.Genre == "Black Comedy" {
		strength = 0.12
	}
	switch {
	case f.Year > 0 && f.Year < 1960:
		strength = 0.14
	case f.Year > 0 && f.Year < 1975:
		strength = 0.34
	}
	c := &canvas{
		w: w, h: h, random: r,
		deep: colour(hue+8, strength*0.9, 0.10), sky: colour(hue, strength, 0.24), mid: colour(hue-14, strength, 0.40),
		accent: colour(hue+18+r.Float64()*30, min(1, strength+0.3), 0.62), paper: colour(hue+40, strength*0.6, 0.93),
	}
	c.rect(0, 0, w, h, c.sky, 1)
	return c
}

var hues = map[string]float64{
	"Action": 8, "Adventure": 165, "Black Comedy": 0, "Comedy": 18, "Concert/Performance": 262, "Documentary": 190,
	"Drama": 222, "Horror": 350, "Musical": 290, "Romantic Comedy": 335, "Thriller/Suspense": 205, "Western": 22,
}

func hueOf(genre string) float64 {
	if h, ok := hues[genre]; ok {
		return h
	}
	return 245
}

// colour returns #rrggbb of hue in degrees, saturation and lightness of 0 to 1.
func colour(hue, s, l float64) string {
	channel := func(n float64) int {
		k := n + hue/30
		for k >= 12 {
			k -= 12
		}
		for k < 0 {
			k += 12
		}
		return int(255*(l-s*min(l, 1-l)*max(-1, min(k-3, 9-k, 1))) + 0.5)
	}
	return fmt.Sprintf("#%02x%02x%02x", channel(0), channel(8), channel(4))
}

// end writes the opacity, unless it is 1, and ends the element.
func (c *canvas) end(opacity float64) {
	if opacity < 1 {
		fmt.Fprintf(c, ` opacity="%.2g"`, opacity)
	}
	c.WriteString("/>")
}

// between returns a pseudo-random number. Drawing a film again gives the same numbers.
func (c *canvas) between(low, high float64) float64 { return low + c.random.Float64()*(high-low) }

func (c *canvas) rect(x, y, w, h float64, fill string, opacity float64) {
	fmt.Fprintf(c, `<rect x="%.0f" y="%.0f" width="%.0f" height="%.0f" fill="%s"`, x, y, w, h, fill)
	c.end(opacity)
}

func (c *canvas) circle(x, y, r float64, fill string, opacity float64) {
	fmt.Fprintf(c, `<circle cx="%.0f" cy="%.0f" r="%.0f" fill="%s"`, x, y, r, fill)
	c.end(opacity)
}

func (c *canvas) ring(x, y, r, width float64, stroke string, opacity float64) {
	fmt.Fprintf(c, `<circle cx="%.0f" cy="%.0f" r="%.0f" fill="none" stroke="%s" stroke-width="%.0f"`, x, y, r, stroke,
		width)
	c.end(opacity)
}

// shape fills the polygon through x, y pairs.
func (c *canvas) shape(fill string, opacity float64, points ...float64) {
	fmt.Fprintf(c, `<polygon fill="%s" points="`, fill)
	for i, p := range points {
		fmt.Fprintf(c, "%.0f%s", p, map[bool]string{true: ",", false: " "}[i%2 == 0])
	}
	c.WriteByte('"')
	c.end(opacity)
}

// text writes text. The style sheet of the page sets the typeface.
func (c *canvas) text(x, y, size float64, weight, fill, s string) {
	fmt.Fprintf(c, `<text x="%.0f" y="%.1f" font-size="%.1f" font-weight="%s" fill="%s">%s</text>`,
		x, y, size, weight, fill, html.EscapeString(s))
}

// title writes the name in at most four lines, as large as fits.
func (c *canvas) title(name string) {
	lines := wrap(strings.ToUpper(name), 13)
	if len(lines) > 3 {
		lines = wrap(strings.ToUpper(name), 19)
	}
	if len(lines) > 4 {
		lines = append(lines[:3:3], lines[3]+"…")
	}
	longest := 1
	for _, l := range lines {
		longest = max(longest, utf8.RuneCountInString(l))
	}
	size := min(21, 172/(0.79*float64(longest)), 52/float64(len(lines)))
	y := 214 + 58/2 + 7 - size*1.08*float64(len(lines)-1)/2 + size*0.36
	for _, l := range lines {
		c.text(14, y, size, "800", c.paper, l)
		y += size * 1.08
	}
}

// wrap breaks s between words into lines of about width runes.
func wrap(s string, width int) []string {
	var lines []string
	line := ""
	for _, word := range strings.Fields(s) {
		if line != "" && utf8.RuneCountInString(line)+1+utf8.RuneCountInString(word) > width {
			lines = append(lines, line)
			line = word
			continue
		}
		line = strings.TrimSpace(line + " " + word)
	}
	return append(lines, line)
}

func (c *canvas) done() template.HTML {
	return template.HTML(fmt.Sprintf( //nolint:gosec // numbers, colours and escaped text
		`<svg viewBox="0 0 %.0f %.0f" preserveAspectRatio="xMidYMid slice" aria-hidden="true" focusable="false">%s</svg>`,
		c.w, c.h, c.String(),
	))
}
