package routes

import (
	"errors"
	"slices"
	"strings"

	"bijou.dev/services/gateway/internal/message"
	"bijou.dev/services/gateway/internal/syntax"
)

// PathMode says what a route does with a path that servers read in more than one way: with empty segments ("//"), dot
// segments ("..", also escaped), escaped slashes or backslashes, and dot segments with parameters ("..;x").
type PathMode string

// The modes.
const (
	// PathRefuse answers 400. It is the default.
	PathRefuse PathMode = "refuse"
	// PathNormalize resolves dot segments, removes empty segments and reads an escaped slash as a slash. The route is
	// looked for with the result, and the origin gets the result. Backslashes and "..;x" are refused: servers differ.
	PathNormalize PathMode = "normalize"
	// PathRaw passes the path on as it came, if it leads to this route however a server reads it; else it is refused.
	PathRaw PathMode = "raw"
)

// Errors of checkPath. They are sent to the client as the detail of the response. The last two are about paths with
// more than one meaning, which a route may allow.
var (
	errPathStart   = errors.New("the path must begin with a slash")
	errPathControl = errors.New("the path must not have a control character in escaped form")
	errPathChar    = errors.New("the path must have no backslash, space or control character, and no broken escape")
	errPathSegment = errors.New(`the path must have no "." or ".." and no empty segment`)
	errPathEscape  = errors.New("the path must not have a slash or a backslash in escaped form")
)

// ambiguous reports whether an error of checkPath is about a path that has more than one meaning.
func ambiguous(err error) bool { return err == errPathSegment || err == errPathEscape } //nolint:errorlint // these two

// CheckPath returns an error for a path that no rule can allow, whatever its mode.
func CheckPath(path string) error {
	if err := checkPath(path); err != nil && !ambiguous(err) {
		return err
	}
	return nil
}

// Unambiguous returns an error for a path that servers may read in more than one way.
func Unambiguous(path string) error { return checkPath(path) }

// checkPath returns an error for every path that a server behind the edge might read as another path than the one that
// is matched. path is as received, with its escapes and without the query. Of several errors, one that no route allows
// comes first.
func checkPath(path string) (err error) {
	if path == "" || path[0] != '/' {
		return errPathStart
	}
	plain := 0 // decoded bytes in this segment
	dots := 0  // how many of them, from its start, are dots
	params := false
	for i := 1; i <= len(path); i++ {
		if i == len(path) || path[i] == '/' {
			// Servers with path parameters read "..;x" as "..".
			if dots > 0 && dots <= 2 && (plain == dots || params) || plain == 0 && i < len(path) {
				err = errPathSegment
			}
			plain, dots, params = 0, 0, false
			continue
		}
		c := path[i]
		if c == '%' {
			var ok bool
			if c, ok = syntax.Unescape(path[i:]); !ok {
				return errPathChar
			}
			if c < 0x20 || c == 0x7f {
				return errPathControl
			}
			if c == '/' || c == '\\' {
				err = errPathEscape
			}
			i += 2
		} else if c <= ' ' || c == '\\' || c == 0x7f {
			return errPathChar
		}
		switch {
		case c == '.' && dots == plain:
			dots++
		case c == ';' && dots == plain:
			params = true
		}
		plain++
	}
	return err
}

// Find returns the rule for a request and its path, and the path to send. path is as it came, with its escapes and
// without the query; client is the address of the client. Nil: no rule takes it. Most paths have one meaning. For
// others there must be a rule whose mode allows the path; otherwise the error says what is wrong with the path.
func (t *Table) Find(r *message.Request, path, client string) (u *Rule, sent string, err error) {
	host := syntax.HostName(r.Host)
	find := func(plain string) *Rule { return t.find(host, plain, r, client) }
	if err = checkPath(path); err == nil {
		return find(unescapeBut(path, "")), path, nil
	}
	if !t.lenient || !ambiguous(err) {
		return nil, "", err
	}
	if sent, ok := normalize(path); ok {
		if u := find(unescapeBut(sent, "")); u != nil && u.Path == PathNormalize {
			return u, sent, nil
		}
	}
	for _, reading := range readings(path) {
		next := find(reading)
		if next == nil || next.Path != PathRaw || u != nil && u != next {
			return nil, "", err
		}
		u = next
	}
	if u == nil || !u.contains(path) {
		return nil, "", err
	}
	return u, path, nil
}

