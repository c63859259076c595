package http1

import (
	"bytes"
	"errors"
	"io"
	"math"

	"bijou.dev/services/gateway/internal/message"
	"bijou.dev/services/gateway/internal/syntax"
)

// errMalformed says that what came is no body.
var errMalformed = errors.New("the body is not well formed")

// maxExtra bounds what chunks may carry beside data, all together, and maxChunkLine a line of it.
const (
	maxExtra     = 8 << 10
	maxChunkLine = 256
)

// chunks reads a body that comes in chunks (RFC 9112, 7.1).
type chunks struct {
	in      *input
	padded  bool // there may be white space behind the size of a chunk: some origins write sizes of a fixed width
	state   chunkState
	left    int64 // bytes of the chunk to come
	extra   int   // bytes spent on extensions and the trailer
	fields  int   // lines of the header and of the trailer so far
	trailer message.Header
	names   message.Header // that were announced
}

type chunkState uint8

const (
	chunkSize chunkState = iota
	chunkData
	chunkEnd
	chunkTrailer
	chunkDone
)

// read reads data. At the end of the body the error is io.EOF, and trailer is complete.
func (c *chunks) read(p []byte) (int, error) {
	for len(p) > 0 {
		if c.state == chunkDone {
			return 0, io.EOF
		}
		if c.state == chunkData {
			n, err := c.in.read(p[:min(int64(len(p)), c.left)])
			if c.left -= int64(n); c.left == 0 {
				c.state = chunkEnd
			}
			if n > 0 || err != nil {
				return n, unexpected(err)
			}
			continue
		}
		if used, err := c.line(c.in.data()); err != nil {
			return 0, err
		} else if used > 0 {
			c.in.use(used)
			continue
		}
		if err := c.in.fill(); err != nil {
			return 0, unexpected(err)
		}
	}
	return 0, nil
}

// unexpected replaces the end of the connection within a body.
func unexpected(err error) error {
	if err == io.EOF { //nolint:errorlint // as io.ReadFull does
		return io.ErrUnexpectedEOF
	}
	return err
}

// whole reads on in what was received, without waiting, and reports whether there is nothing left of the body.
func (c *chunks) whole() bool {
	for c.state != chunkDone {
		data := c.in.data()
		if len(data) == 0 {
			return false
		}
		if c.state == chunkData {
			if int64(len(data)) < c.left {
				return false
			}
			c.in.use(int(c.left))
			c.left, c.state = 0, chunkEnd
			continue
		}
		used, err := c.line(data)
		if used == 0 || err != nil {
			return false
		}
		c.in.use(used)
	}
	return true
}

// line reads one line between chunks: the end of one, the size of the next, or one of the trailer. It returns how many
// bytes it took; 0: the line is not complete.
func (c *chunks) line(data []byte) (used int, err error) {
	if c.state == chunkEnd {
		switch {
		case len(data) >= 2 && data[0] == '\r' && data[1] == '\n':
			c.state = chunkSize
			return 2, nil
		case len(data) >= 2 || len(data) == 1 && data[0] != '\r':
			return 0, errMalformed
		}
		return 0, nil
	}
	limit := maxChunkLine
	if c.state == chunkTrailer {
		limit = maxExtra
	}
	n := bytes.IndexByte(data, '\n')
	switch {
	case n < 0 && len(data) > limit, n > limit, n == 0, n > 0 && data[n-1] != '\r':
		return 0, errMalformed
	case n < 0:
		return 0, nil
	}
	if c.state == chunkTrailer {
		err = c.trailerLine(data[:n-1])
	} else {
		err = c.size(data[:n-1])
	}
	if c.extra > maxExtra {
		err = errMalformed
	}
	return n + 1, err
}

func (c *chunks) trailerLine(line []byte) error {
	c.extra += len(line)
	if len(line) == 0 {
		c.state = chunkDone
		return nil
	}
	p, problem := readField(line, 0, len(line))
	if c.fields++; problem != "" || c.fields > message.MaxFields {
		return errMalformed
	}
	switch name := string(line[p.name:p.nameEnd]); name {
	case "Host", "Content-Length", "Transfer-Encoding":
		return errMalformed
	default:
		c.trailer.Add(name, string(line[p.value:p.end]))
		return nil
	}
}

// size reads the line before a chunk.
func (c *chunks) size(line []byte) error {
	if c.padded {
		line = bytes.TrimRight(line, " \t")
	}
	size, extensions := line, []byte(nil)
	if i := bytes.IndexAny(line, "; \t"); i >= 0 {
		size, extensions = line[:i], line[i:]
	}
	c.extra += len(extensions)
	if len(size) == 0 || len(size) > 15 || !isChunkExtensions(extensions) {
		return errMalformed
	}
	c.left = 0
	for _, b := range size {
		digit, ok := syntax.Unhex(b)
		if !ok {
			return errMalformed
		}
		c.left = c.left<<4 | int64(digit)
	}
	if c.left > math.MaxInt32 { // nobody needs such a chunk, and some servers count them in 32 bits
		return errMalformed
	}
	c.state = chunkData
	if c.left == 0 {
		c.state = chunkTrailer
	}
	return nil
}

// isChunkExtensions reports whether s is what may stand behind the size of a chunk (RFC 9112, 7.1.1): names, or names
// with values, each after a semicolon. White space around semicolons and equals signs is bad, but must be parsed
// (RFC 9110, 5.6.3).
func isChunkExtensions(s []byte) bool {
	for len(s) > 0 {
		after, ok := bytes.CutPrefix(trimLeft(s), []byte(";"))
		if !ok {
			return false
		}
		if s, ok = cutToken(trimLeft(after)); !ok {
			return false
		}
		value, hasValue := bytes.CutPrefix(trimLeft(s), []byte("="))
		if !hasValue {
			continue
		}
		if value = trimLeft(value); len(value) > 0 && value[0] == '"' {
			s, ok = cutQuoted(value)
		} else {
			s, ok = cutToken(value)
		}
		if !ok {
			return false
		}
	}
	return true
}

// cutToken cuts the token that s begins with off (RFC 9110, 5.6.2).
func cutToken(s []byte) (rest []byte, ok bool) {
	n := 0
	for n < len(s) && syntax.TokenChars[s[n]] {
		n++
	}
	return s[n:], n > 0
}

// cutQuoted cuts the quoted string that s begins with off (RFC 9110, 5.6.4).
func cutQuoted(s []byte) (rest []byte, ok bool) {
	for i := 1; i < len(s); i++ {
		switch s[i] {
		case '"':
			return s[i+1:], clean(s[:i])
		case '\\':
			i++
		}
	}
	return nil, false
}

func trimLeft(s []byte) []byte { return bytes.TrimLeft(s, " \t") }
