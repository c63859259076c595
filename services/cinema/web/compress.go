package web

import (
	"bytes"
	"compress/gzip"
	"net/http"
	"strconv"
	"strings"
	"sync"
)

// minCompressed is the smallest size in bytes of a page that is compressed. Compression reduces the home page with its
// posters to a fifth. Smaller pages fit into a few packets without it.
const minCompressed = 4 << 10

// gzipWriters are reused, because a new writer needs more memory than the page.
var gzipWriters = sync.Pool{New: func() any {
	z, _ := gzip.NewWriterLevel(nil, gzip.BestSpeed) // it fails only for unknown levels
	return z
}}

// write sends a response, compressed if the client accepts that. It sets the headers of encoding and length; all others
// must be set before.
func write(w http.ResponseWriter, r *http.Request, status int, body []byte) {
	if len(body) >= minCompressed {
		w.Header().Add("Vary", "Accept-Encoding")
		if acceptsGzip(r.Header.Values("Accept-Encoding")) {
			w.Header().Set("Content-Encoding", "gzip")
			body = compress(body)
		}
	}
	w.Header().Set("Content-Length", strconv.Itoa(len(body)))
	w.WriteHeader(status)
	_, _ = w.Write(body) // it fails if the client has closed the connection
}

func compress(body []byte) []byte {
	var b bytes.Buffer
	z := gzipWriters.Get().(*gzip.Writer)
	defer gzipWriters.Put(z)
	z.Reset(&b)
	_, _ = z.Write(body) // writing to a Buffer does not fail
	_ = z.Close()
	return b.Bytes()
}

// acceptsGzip reports whether Accept-Encoding allows gzip: "gzip", "*" or "gzip;q=0.5", but not "gzip;q=0".
func acceptsGzip(accept []string) bool {
	accepts := false
	for coding := range strings.SplitSeq(strings.Join(accept, ","), ",") {
		name, weight, _ := strings.Cut(coding, ";")
		name = strings.ToLower(strings.TrimSpace(name))
		if name != "gzip" && name != "*" {
			continue
		}
		q, given := strings.CutPrefix(strings.ReplaceAll(strings.ToLower(weight), " ", ""), "q=")
		v, err := strconv.ParseFloat(q, 64)
		accepts = !given || err == nil && v > 0
		if name == "gzip" { // overrides *
			return accepts
		}
	}
	return accepts
}