// contains reports whether a path that the rule rewrites stays below the new prefix, however a server reads it.
func (u *Rule) contains(path string) bool {
	to := u.Rewrite.Prefix
	if to == "" {
		return true
	}
	return !slices.ContainsFunc(readings(ReplacePrefix(path, len(u.Match.Prefix), to)),
		func(reading string) bool { return !hasPrefix(reading, to) })
}

// normalize returns the path that RFC 3986, section 5.2.4, makes of one with dot segments, also escaped, after escaped
// slashes are slashes and empty segments are removed. False: that is not the only way to read it.
func normalize(path string) (string, bool) {
	var b strings.Builder
	for i := 0; i < len(path); i++ {
		c := path[i]
		if c != '%' {
			b.WriteByte(c)
			continue
		}
		switch c, _ = syntax.Unescape(path[i:]); c { // checkPath has checked the escapes
		case '\\':
			return "", false
		case '/', '.':
			b.WriteByte(c)
		default:
			b.WriteString(path[i : i+3])
		}
		i += 2
	}
	path = resolveDots(mergeSlashes(b.String()))
	return path, checkPath(path) == nil
}

// maxReadings bounds the work for one path. More have only paths that are made for it.
const maxReadings = 64

// readings returns the paths that servers can read in a path: with and without reading escapes again, backslashes as
// slashes, parameters, empty segments and dot segments, in any order. The first is the path as it came, in which only
// slashes and backslashes stay escaped. Nil: there are too many.
func readings(path string) []string {
	all := []string{unescapeBut(path, `/\`)}
	for i := 0; i < len(all); i++ {
		for _, read := range []func(string) string{unescapeAll, dropParams, mergeSlashes, resolveDots} {
			if next := read(all[i]); !slices.Contains(all, next) {
				all = append(all, next)
			}
		}
		if len(all) > maxReadings {
			return nil
		}
	}
	return all
}

// unescapeAll reads escapes, and backslashes as slashes.
func unescapeAll(path string) string { return strings.ReplaceAll(unescapeBut(path, ""), `\`, "/") }

// unescapeBut reads all escapes but those of some bytes. Broken ones stay.
func unescapeBut(path, keep string) string {
	if strings.IndexByte(path, '%') < 0 {
		return path
	}
	b := make([]byte, 0, len(path))
	for i := 0; i < len(path); i++ {
		if path[i] == '%' {
			if c, ok := syntax.Unescape(path[i:]); ok && strings.IndexByte(keep, c) < 0 {
				b = append(b, c)
				i += 2
				continue
			}
		}
		b = append(b, path[i])
	}
	return string(b)
}

// dropParams removes path parameters: "/a;v=1/b" is "/a/b".
func dropParams(path string) string {
	segments := strings.Split(path, "/")
	for i := range segments {
		segments[i], _, _ = strings.Cut(segments[i], ";")
	}
	return strings.Join(segments, "/")
}

// mergeSlashes removes empty segments.
func mergeSlashes(path string) string {
	for strings.Contains(path, "//") {
		path = strings.ReplaceAll(path, "//", "/")
	}
	return path
}

// resolveDots removes dot segments (RFC 3986, 5.2.4).
func resolveDots(path string) string {
	segments := strings.Split(path, "/")
	out := segments[:1] // what is before the first slash
	for i, s := range segments[1:] {
		last := i == len(segments)-2
		if s == ".." && len(out) > 1 {
			out = out[:len(out)-1]
		}
		switch {
		case s != "." && s != "..":
			out = append(out, s)
		case last:
			out = append(out, "")
		}
	}
	if len(out) == 1 {
		return "/"
	}
	return strings.Join(out, "/")
}

// ReplacePrefix puts to in the place of the first n unescaped bytes of a path, which is as it came, with escapes.
func ReplacePrefix(path string, n int, to string) string {
	i := 0
	for ; n > 0 && i < len(path); n-- {
		if path[i] == '%' {
			i += 2
		}
		i++
	}
	rest := path[min(i, len(path)):]
	if i == 0 || path[min(i, len(path))-1] != '/' { // the prefix ended without a slash
		rest = strings.TrimPrefix(rest, "/")
	}
	if rest == "" {
		return to
	}
	return strings.TrimSuffix(to, "/") + "/" + rest
}
