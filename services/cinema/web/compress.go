package web

import (
	"bytes"
	"compress/gzip"
	"net/http"
	"strconv"
	"strings"
	"sync"
)

// worthwhile is the size from which a page is compressed. Posters are drawings in the page: the home page shrinks to a
// fifth. Smaller ones fit a few packets anyway.
const worthwhile = 4 << 10

// squeezers are writers at rest: a new one takes more memory than the page.
var squeezers = sync.Pool{New: func() any {
	z, _ := gzip.NewWriterLevel(nil, gzip.BestSpeed) // it fails for unknown levels only
	return z
}}

// write answers with a body, compressed for clients that take that. The header must be complete but for the encoding.
func write(w http.ResponseWriter, r *http.Request, status int, body []byte) {
	if len(body) >= worthwhile {
		w.Header().Add("Vary", "Accept-Encoding")
		if takesGzip(r.Header.Values("Accept-Encoding")) {
			w.Header().Set("Content-Encoding", "gzip")
			body = squeeze(body)
		}
	}
	w.Header().Set("Content-Length", strconv.Itoa(len(body)))
	w.WriteHeader(status)
	_, _ = w.Write(body) // the client may be gone
}

func squeeze(body []byte) []byte {
	var b bytes.Buffer
	z := squeezers.Get().(*gzip.Writer)
	defer squeezers.Put(z)
	z.Reset(&b)
	_, _ = z.Write(body) // a buffer takes everything
	_ = z.Close()
	return b.Bytes()
}

// takesGzip reads Accept-Encoding: "gzip", "*" or "gzip;q=0.5", but not "gzip;q=0".
func takesGzip(accept []string) bool {
	takes := false
	for coding := range strings.SplitSeq(strings.Join(accept, ","), ",") {
		name, weight, _ := strings.Cut(coding, ";")
		name = strings.ToLower(strings.TrimSpace(name))
		if name != "gzip" && name != "*" {
			continue
		}
		q, given := strings.CutPrefix(strings.ReplaceAll(strings.ToLower(weight), " ", ""), "q=")
		v, err := strconv.ParseFloat(q, 64)
		takes = !given || err == nil && v > 0
		if name == "gzip" { // says more than a star
			return takes
		}
	}
	return takes
}
