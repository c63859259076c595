package gateway_test

import (
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// ok is a request that must be answered on every connection that is still good.
const ok = "GET /ok HTTP/1.1\r\nHost: x\r\n\r\n"

// TestFraming sends bytes on a connection and compares the statuses of all answers until the edge closes it, and what
// the origin saw. Every input is followed by a good request: an answer to it after a 400 means that the edge went on
// reading where it could not know what a message is.
func TestFraming(t *testing.T) {
	w := newWorld(t, toWeb)
	var mu sync.Mutex
	var seen []string
	w.origin("web", "web-1", "v1", http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		seen = append(seen, r.Method+" "+r.URL.Path)
		for name := range r.Header {
			if strings.HasPrefix(name, "Smuggled") {
				t.Errorf("the origin saw %s", name)
			}
		}
	}))
	const get = "GET /a HTTP/1.1\r\nHost: x\r\n"
	const post = "POST /a HTTP/1.1\r\nHost: x\r\n"
	refused := []int{400}
	for name, c := range map[string]struct {
		in   string
		want []int
	}{
		"good":                    {get + "\r\n", []int{200, 200}},
		"good body":               {post + "Content-Length: 3\r\n\r\nabc", []int{200, 200}},
		"good chunks":             {post + "Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n", []int{200, 200}},
		"chunked in capitals":     {post + "transfer-encoding:  CHUNKED \r\n\r\n3\r\nabc\r\n0\r\n\r\n", []int{200, 200}},
		"good chunk ext":          {post + "Transfer-Encoding: chunked\r\n\r\n3;a=b\r\nabc\r\n0\r\n\r\n", []int{200, 200}},
		"good trailer":            {post + "Transfer-Encoding: chunked\r\n\r\n0\r\nX-T: 1\r\n\r\n", []int{200, 200}},
		"absolute form":           {"GET http://x/a HTTP/1.1\r\nHost: x\r\n\r\n", []int{200, 200}},
		"empty host URL":          {"GET http://x HTTP/1.1\r\nHost: x\r\n\r\n", []int{200, 200}},
		"HTTP/1.0":                {"GET /a HTTP/1.0\r\nHost: x\r\n\r\n", []int{200}}, // closes
		"length and coding":       {post + "Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", refused},
		"coding and length":       {post + "Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n", refused},
		"zero length and coding":  {post + "Content-Length: 0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", refused},
		"two lengths":             {post + "Content-Length: 3\r\nContent-Length: 4\r\n\r\nabcd", refused},
		"same length twice":       {post + "Content-Length: 3\r\nContent-Length: 3\r\n\r\nabc", refused},
		"list of lengths":         {post + "Content-Length: 3, 3\r\n\r\nabc", refused},
		"plus length":             {post + "Content-Length: +3\r\n\r\nabc", refused},
		"negative length":         {post + "Content-Length: -1\r\n\r\n", refused},
		"hex length":              {post + "Content-Length: 0x3\r\n\r\nabc", refused},
		"huge length":             {post + "Content-Length: 99999999999999999999\r\n\r\n", refused},
		"empty length":            {post + "Content-Length:\r\n\r\n", refused},
		"length with space":       {post + "Content-Length: 3 3\r\n\r\nabc", refused},
		"other coding":            {post + "Transfer-Encoding: gzip\r\n\r\n0\r\n\r\n", refused},
		"coding list":             {post + "Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", refused},
		"coding twice":            {post + "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", refused},
		"chunked, identity":       {post + "Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n", refused},
		"xchunked":                {post + "Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n", refused},
		"quoted chunked":          {post + "Transfer-Encoding: \"chunked\"\r\n\r\n0\r\n\r\n", refused},
		"vertical tab":            {post + "Transfer-Encoding: \x0bchunked\r\n\r\n0\r\n\r\n", refused},
		"empty coding":            {post + "Transfer-Encoding:\r\n\r\n", refused},
		"1.0 with coding":         {"POST /a HTTP/1.0\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", refused},
		"folded line":             {get + "A: b\r\n c\r\n\r\n", refused},
		"folded with tab":         {get + "A: b\r\n\tc\r\n\r\n", refused},
		"folded coding":           {post + "Transfer-Encoding:\r\n chunked\r\n\r\n0\r\n\r\n", refused},
		"folded first line":       {"GET /a HTTP/1.1\r\n Host: x\r\n\r\n", refused},
		"space before colon":      {post + "Content-Length : 3\r\n\r\nabc", refused},
		"tab before colon":        {post + "Transfer-Encoding\t: chunked\r\n\r\n0\r\n\r\n", refused},
		"no colon":                {get + "A\r\n\r\n", refused},
		"empty name":              {get + ": b\r\n\r\n", refused},
		"name with slash":         {get + "A/b: c\r\n\r\n", refused},
		"NUL in name":             {get + "A\x00: c\r\n\r\n", refused},
		"NUL in value":            {get + "A: \x00\r\n\r\n", refused},
		"CR in value":             {get + "A: b\rSmuggled: 1\r\n\r\n", refused},
		"bare LF":                 {get + "A: b\nSmuggled: 1\r\n\r\n", refused},
		"bare LF everywhere":      {"GET /a HTTP/1.1\nHost: x\n\n", refused},
		"LF at the end":           {get + "\n", refused},
		"CR CR LF":                {get + "A: b\r\r\n\r\n", refused},
		"DEL in value":            {get + "A: \x7f\r\n\r\n", refused},
		"no host":                 {"GET /a HTTP/1.1\r\n\r\n", refused},
		"two hosts":               {get + "Host: y\r\n\r\n", refused},
		"same host twice":         {get + "Host: x\r\n\r\n", refused},
		"host with slash":         {"GET /a HTTP/1.1\r\nHost: x/y\r\n\r\n", refused},
		"host with at":            {"GET /a HTTP/1.1\r\nHost: u@x\r\n\r\n", refused},
		"host with space":         {"GET /a HTTP/1.1\r\nHost: x y\r\n\r\n", refused},
		"empty host":              {"GET /a HTTP/1.1\r\nHost:\r\n\r\n", refused},
		"bad port":                {"GET /a HTTP/1.1\r\nHost: x:8o\r\n\r\n", refused},
		"other absolute":          {"GET http://y/a HTTP/1.1\r\nHost: x\r\n\r\n", refused},
		"absolute with user":      {"GET http://u@x/a HTTP/1.1\r\nHost: x\r\n\r\n", refused},
		"ftp":                     {"GET ftp://x/a HTTP/1.1\r\nHost: x\r\n\r\n", refused},
		"two spaces":              {"GET  /a HTTP/1.1\r\nHost: x\r\n\r\n", refused},
		"tab as space":            {"GET\t/a HTTP/1.1\r\nHost: x\r\n\r\n", refused},
		"space in URL":            {"GET /a b HTTP/1.1\r\nHost: x\r\n\r\n", refused},
		"space at the end":        {"GET /a HTTP/1.1 \r\nHost: x\r\n\r\n", refused},
		"no version":              {"GET /a\r\nHost: x\r\n\r\n", refused},
		"lower version":           {"GET /a http/1.1\r\nHost: x\r\n\r\n", refused},
		"long version":            {"GET /a HTTP/1.10\r\nHost: x\r\n\r\n", refused},
		"version 3":               {"GET /a HTTP/3.0\r\nHost: x\r\n\r\n", []int{505}},
		"fragment":                {"GET /a#b HTTP/1.1\r\nHost: x\r\n\r\n", refused},
		"relative URL":            {"GET a HTTP/1.1\r\nHost: x\r\n\r\n", refused},
		"asterisk":                {"OPTIONS * HTTP/1.1\r\nHost: x\r\n\r\n", refused},
		"connect":                 {"CONNECT x:80 HTTP/1.1\r\nHost: x:80\r\n\r\n", []int{405}},
		"trace":                   {"TRACE /a HTTP/1.1\r\nHost: x\r\n\r\n", []int{405}},
		"method with at":          {"G@T /a HTTP/1.1\r\nHost: x\r\n\r\n", refused},
		"empty first line":        {"\r\n" + get + "\r\n", refused},
		"late preface":            {get + "\r\nPRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", []int{200, 505}},
		"underscore length":       {post + "Content_Length: 3\r\n\r\n", refused},
		"underscore forwarded":    {get + "X_Forwarded_For: 1.2.3.4\r\n\r\n", refused},
		"underscore of no matter": {get + "My_Header: 1\r\n\r\n", []int{200, 200}},
		"bad chunk size":          {post + "Transfer-Encoding: chunked\r\n\r\nxyz\r\n", refused},
		"chunk with 0x":           {post + "Transfer-Encoding: chunked\r\n\r\n0x3\r\nabc\r\n0\r\n\r\n", refused},
		"negative chunk":          {post + "Transfer-Encoding: chunked\r\n\r\n-3\r\nabc\r\n0\r\n\r\n", refused},
		"huge chunk size":         {post + "Transfer-Encoding: chunked\r\n\r\nFFFFFFFFFFFFFFFFF\r\nabc\r\n0\r\n\r\n", refused},
		"chunk without CR":        {post + "Transfer-Encoding: chunked\r\n\r\n3\nabc\r\n0\r\n\r\n", refused},
		"chunk too long":          {post + "Transfer-Encoding: chunked\r\n\r\n2\r\nabc\r\n0\r\n\r\n", refused},
		"chunk with space":        {post + "Transfer-Encoding: chunked\r\n\r\n3 \r\nabc\r\n0\r\n\r\n", refused},
		"LF in chunk ext":         {post + "Transfer-Encoding: chunked\r\n\r\n3;\nxx\r\nabc\r\n0\r\n\r\n", refused},
		"long chunk ext":          {post + "Transfer-Encoding: chunked\r\n\r\n3;" + strings.Repeat("a", 300) + "\r\nabc\r\n0\r\n\r\n", refused},
		"chunk ext flood":         {post + "Transfer-Encoding: chunked\r\n\r\n" + strings.Repeat("1;"+strings.Repeat("a", 200)+"\r\nx\r\n", 100) + "0\r\n\r\n", refused},
		"length in trailer":       {post + "Transfer-Encoding: chunked\r\n\r\n0\r\nContent-Length: 3\r\n\r\n", refused},
		"folded trailer":          {post + "Transfer-Encoding: chunked\r\n\r\n0\r\nA: b\r\n c\r\n\r\n", refused},
	} {
		t.Run(name, func(t *testing.T) {
			mu.Lock()
			seen = nil
			mu.Unlock()
			got, headers := w.raw(c.in + ok + "GET /end HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
			if n := len(got); n > 0 && got[n-1] == 200 && !slices.Equal(c.want, []int{200}) {
				got = got[:n-1] // the one that ends it
			}
			if diff := cmp.Diff(c.want, got); diff != "" {
				t.Fatalf("statuses (-want +got):\n%s", diff)
			}
			last := headers[len(headers)-1]
			if c.want[len(c.want)-1] >= 400 {
				if last.Get("X-Bijou-Fault") != "client" || last.Get("Content-Type") != "application/problem+json" || last.Get("Connection") != "close" {
					t.Errorf("the refusal's header is %v", last)
				}
				mu.Lock()
				defer mu.Unlock()
				if slices.Contains(seen, "GET /ok") && c.want[0] != 200 {
					t.Errorf("the origin saw %q", seen)
				}
			}
		})
	}
}
