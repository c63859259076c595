// Package term formats text for people: colours, tables, readable log lines, and the waterfall of a trace. Without
// colours the text is the same.
//
// Text from outside, such as the author of a change or the name of a span, is escaped: an escape sequence could erase
// other lines of the terminal, and a line break could forge a line. [Painted] is text that is safe to print. [Table],
// [Style] and [Fprintf] escape all other text.
package term

import (
	"fmt"
	"hash/fnv"
	"io"
	"os"
	"regexp"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"bijou.dev/platform/text"
	xterm "golang.org/x/term"
)

// Painted is text that is safe to print: the only escape sequences in it are the colours of [Style].
type Painted string

// Plain escapes text from outside.
func Plain(s string) Painted { return Painted(text.Escape(s)) }

// Fprintf is fmt.Fprintf that escapes its arguments. Only [Painted] and numbers are printed as they are.
func Fprintf(w io.Writer, format string, args ...any) error {
	_, err := io.WriteString(w, string(Sprintf(format, args...)))
	return err
}

// Sprintf is fmt.Sprintf that escapes its arguments, as [Fprintf] does.
func Sprintf(format string, args ...any) Painted {
	safe := make([]any, len(args))
	for i, arg := range args {
		switch arg := arg.(type) {
		case string:
			safe[i] = Plain(arg)
		case fmt.Stringer:
			safe[i] = Plain(arg.String())
		case error:
			safe[i] = Plain(arg.Error())
		default:
			safe[i] = arg
		}
	}
	return Painted(fmt.Sprintf(format, safe...))
}

// Style colours words. The zero value does not.
type Style struct {
	// On turns colours on.
	On bool
}

// Size says whether w is a terminal and how wide it is. Anything else counts as 100 columns wide.
func Size(w io.Writer) (isTerminal bool, width int) {
	file, ok := w.(*os.File)
	if !ok || !xterm.IsTerminal(int(file.Fd())) {
		return false, 100
	}
	width, _, err := xterm.GetSize(int(file.Fd()))
	if err != nil || width < 40 {
		return true, 80
	}
	return true, width
}

func (s Style) paint(code, text string) Painted {
	safe := Plain(text)
	if !s.On || safe == "" {
		return safe
	}
	return "\x1b[" + Painted(code) + "m" + safe + "\x1b[0m"
}

// Bold is for the main part of a line.
func (s Style) Bold(text string) Painted { return s.paint("1", text) }

// Dim is for secondary text.
func (s Style) Dim(text string) Painted { return s.paint("2", text) }

// Red is for errors.
func (s Style) Red(text string) Painted { return s.paint("31", text) }

// Green is for states without a problem.
func (s Style) Green(text string) Painted { return s.paint("32", text) }

// Yellow is for warnings and for states that will change.
func (s Style) Yellow(text string) Painted { return s.paint("33", text) }

// palette has colours that are readable on dark and on light terminals.
var palette = []string{
	"36", "35", "34", "32", "33", "96", "95", "94", "92", "38;5;208", "38;5;141", "38;5;43",
	"38;5;175", "38;5;109",
}

// Name colours text by key: a service has the same colour everywhere.
func (s Style) Name(key, text string) Painted {
	h := fnv.New32a()
	_, _ = h.Write([]byte(key))
	return s.paint(palette[h.Sum32()%uint32(len(palette))], text)
}

var escapes = regexp.MustCompile("\x1b\\[[0-9;]*m")

// width is the number of columns that text takes on a terminal.
func width(text Painted) int {
	n := 0
	for _, r := range escapes.ReplaceAllString(string(text), "") {
		n += columnsOf(r)
	}
	return n
}

// wide are the characters that take two columns: those of East Asian scripts in their full width, and emoji. See
// Unicode Standard Annex 11.
var wide = []*unicode.RangeTable{
	unicode.Han, unicode.Hiragana, unicode.Katakana, unicode.Hangul,
	{
		R16: []unicode.Range16{{Lo: 0x3000, Hi: 0x303e, Stride: 1}, {Lo: 0xff01, Hi: 0xff60, Stride: 1}},
		R32: []unicode.Range32{{Lo: 0x1f300, Hi: 0x1f64f, Stride: 1}, {Lo: 0x1f680, Hi: 0x1f6ff, Stride: 1}, {
			Lo: 0x1f900, Hi: 0x1faff, Stride: 1,
		}},
	},
}

