package accesslog

import (
	"log/slog"
	"strconv"
	"time"

	"bijou.dev/platform/text"
	"bijou.dev/services/gateway/internal/message"
)

// Limits of a line, in bytes. A path has at most message.MaxTarget.
const (
	maxMethod = 64
	maxHost   = 255 // as syntax.IsHost
	maxQuery  = 2 << 10
	maxHeader = 1 << 10
)

// Entry is a request that has ended.
type Entry struct {
	At                        time.Time
	Took                      time.Duration
	Method, Host, Path, Query string
	Protocol, Scheme          string // 1.1; https
	Route, Called, By         string
	Status, Attempts          int
	Bytes                     int64
	Fault                     string
	Client, Peer, Identity    string
	RequestID, TraceID        string
	Header                    message.Header
	Share                     float64 // of the requests like this one that get a line
}

// Share is the part of the requests without a fault that get a line.
func (f *Form) Share() float64 { return f.share }

// HasTraceID reports whether lines have the trace id.
func (f *Form) HasTraceID() bool { return f.traceID }

// IsText reports whether lines are text and not JSON.
func (f *Form) IsText() bool { return f.parts != nil }

// Attrs appends the fields of a line of JSON.
func (f *Form) Attrs(to []slog.Attr, e *Entry) []slog.Attr {
	if f.fields == nil {
		to = append(to, slog.String("method", text.Bound(e.Method, maxMethod)),
			slog.String("host", text.Bound(e.Host, maxHost)), slog.String("path", e.Path),
			slog.String("route", e.Route), slog.String("called", e.Called), slog.String("by", e.By),
			slog.Int("status", e.Status), slog.Int64("bytes", e.Bytes), slog.Duration("took", e.Took),
			slog.Int("attempts", e.Attempts), slog.String("fault", e.Fault), slog.String("client", e.Client),
			slog.String("identity", e.Identity), slog.String("request_id", e.RequestID))
	}
	for i := range f.fields {
		v := &f.fields[i]
		switch v.kind {
		case kindStatus:
			to = append(to, slog.Int(v.key, e.Status))
		case kindBytes:
			to = append(to, slog.Int64(v.key, e.Bytes))
		case kindTook:
			to = append(to, slog.Duration(v.key, e.Took))
		case kindAttempts:
			to = append(to, slog.Int(v.key, e.Attempts))
		case kindShare:
			to = append(to, slog.Float64(v.key, e.Share))
		default:
			value, most := e.text(v)
			to = append(to, slog.String(v.key, text.Bound(value, most)))
		}
	}
	if e.Share < 1 && f.fields == nil {
		to = append(to, slog.Float64("share", e.Share))
	}
	return to
}

// text returns a value that is a text, and how many bytes of it a line may have.
func (e *Entry) text(v *field) (value string, most int) {
	switch v.kind {
	case kindMethod:
		return e.Method, maxMethod
	case kindHost:
		return e.Host, maxHost
	case kindPath:
		return e.Path, message.MaxTarget
	case kindQuery:
		return e.Query, maxQuery
	case kindProtocol:
		return e.Protocol, maxMethod
	case kindScheme:
		return e.Scheme, maxMethod
	case kindRoute:
		return e.Route, maxHost
	case kindCalled:
		return e.Called, maxHost
	case kindBy:
		return e.By, maxHost
	case kindFault:
		return e.Fault, maxMethod
	case kindClient:
		return e.Client, maxHost
	case kindPeer:
		return e.Peer, maxHost
	case kindIdentity:
		return e.Identity, maxHost
	case kindRequestID:
		return e.RequestID, maxHost
	case kindTraceID:
		return e.TraceID, maxHost
	}
	return e.Header.Get(v.header), maxHeader
}

// Append appends a line of text with its end. It needs no memory but that of the line.
func (f *Form) Append(to []byte, e *Entry) []byte {
	for i := range f.parts {
		p := &f.parts[i]
		if p.text != "" {
			to = append(to, p.text...)
			continue
		}
		switch p.field.kind {
		case kindTime:
			to = e.At.UTC().AppendFormat(to, "2006-01-02T15:04:05.000Z")
		case kindCLFTime:
			to = e.At.AppendFormat(to, "02/Jan/2006:15:04:05 -0700")
		case kindStatus:
			to = strconv.AppendInt(to, int64(e.Status), 10)
		case kindBytes:
			to = strconv.AppendInt(to, e.Bytes, 10)
		case kindTook:
			to = strconv.AppendFloat(to, e.Took.Seconds(), 'f', 6, 64)
		case kindAttempts:
			to = strconv.AppendInt(to, int64(e.Attempts), 10)
		case kindShare:
			to = strconv.AppendFloat(to, e.Share, 'g', -1, 64)
		default:
			value, most := e.text(&p.field)
			if value == "" && p.field.kind == kindQuery {
				continue // it stands behind the path
			}
			to = appendEscaped(to, value, most, p.field.kind == kindHeader)
		}
	}
	return append(to, '\n')
}

const hex = "0123456789abcdef"

// appendEscaped appends a value so that it cannot be taken for a part of the line: as Apache does, quotation marks and
// backslashes get a backslash, and what is not printable ASCII is \xhh. A space is, too, unless spaces says that the
// value stands between quotation marks. An empty value is "-".
func appendEscaped(to []byte, value string, most int, spaces bool) []byte {
	if value == "" {
		return append(to, '-')
	}
	for i := range min(len(value), most) {
		switch c := value[i]; {
		case c == '"' || c == '\\':
			to = append(to, '\\', c)
		case c < ' ' || c > '~' || c == ' ' && !spaces:
			to = append(to, '\\', 'x', hex[c>>4], hex[c&15])
		default:
			to = append(to, c)
		}
	}
	return to
}
