package http1

import (
	"bytes"
	"errors"
	"fmt"
	"strings"

	"bijou.dev/services/gateway/internal/message"
	"bijou.dev/services/gateway/internal/syntax"
)

// Errors of an origin.
var (
	errAnswerHead = errors.New("the origin's header is too large")
	errSwitched   = errors.New("the origin switched protocols without being asked")
)

// answer is the head of a response.
type answer struct {
	message.Response
	http10  bool
	chunked bool
	empty   bool // there is no body
	close   bool // the connection cannot be used again
	body    answerBody
	room    [16]message.Field // memory of most headers
}

// endOfHead returns the length of the head that data begins with. 0: it is not complete. Lines before from are known
// not to end it.
func endOfHead(data []byte, from int) int {
	for {
		n := bytes.IndexByte(data[from:], '\n')
		if n < 0 {
			return 0
		}
		from += n + 1
		switch rest := data[from:]; {
		case len(rest) > 0 && rest[0] == '\n':
			return from + 1
		case len(rest) > 1 && rest[0] == '\r' && rest[1] == '\n':
			return from + 2
		}
	}
}

// parseAnswer reads the complete head of the response to a request with a method; lines is memory to work with. Origins
// may be old: lines may end with LF alone, folded lines are joined by a space, and a field with white space before its
// colon is left out (RFC 9112, 2.2, 5.1 and 5.2).
func parseAnswer(data []byte, method string, lines *[]place) (*answer, error) {
	places := (*lines)[:0]
	status, begin := cutLine(data, 0)
	for left := true; ; {
		end, next := cutLine(data, begin)
		if end == begin {
			break
		}
		switch line := data[begin:end]; {
		case isSpace(line[0]):
			more := bytes.Trim(line, " \t")
			if len(places) == 0 && left || !clean(more) {
				return nil, errFold
			}
			if left && len(more) > 0 {
				places[len(places)-1].join(data, more)
			}
		case hasSpaceBeforeColon(line) && clean(line):
			left = false
		default:
			p, problem := readField(data, begin, end)
			if problem != "" {
				return nil, fmt.Errorf("the origin's header: %s", problem)
			}
			places, left = append(places, p), true
		}
		begin = next
	}
	*lines = places
	text := string(data)
	a := &answer{}
	if a.Header = a.room[:0]; len(places)+extraFields > len(a.room) {
		a.Header = make(message.Header, 0, len(places)+extraFields)
	}
	for _, p := range places {
		a.Header.Add(text[p.name:p.nameEnd], text[p.value:p.end])
	}
	if err := a.statusLine(text[:status]); err != nil {
		return nil, err
	}
	return a, a.framing(method)
}

// join adds a folded line to the value, behind a space that stands where the end of its line was.
func (p *place) join(data, more []byte) {
	data[p.end] = ' '
	end := p.end + 1
	if p.value == p.end { // nothing comes before the space
		p.value = end
	}
	p.end = end + copy(data[end:], more)
}

var errFold = errors.New("the origin's header has a folded line that belongs to none")

// cutLine finds the end of the line that begins at a place, and where the next one begins. There must be an LF.
func cutLine(data []byte, begin int) (end, next int) {
	n := bytes.IndexByte(data[begin:], '\n')
	end = begin + n
	if n > 0 && data[end-1] == '\r' {
		end--
	}
	return end, begin + n + 1
}

// extraFields is room for what the edge adds to a response.
const extraFields = 6

func hasSpaceBeforeColon(line []byte) bool {
	n := bytes.IndexByte(line, ':')
	return n > 1 && line[n-1] == ' ' && syntax.Only(bytes.TrimRight(line[:n], " "), &syntax.TokenChars)
}

// statusLine reads "HTTP/1.x 200 reason".
func (a *answer) statusLine(line string) error {
	version, rest, _ := strings.Cut(line, " ")
	status, _, _ := strings.Cut(rest, " ")
	if len(version) != len("HTTP/1.1") || version[:7] != "HTTP/1." || version[7] < '0' || version[7] > '9' {
		return errors.New("the origin's version of HTTP is not 1.1 or 1.0")
	}
	a.http10 = version[7] == '0'
	if len(status) != 3 {
		return errors.New("the origin's status is not three digits")
	}
	for i := range len(status) {
		if status[i] < '0' || status[i] > '9' {
			return errors.New("the origin's status is not three digits")
		}
		a.Status = a.Status*10 + int(status[i]-'0')
	}
	if a.Status < 100 {
		return errors.New("the origin's status is below 100")
	}
	return nil
}

// framing finds out where the body ends (RFC 9112, 6.3), and takes the fields about it out of the header.
func (a *answer) framing(method string) error {
	a.Length, a.close = -1, a.http10 // which may have had chunks that it does not know (RFC 9112, 6.1)
	if !a.close {
		a.close = a.Header.HasWord("Connection", "close")
	}
	lengths, codings := 0, 0
	for _, f := range a.Header {
		switch f.Name {
		case "Transfer-Encoding":
			if codings++; !a.http10 && (codings > 1 || !isChunked([]byte(f.Value))) {
				return fmt.Errorf("the origin's Transfer-Encoding is %q, want chunked", f.Value)
			}
			a.chunked = !a.http10
		case "Content-Length":
			lengths++
		}
	}
	if lengths > 0 {
		for value := range a.Header.Values("Content-Length") {
			n, ok := readLength([]byte(value))
			if !ok || a.Length >= 0 && n != a.Length {
				return fmt.Errorf("the origin's Content-Length is %q, want digits, once", value)
			}
			a.Length = n
		}
		a.Header.Delete("Content-Length")
	}
	if a.chunked {
		a.Length = -1 // whatever Content-Length says (RFC 9112, 6.3)
	}
	if codings > 0 {
		a.Header.Delete("Transfer-Encoding")
	}
	if a.empty = !message.HasBody(method, a.Status); a.empty {
		a.chunked = false
		return nil
	}
	if a.chunked {
		a.Announced = a.Header.Announced()
	} else if a.Length < 0 {
		a.close = true // the end of the connection is that of the body
	}
	return nil
}