// columnsOf is the number of columns of a character: 0 for an accent that is drawn over the character before it.
func columnsOf(r rune) int {
	switch {
	case unicode.In(r, unicode.Mn, unicode.Me):
		return 0
	case 0xff61 <= r && r <= 0xffdc: // Katakana and Hangul in half width
		return 1
	case unicode.In(r, wide...):
		return 2
	}
	return 1
}

// Pad fills text up with blanks to n columns.
func Pad(text Painted, n int) Painted {
	return text + Painted(strings.Repeat(" ", max(0, n-width(text))))
}

// Cut shortens text to n columns. A shortened text ends with "…".
func Cut(text Painted, n int) Painted {
	if n < 1 || width(text) <= n {
		return text
	}
	var b strings.Builder
	left, painted := n-1, false
	for rest := string(text); rest != ""; {
		if m := escapes.FindStringIndex(rest); m != nil && m[0] == 0 {
			painted = rest[:m[1]] != "\x1b[0m"
			b.WriteString(rest[:m[1]])
			rest = rest[m[1]:]
			continue
		}
		r, size := utf8.DecodeRuneInString(rest)
		if columnsOf(r) > left {
			break
		}
		b.WriteString(rest[:size])
		rest, left = rest[size:], left-columnsOf(r)
	}
	b.WriteString("…")
	if painted {
		b.WriteString("\x1b[0m")
	}
	return Painted(b.String())
}

// Table is rows under a heading, each column as wide as its widest cell, all together at most as wide as the terminal.
type Table struct {
	Header []string
	Rows   [][]Painted
}

// Add appends a row. Cells are strings, which are escaped, or [Painted].
func (t *Table) Add(cells ...any) {
	row := make([]Painted, len(cells))
	for i, cell := range cells {
		row[i] = Sprintf("%v", cell)
	}
	t.Rows = append(t.Rows, row)
}

const (
	// gap is the space between two columns.
	gap = 2
	// narrowest is the least width of a column that is cut.
	narrowest = 12
	// widest is the most width of a column, also where no terminal sets a limit: in a file or a pipe.
	widest = 120
)

// Write writes the table, the heading dimmed. On a terminal of so many columns, the widest columns are cut until a row
// fits; columns 0 is no terminal: only cells of more than 120 columns are cut. A table without rows writes nothing.
func (t *Table) Write(w io.Writer, s Style, columns int) error {
	if len(t.Rows) == 0 {
		return nil
	}
	header := make([]Painted, len(t.Header))
	for i, name := range t.Header {
		header[i] = Painted(name)
	}
	widths := t.widths(header, columns)
	if err := Fprintf(w, "%s\n", s.Dim(string(joinCells(header, widths)))); err != nil {
		return err
	}
	for _, row := range t.Rows {
		if err := Fprintf(w, "%s\n", joinCells(row, widths)); err != nil {
			return err
		}
	}
	return nil
}

// widths returns how wide each column is drawn.
func (t *Table) widths(header []Painted, columns int) []int {
	widths := make([]int, len(header))
	for _, row := range append([][]Painted{header}, t.Rows...) {
		for i, cell := range row {
			widths[i] = min(max(widths[i], width(cell)), widest)
		}
	}
	if columns == 0 {
		return widths
	}
	for total(widths) > columns {
		most := slices.Index(widths, slices.Max(widths))
		if widths[most] <= narrowest {
			break // the terminal has no room for so many columns
		}
		widths[most]--
	}
	return widths
}

// total is the width of a row.
func total(widths []int) int {
	sum := gap * (len(widths) - 1)
	for _, n := range widths {
		sum += n
	}
	return sum
}

func joinCells(cells []Painted, widths []int) Painted {
	var b strings.Builder
	for i, cell := range cells {
		cell = Cut(cell, widths[i])
		if i < len(cells)-1 {
			cell = Pad(cell, widths[i]+gap)
		}
		b.WriteString(string(cell))
	}
	return Painted(strings.TrimRight(b.String(), " "))
}

// Bytes writes a size for people: "12 MiB".
func Bytes(n int64) string {
	switch {
	case n >= 10<<30:
		return fmt.Sprintf("%d GiB", n>>30)
	case n >= 1<<30:
		return fmt.Sprintf("%.1f GiB", float64(n)/(1<<30))
	case n >= 1<<20:
		return fmt.Sprintf("%d MiB", n>>20)
	default:
		return fmt.Sprintf("%d KiB", n>>10)
	}
}
