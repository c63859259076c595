// Package term writes for people: coloured words, tables, readable log lines, and the waterfall of a trace.
// Without colours its output is plain text that reads the same.
package term

import (
	"fmt"
	"hash/fnv"
	"io"
	"os"
	"regexp"
	"strings"
	"unicode/utf8"

	xterm "golang.org/x/term"
)

// Style colours words. The zero value does not.
type Style struct {
	// On turns colours on.
	On bool
}

// Size says whether w is a terminal and how wide it is; anything else has no width limit worth minding and gets 100.
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

func (s Style) paint(code, text string) string {
	if !s.On || text == "" {
		return text
	}
	return "\x1b[" + code + "m" + text + "\x1b[0m"
}

// Bold paints what people look for.
func (s Style) Bold(text string) string { return s.paint("1", text) }

// Dim paints what matters less.
func (s Style) Dim(text string) string { return s.paint("2", text) }

// Red paints what is wrong.
func (s Style) Red(text string) string { return s.paint("31", text) }

// Green paints what is well.
func (s Style) Green(text string) string { return s.paint("32", text) }

// Yellow paints what is under way.
func (s Style) Yellow(text string) string { return s.paint("33", text) }

// palette is readable on dark and light ground.
var palette = []string{"36", "35", "34", "32", "33", "96", "95", "94", "92", "38;5;208", "38;5;141", "38;5;43", "38;5;175", "38;5;109"}

// Name paints text in a colour that belongs to key: a service has the same one everywhere.
func (s Style) Name(key, text string) string {
	h := fnv.New32a()
	_, _ = h.Write([]byte(key))
	return s.paint(palette[h.Sum32()%uint32(len(palette))], text)
}

var escapes = regexp.MustCompile("\x1b\\[[0-9;]*m")

// width is the number of columns that text takes.
func width(text string) int { return utf8.RuneCountInString(escapes.ReplaceAllString(text, "")) }

// Pad fills text up with blanks to n columns.
func Pad(text string, n int) string {
	return text + strings.Repeat(" ", max(0, n-width(text)))
}

// Cut shortens plain text to n columns.
func Cut(text string, n int) string {
	runes := []rune(text)
	if len(runes) <= n || n < 1 {
		return text
	}
	return string(runes[:n-1]) + "…"
}

// Table is rows under a heading, each column as wide as its widest cell.
type Table struct {
	Header []string
	Rows   [][]string
}

// Add appends a row.
func (t *Table) Add(cells ...string) { t.Rows = append(t.Rows, cells) }

// Write writes the table, the heading dimmed. A table without rows writes nothing.
func (t *Table) Write(w io.Writer, s Style) error {
	if len(t.Rows) == 0 {
		return nil
	}
	widths := make([]int, len(t.Header))
	for _, row := range append([][]string{t.Header}, t.Rows...) {
		for i, cell := range row {
			widths[i] = max(widths[i], width(cell))
		}
	}
	if _, err := fmt.Fprintln(w, s.Dim(joinCells(t.Header, widths))); err != nil {
		return err
	}
	for _, row := range t.Rows {
		if _, err := fmt.Fprintln(w, joinCells(row, widths)); err != nil {
			return err
		}
	}
	return nil
}

func joinCells(cells []string, widths []int) string {
	var b strings.Builder
	for i, cell := range cells {
		if i == len(cells)-1 {
			b.WriteString(cell)
			break
		}
		b.WriteString(Pad(cell, widths[i]+2))
	}
	return strings.TrimRight(b.String(), " ")
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
