package proc

import "bytes"

// longestLine is the length at which a line is cut, so that a child that writes no line ends does not fill the memory.
const longestLine = 64 << 10

// Lines is a writer that calls Line for each whole line, without its end. It is not safe for concurrent use.
type Lines struct {
	// Line gets a line that is valid only during the call. Required.
	Line func(line []byte)
	rest []byte
}

// Write never fails.
func (l *Lines) Write(b []byte) (int, error) {
	n := len(b)
	for {
		i := bytes.IndexByte(b, '\n')
		if i < 0 {
			break
		}
		l.rest = append(l.rest, b[:i]...)
		l.Flush()
		b = b[i+1:]
	}
	l.rest = append(l.rest, b...)
	if len(l.rest) >= longestLine {
		l.Flush()
	}
	return n, nil
}

// Flush calls Line with the incomplete line that was written last, if any.
func (l *Lines) Flush() {
	if len(l.rest) > 0 {
		l.Line(bytes.TrimSuffix(l.rest, []byte("\r")))
	}
	l.rest = l.rest[:0]
}
