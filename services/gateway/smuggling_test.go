package gateway_test

import (
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// ok is a request that is answered on every connection that is still usable; end is a request that ends the connection.
const (
	ok  = "GET /ok HTTP/1.1\r\nHost: x\r\n\r\n"
	end = "GET /end HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
)

// message is what a client sends on an HTTP/1 connection before ok and end.
type message struct {
	name, in string
	want     []int // statuses
}

const (
	getA    = "GET /a HTTP/1.1\r\nHost: x\r\n"
	postA   = "POST /a HTTP/1.1\r\nHost: x\r\n"
	chunked = postA + "Transfer-Encoding: chunked\r\n\r\n"
	inside  = "GET /smuggled HTTP/1.1\r\nHost: x\r\n\r\n"
)

var (
	taken   = []int{200, 200}
	refused = []int{400}
)

// messages are attacks in which two servers read a message differently, by section of RFC 9112.
var messages = map[string][]message{
	"2.1 message format": {
		{"good", getA + "\r\n", taken},
		{"empty first line", "\r\n" + getA + "\r\n", taken},
		{"four empty first lines", "\r\n\r\n\r\n\r\n" + getA + "\r\n", taken},
		{"five empty first lines", "\r\n\r\n\r\n\r\n\r\n" + getA + "\r\n", refused},
		{"empty lines between", getA + "\r\n\r\n\r\n" + getA + "\r\n\r\n\r\n", []int{200, 200, 200}},
		{"empty line after a body", postA + "Content-Length: 3\r\n\r\nabc\r\n" + getA + "\r\n", []int{200, 200, 200}},
		{"CR CR LF first", "\r\r\n" + getA + "\r\n", refused},
		{"CR first", "\r" + getA + "\r\n", refused},
		{"LF after an empty line", "\r\n\n" + getA + "\r\n", refused},
		{"space after an empty line", "\r\n " + getA + "\r\n", refused},
		{"preface of HTTP/2 after an empty line", "\r\nPRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", []int{505}},
		{"LF first", "\n" + getA + "\r\n", refused},
		{"space first", " " + getA + "\r\n", refused},
		{"NUL first", "\x00" + getA + "\r\n", refused},
		{"late preface of HTTP/2", getA + "\r\nPRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", []int{200, 505}},
		{"preface and request", "PRI * HTTP/1.1\r\nHost: x\r\n\r\n", refused},
		{"TLS", "\x16\x03\x01\x00\x05\x01\x00\x00\x01\x00", []int{400}},
	},
	"2.2 line ends": {
		{"bare LF", getA + "A: b\nSmuggled: 1\r\n\r\n", refused},
		{"bare LF everywhere", "GET /a HTTP/1.1\nHost: x\n\n", refused},
		{"bare LF after the request line", "GET /a HTTP/1.1\nHost: x\r\n\r\n", refused},
		{"LF at the end", getA + "\n", refused},
		{"LF LF at the end", getA + "A: b\n\n", refused},
		{"CR CR LF", getA + "A: b\r\r\n\r\n", refused},
		{"CR at the end", getA + "\r" + inside, refused},
		{"CR in value", getA + "A: b\rSmuggled: 1\r\n\r\n", refused},
		{"CR in name", getA + "A\rSmuggled: 1\r\n\r\n", refused},
		{"CR in method", "G\rET /a HTTP/1.1\r\nHost: x\r\n\r\n", refused},
		{"CR before the length", postA + "A: b\rContent-Length: 3\r\n\r\nabc", refused},
		{"LF before the coding", postA + "A: b\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", refused},
		{"form feed as line end", getA + "A: b\x0cSmuggled: 1\r\n\r\n", refused},
		{"NEL as line end", getA + "A: b\u0085Smuggled: 1\r\n\r\n", taken}, // two bytes of a value like others
	},
	"3 request line": {
		{"two spaces", "GET  /a HTTP/1.1\r\nHost: x\r\n\r\n", refused},
		{"tab as space", "GET\t/a HTTP/1.1\r\nHost: x\r\n\r\n", refused},
		{"vertical tab as space", "GET\x0b/a HTTP/1.1\r\nHost: x\r\n\r\n", refused},
		{"space in URL", "GET /a b HTTP/1.1\r\nHost: x\r\n\r\n", refused},
		{"space at the end", "GET /a HTTP/1.1 \r\nHost: x\r\n\r\n", refused},
		{"another version in the URL", "GET /a HTTP/1.1 HTTP/1.1\r\nHost: x\r\n\r\n", refused},
		{"method with at", "G@T /a HTTP/1.1\r\nHost: x\r\n\r\n", refused},
		{"method with colon", "GET: /a HTTP/1.1\r\nHost: x\r\n\r\n", refused},
		{"no method", " /a HTTP/1.1\r\nHost: x\r\n\r\n", refused},
		{"long method", strings.Repeat("G", 65) + " /a HTTP/1.1\r\nHost: x\r\n\r\n", []int{501}},
		{"connect", "CONNECT x:80 HTTP/1.1\r\nHost: x:80\r\n\r\n", []int{405}},
		{"trace", "TRACE /a HTTP/1.1\r\nHost: x\r\n\r\n", []int{405}},
		{"own method", "BREW /a HTTP/1.1\r\nHost: x\r\n\r\n", taken},
	},
	"2.3 version": {
		{"HTTP/1.0", "GET /a HTTP/1.0\r\nHost: x\r\n\r\n", []int{200}}, // closes
		{"HTTP/0.9", "GET /a\r\n", refused},
		{"no version", "GET /a\r\nHost: x\r\n\r\n", refused},
		{"lower case", "GET /a http/1.1\r\nHost: x\r\n\r\n", refused},
		{"two digits", "GET /a HTTP/1.10\r\nHost: x\r\n\r\n", refused},
		{"leading zero", "GET /a HTTP/01.1\r\nHost: x\r\n\r\n", refused},
		{"1.2", "GET /a HTTP/1.2\r\nHost: x\r\n\r\n", []int{505}},
		{"1,1", "GET /a HTTP/1,1\r\nHost: x\r\n\r\n", []int{505}},
		{"2.0", "GET /a HTTP/2.0\r\nHost: x\r\n\r\n", []int{505}},
		{"3.0", "GET /a HTTP/3.0\r\nHost: x\r\n\r\n", []int{505}},
		{"of something else", "GET /a HTTQ/1.1\r\nHost: x\r\n\r\n", refused},
	},
	"3.2 request target and host": {
		{"absolute form", "GET http://x/a HTTP/1.1\r\nHost: x\r\n\r\n", taken},
		{"absolute form without a path", "GET http://x HTTP/1.1\r\nHost: x\r\n\r\n", taken},
		{"absolute form, other host", "GET http://y/a HTTP/1.1\r\nHost: x\r\n\r\n", taken},
		{"absolute form, other port", "GET http://x:81/a HTTP/1.1\r\nHost: x\r\n\r\n", taken},
		{"absolute form with a user", "GET http://u@x/a HTTP/1.1\r\nHost: x\r\n\r\n", refused},
		{"absolute form without a host", "GET http:///a HTTP/1.1\r\nHost: x\r\n\r\n", refused},
		{"absolute form of ftp", "GET ftp://x/a HTTP/1.1\r\nHost: x\r\n\r\n", refused},
		{"two slashes", "GET //x/a HTTP/1.1\r\nHost: x\r\n\r\n", refused},
		{"fragment", "GET /a#b HTTP/1.1\r\nHost: x\r\n\r\n", refused},
		{"relative", "GET a HTTP/1.1\r\nHost: x\r\n\r\n", refused},
		{"asterisk", "OPTIONS * HTTP/1.1\r\nHost: x\r\n\r\n", taken},
		{"asterisk with GET", "GET * HTTP/1.1\r\nHost: x\r\n\r\n", refused},
		{"dots", "GET /a/../b HTTP/1.1\r\nHost: x\r\n\r\n", refused},
		{"escaped dots", "GET /a/%2e%2e/b HTTP/1.1\r\nHost: x\r\n\r\n", refused},
		{"dots with a parameter", "GET /a/..;x/b HTTP/1.1\r\nHost: x\r\n\r\n", refused},
		{"escaped slash", "GET /a%2fb HTTP/1.1\r\nHost: x\r\n\r\n", refused},
		{"escaped line end", "GET /a%0d%0aSmuggled:%201 HTTP/1.1\r\nHost: x\r\n\r\n", refused},
		{"escaped line end in the query", "GET /a?b%0d%0aSmuggled:%201 HTTP/1.1\r\nHost: x\r\n\r\n", taken},
		{"escaped NUL", "GET /a%00 HTTP/1.1\r\nHost: x\r\n\r\n", refused},
		{"broken escape", "GET /a%2 HTTP/1.1\r\nHost: x\r\n\r\n", refused},
		{"backslash", "GET /a\\b HTTP/1.1\r\nHost: x\r\n\r\n", refused},
		{"DEL", "GET /a\x7f HTTP/1.1\r\nHost: x\r\n\r\n", refused},
		{"bytes above ASCII in the query", "GET /a?\xc3\xa9 HTTP/1.1\r\nHost: x\r\n\r\n", taken},
		{"escapes in path and query", "GET /%61%C3%A9?%61=%2f HTTP/1.1\r\nHost: x\r\n\r\n", taken},
		{"empty query", "GET /a? HTTP/1.1\r\nHost: x\r\n\r\n", taken},
		{"absolute form without Host", "GET http://x/a HTTP/1.1\r\n\r\n", refused},
		{"absolute form and two hosts", "GET http://x/a HTTP/1.1\r\nHost: x\r\nHost: y\r\n\r\n", refused},
		{"absolute form and a bad host", "GET http://x/a HTTP/1.1\r\nHost: x/y\r\n\r\n", refused},
		{"absolute form and disguised host", "GET http://x/a HTTP/1.1\r\nHost: y\r\nHost_: z\r\n\r\n", taken},
		{"no host", "GET /a HTTP/1.1\r\n\r\n", refused},
		{"no host in HTTP/1.0", "GET /a HTTP/1.0\r\n\r\n", []int{200}}, // closes
		{"empty host in HTTP/1.0", "GET /a HTTP/1.0\r\nHost:\r\n\r\n", refused},
		{"two hosts", getA + "Host: y\r\n\r\n", refused},
		{"same host twice", getA + "Host: x\r\n\r\n", refused},
		{"two hosts in HTTP/1.0", "GET /a HTTP/1.0\r\nHost: x\r\nHost: y\r\n\r\n", refused},
		{"list of hosts", "GET /a HTTP/1.1\r\nHost: x, y\r\n\r\n", refused},
		{"host with slash", "GET /a HTTP/1.1\r\nHost: x/y\r\n\r\n", refused},
		{"host with at", "GET /a HTTP/1.1\r\nHost: u@x\r\n\r\n", refused},
		{"host with space", "GET /a HTTP/1.1\r\nHost: x y\r\n\r\n", refused},
		{"host with tab", "GET /a HTTP/1.1\r\nHost: x\ty\r\n\r\n", refused},
		{"empty host", "GET /a HTTP/1.1\r\nHost:\r\n\r\n", refused},
		{"bad port", "GET /a HTTP/1.1\r\nHost: x:8o\r\n\r\n", refused},
		{"folded host", "GET /a HTTP/1.1\r\nHost:\r\n x\r\n\r\n", refused},
		{"disguised host", getA + "Host_: y\r\n\r\n", taken},
		{"space before the colon of host", "GET /a HTTP/1.1\r\nHost : x\r\n\r\n", refused},
	},
	"5 fields": {
		{"space before colon", postA + "Content-Length : 3\r\n\r\nabc", refused},
		{"tab before colon", postA + "Transfer-Encoding\t: chunked\r\n\r\n0\r\n\r\n", refused},
		{"no colon", getA + "A\r\n\r\n", refused},
		{"empty name", getA + ": b\r\n\r\n", refused},
		{"name with slash", getA + "A/b: c\r\n\r\n", refused},
		{"name with space", getA + "A b: c\r\n\r\n", refused},
		{"name in brackets", getA + "(A): c\r\n\r\n", refused},
		{"name above ASCII", getA + "\xc3\xa9: c\r\n\r\n", refused},
		{"NUL in name", getA + "A\x00: c\r\n\r\n", refused},
		{"NUL in value", getA + "A: \x00\r\n\r\n", refused},
		{"DEL in value", getA + "A: \x7f\r\n\r\n", refused},
		{"backspace in value", getA + "A: \x08\r\n\r\n", refused},
		{"tab in value", getA + "A: b\tc\r\n\r\n", taken},
		{"bytes above ASCII in value", getA + "A: \xe9\xff\r\n\r\n", taken},
		{"no value", getA + "A:\r\n\r\n", taken},
		{"no space before value", getA + "A:b\r\n\r\n", taken},
		{"colon in value", getA + "A: b: c\r\n\r\n", taken},
		{"underscore for dash in length", postA + "Content_Length: 3\r\n\r\n", refused},
		{"underscore for dash in coding", postA + "Transfer_Encoding: chunked\r\n\r\n0\r\n\r\n", refused},
		{"underscore for dash in forwarded", getA + "X_Forwarded_For: 1.2.3.4\r\n\r\n", refused},
		{"underscore in another name", getA + "My_Header: 1\r\n\r\n", taken},
		{"connection names host", getA + "Connection: Host\r\n\r\n", taken},
		{"connection names the length", postA + "Connection: Content-Length\r\nContent-Length: 3\r\n\r\nabc", taken},
		{
			"connection names the coding",
			postA + "Connection: Transfer-Encoding\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n", taken,
		},
		{
			"upgrade to h2c",
			getA + "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n\r\n",
			taken,
		},
		{"upgrade to anything", getA + "Connection: Upgrade\r\nUpgrade: tcp\r\n\r\n" + inside, refused},
		{
			"upgrade with a body", postA + "Connection: Upgrade\r\nUpgrade: websocket\r\nContent-Length: 3\r\n\r\nabc",
			refused,
		},
		{"upgrade not named in connection", getA + "Upgrade: websocket\r\n\r\n", taken},
	},
	"5.2 folded lines": {
		{"space", getA + "A: b\r\n c\r\n\r\n", refused},
		{"tab", getA + "A: b\r\n\tc\r\n\r\n", refused},
		{"of the coding", postA + "Transfer-Encoding:\r\n chunked\r\n\r\n0\r\n\r\n", refused},
		{"of the length", postA + "Content-Length:\r\n 3\r\n\r\nabc", refused},
		{"first", "GET /a HTTP/1.1\r\n Host: x\r\n\r\n", refused},
		{"with a name in it", getA + "A: b\r\n Content-Length: 30\r\n\r\n", refused},
		{"empty", getA + "A: b\r\n \r\n\r\n", refused},
	},
	"6.1 transfer coding": {
		{"good", chunked + "3\r\nabc\r\n0\r\n\r\n", taken},
		{"in capitals", postA + "transfer-encoding:  CHUNKED \r\n\r\n3\r\nabc\r\n0\r\n\r\n", taken},
		{"with GET", getA + "Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n", taken},
		{"and length", postA + "Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n", refused},
		{"after length", postA + "Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", refused},
		{
			"and a request's length", postA + "Content-Length: 43\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" +
				inside,
			refused,
		},
		{"and no length", postA + "Content-Length: 0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", refused},
		{"other and length", postA + "Content-Length: 3\r\nTransfer-Encoding: identity\r\n\r\nabc", refused},
		{"gzip", postA + "Transfer-Encoding: gzip\r\n\r\n0\r\n\r\n", refused},
		{"gzip, chunked", postA + "Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", []int{501}},
		{
			"gzip, then chunked on its own line",
			postA + "Transfer-Encoding: gzip\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", refused,
		},
		{"chunked, gzip, chunked", postA + "Transfer-Encoding: chunked, gzip, chunked\r\n\r\n0\r\n\r\n", refused},
		{"chunked, gzip", postA + "Transfer-Encoding: chunked, gzip\r\n\r\n0\r\n\r\n", refused},
		{"chunked, chunked", postA + "Transfer-Encoding: chunked, chunked\r\n\r\n0\r\n\r\n", refused},
		{"twice", postA + "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", refused},
		{
			"identity after it", postA + "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n0\r\n\r\n",
			refused,
		},
		{
			"identity before it", postA + "Transfer-Encoding: identity\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
			refused,
		},
		{"chunked, identity", postA + "Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n", refused},
		{"identity", postA + "Transfer-Encoding: identity\r\n\r\n", refused},
		{"xchunked", postA + "Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n", refused},
		{"chunkedx", postA + "Transfer-Encoding: chunkedx\r\n\r\n0\r\n\r\n", refused},
		{"chunke", postA + "Transfer-Encoding: chunke\r\n\r\n0\r\n\r\n", refused},
		{"in quotes", postA + "Transfer-Encoding: \"chunked\"\r\n\r\n0\r\n\r\n", refused},
		{"in single quotes", postA + "Transfer-Encoding: 'chunked'\r\n\r\n0\r\n\r\n", refused},
		{"with a parameter", postA + "Transfer-Encoding: chunked;q=1\r\n\r\n0\r\n\r\n", refused},
		{"comma before", postA + "Transfer-Encoding: ,chunked\r\n\r\n0\r\n\r\n", refused},
		{"comma after", postA + "Transfer-Encoding: chunked,\r\n\r\n0\r\n\r\n", refused},
		{"vertical tab", postA + "Transfer-Encoding: \x0bchunked\r\n\r\n0\r\n\r\n", refused},
		{"form feed", postA + "Transfer-Encoding: chunked\x0c\r\n\r\n0\r\n\r\n", refused},
		{"NUL after", postA + "Transfer-Encoding: chunked\x00\r\n\r\n0\r\n\r\n", refused},
		{"no-break space", postA + "Transfer-Encoding: \xa0chunked\r\n\r\n0\r\n\r\n", refused},
		{"Kelvin sign", postA + "Transfer-Encoding: chun\u212aed\r\n\r\n0\r\n\r\n", refused},
		{"empty", postA + "Transfer-Encoding:\r\n\r\n", refused},
		{"empty and length", postA + "Transfer-Encoding:\r\nContent-Length: 3\r\n\r\nabc", refused},
		{"in HTTP/1.0", "POST /a HTTP/1.0\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", refused},
		{"by another name", postA + "X-Transfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\nabc", taken},
		{"name with dot", postA + "Transfer.Encoding: chunked\r\nContent-Length: 3\r\n\r\nabc", taken},
		{
			"in the value of another field", postA + "A: Transfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\nabc",
			taken,
		},
		{"TE instead", getA + "TE: chunked\r\n\r\n", taken},
	},
	"6.2 length": {
		{"good", postA + "Content-Length: 3\r\n\r\nabc", taken},
		{"zero", postA + "Content-Length: 0\r\n\r\n", taken},
		{"leading zeros", postA + "Content-Length: 0003\r\n\r\nabc", taken},
		{"with GET", getA + "Content-Length: 3\r\n\r\nabc", taken},
		{"body that is a request", postA + "Content-Length: 43\r\n\r\n" + inside + "12345678", taken},
		{"GET with a body that is a request", getA + "Content-Length: 35\r\n\r\n" + inside, taken},
		{"two", postA + "Content-Length: 3\r\nContent-Length: 4\r\n\r\nabcd", refused},
		{"zero and another", postA + "Content-Length: 0\r\nContent-Length: 35\r\n\r\n" + inside, refused},
		{"same twice", postA + "Content-Length: 3\r\nContent-Length: 3\r\n\r\nabc", refused},
		{"list", postA + "Content-Length: 3, 3\r\n\r\nabc", refused},
		{"list of two", postA + "Content-Length: 3, 4\r\n\r\nabc", refused},
		{"plus", postA + "Content-Length: +3\r\n\r\nabc", refused},
		{"minus", postA + "Content-Length: -1\r\n\r\n", refused},
		{"minus zero", postA + "Content-Length: -0\r\n\r\n", refused},
		{"hexadecimal", postA + "Content-Length: 0x3\r\n\r\nabc", refused},
		{"float", postA + "Content-Length: 3.0\r\n\r\nabc", refused},
		{"exponent", postA + "Content-Length: 3e0\r\n\r\nabc", refused},
		{"digits between", postA + "Content-Length: 1_0\r\n\r\n0123456789", refused},
		{"huge", postA + "Content-Length: 99999999999999999999\r\n\r\n", refused},
		{"wraps to 3", postA + "Content-Length: 18446744073709551619\r\n\r\nabc", refused},
		{"wraps to 3 in 32 bits", postA + "Content-Length: 4294967299\r\n\r\nabc", []int{413}},
		{"empty", postA + "Content-Length:\r\n\r\n", refused},
		{"space within", postA + "Content-Length: 3 3\r\n\r\nabc", refused},
		{"letters after", postA + "Content-Length: 3a\r\n\r\nabc", refused},
		{"comma after", postA + "Content-Length: 3,\r\n\r\nabc", refused},
		{"semicolon after", postA + "Content-Length: 3;\r\n\r\nabc", refused},
		{"in quotes", postA + "Content-Length: \"3\"\r\n\r\nabc", refused},
		{"vertical tab", postA + "Content-Length: \x0b3\r\n\r\nabc", refused},
		{"NUL after", postA + "Content-Length: 3\x00\r\n\r\nabc", refused},
		{"Arabic digit", postA + "Content-Length: \u0663\r\n\r\nabc", refused},
		{"by another name", postA + "Content-Lengt: 3\r\n\r\n", taken},
	},
	"7.1 chunks": {
		{"extension", chunked + "3;a=b\r\nabc\r\n0\r\n\r\n", taken},
		{"extension in quotes", chunked + "3;a=\"b;c\"\r\nabc\r\n0\r\n\r\n", taken},
		{"leading zeros", chunked + "0003\r\nabc\r\n000\r\n\r\n", taken},
		{"two", chunked + "3\r\nabc\r\nA\r\n0123456789\r\n0\r\n\r\n", taken},
		{"data that is a request", chunked + "23\r\n" + inside + "\r\n0\r\n\r\n", taken},
		{"data that ends chunks", chunked + "5\r\n0\r\n\r\n\r\n0\r\n\r\n", taken},
		{"bad size", chunked + "xyz\r\n", refused},
		{"empty size", chunked + "\r\nabc\r\n0\r\n\r\n", refused},
		{"0x", chunked + "0x3\r\nabc\r\n0\r\n\r\n", refused},
		{"minus", chunked + "-3\r\nabc\r\n0\r\n\r\n", refused},
		{"plus", chunked + "+3\r\nabc\r\n0\r\n\r\n", refused},
		{"huge size", chunked + "FFFFFFFFFFFFFFFFF\r\nabc\r\n0\r\n\r\n", refused},
		{"size wraps to 3", chunked + "10000000000000003\r\nabc\r\n0\r\n\r\n", refused},
		{"size wraps to 3 in 32 bits", chunked + "100000003\r\nabc\r\n0\r\n\r\n", refused},
		{"LF after the size", chunked + "3\nabc\r\n0\r\n\r\n", refused},
		{"CR after the size", chunked + "3\rabc\r\n0\r\n\r\n", refused},
		{"LF after the data", chunked + "3\r\nabc\n0\r\n\r\n", refused},
		{"nothing after the data", chunked + "3\r\nabc0\r\n\r\n", refused},
		{"other bytes after the data", chunked + "3\r\nabcXX0\r\n\r\n", refused},
		{"too long", chunked + "2\r\nabc\r\n0\r\n\r\n", refused},
		{"too short", chunked + "4\r\nabc\r\n0\r\n\r\n", refused},
		{"LF after the last", chunked + "0\n\n", refused},
		{"LF at the end", chunked + "0\r\n\n", refused},
		{"CR at the end", chunked + "0\r\n\r" + inside, refused},
		{"space after the size", chunked + "3 \r\nabc\r\n0\r\n\r\n", refused},
		{"space before the size", chunked + " 3\r\nabc\r\n0\r\n\r\n", refused},
		{"tab after the size", chunked + "3\t\r\nabc\r\n0\r\n\r\n", refused},
		{"space before the extension", chunked + "3 ;a\r\nabc\r\n0\r\n\r\n", taken},
		{"white space around extensions", chunked + "3\t; a \t=\tb ;c = \"d\" ; e\r\nabc\r\n0 ; f\r\n\r\n", taken},
		{"escapes in a quoted extension", chunked + "3;a=\"\\\"; \\\\\";b\r\nabc\r\n0\r\n\r\n", taken},
		{"empty quoted extension", chunked + "3;a=\"\"\r\nabc\r\n0\r\n\r\n", taken},
		{"bytes above ASCII in a quoted extension", chunked + "3;a=\"\xc3\xa9\"\r\nabc\r\n0\r\n\r\n", taken},
		{"space after the extension", chunked + "3;a \r\nabc\r\n0\r\n\r\n", refused},
		{"space after a quoted extension", chunked + "3;a=\"b\" \r\nabc\r\n0\r\n\r\n", refused},
		{"extension without a name", chunked + "3;\r\nabc\r\n0\r\n\r\n", refused},
		{"extension with a value and no name", chunked + "3;=b\r\nabc\r\n0\r\n\r\n", refused},
		{"extension with an equals sign and no value", chunked + "3;a=\r\nabc\r\n0\r\n\r\n", refused},
		{"two semicolons", chunked + "3;;a\r\nabc\r\n0\r\n\r\n", refused},
		{"two words in an extension", chunked + "3;a b\r\nabc\r\n0\r\n\r\n", refused},
		{"quote that does not end", chunked + "3;a=\"b\r\nabc\r\n0\r\n\r\n", refused},
		{"quote that ends with an escape", chunked + "3;a=\"b\\\r\nabc\r\n0\r\n\r\n", refused},
		{"quoted name", chunked + "3;\"a\"=b\r\nabc\r\n0\r\n\r\n", refused},
		{"letters after a quote", chunked + "3;a=\"b\"c\r\nabc\r\n0\r\n\r\n", refused},
		{"slash in an extension", chunked + "3;a/b\r\nabc\r\n0\r\n\r\n", refused},
		{"bytes above ASCII in an extension", chunked + "3;\xc3\xa9\r\nabc\r\n0\r\n\r\n", refused},
		{"space within the size", chunked + "3 3;a\r\nabc\r\n0\r\n\r\n", refused},
		{"vertical tab before the extension", chunked + "3\x0b;a\r\nabc\r\n0\r\n\r\n", refused},
		{"comma for semicolon", chunked + "3,a\r\nabc\r\n0\r\n\r\n", refused},
		{"LF in the extension", chunked + "3;\nxx\r\nabc\r\n0\r\n\r\n", refused},
		{"LF in a quoted extension", chunked + "3;a=\"\n\"\r\nabc\r\n0\r\n\r\n", refused},
		{"CR in the extension", chunked + "3;a\rb\r\nabc\r\n0\r\n\r\n", refused},
		{"NUL in the extension", chunked + "3;a\x00\r\nabc\r\n0\r\n\r\n", refused},
		{"long extension", chunked + "3;" + strings.Repeat("a", 300) + "\r\nabc\r\n0\r\n\r\n", refused},
		{
			"flood of extensions", chunked + strings.Repeat("1;"+strings.Repeat("a", 200)+"\r\nx\r\n", 100) +
				"0\r\n\r\n",
			refused,
		},
	},
	"7.1.2 trailer": {
		{"good", chunked + "0\r\nX-T: 1\r\n\r\n", taken},
		{"announced", postA + "Transfer-Encoding: chunked\r\nTrailer: X-T\r\n\r\n0\r\nX-T: 1\r\n\r\n", taken},
		{"length", chunked + "0\r\nContent-Length: 3\r\n\r\n", refused},
		{"coding", chunked + "0\r\nTransfer-Encoding: chunked\r\n\r\n", refused},
		{"host", chunked + "0\r\nHost: y\r\n\r\n", refused},
		{"folded", chunked + "0\r\nA: b\r\n c\r\n\r\n", refused},
		{"bare LF", chunked + "0\r\nA: b\nSmuggled: 1\r\n\r\n", refused},
		{"no colon", chunked + "0\r\nabc\r\n\r\n", refused},
		{"is a request", chunked + "0\r\n" + inside, refused},
		{"space before colon", chunked + "0\r\nA : b\r\n\r\n", refused},
		{"too large", chunked + "0\r\n" + strings.Repeat("A: "+strings.Repeat("b", 200)+"\r\n", 60) + "\r\n", refused},
	},
	"9.3 pipelines": {
		{"three", getA + "\r\n" + getA + "\r\n", []int{200, 200, 200}},
		{"after a body", postA + "Content-Length: 3\r\n\r\nabc" + getA + "\r\n", []int{200, 200, 200}},
		{"after chunks", chunked + "3\r\nabc\r\n0\r\n\r\n" + getA + "\r\n", []int{200, 200, 200}},
		// by the method dGET
		{
			"after a body with more than it", postA + "Content-Length: 3\r\n\r\nabcd" + getA + "\r\n",
			[]int{200, 200, 200},
		},
		{"after close", getA + "Connection: close\r\n\r\n" + inside, []int{200}},
		{"after a refusal", getA + "A\r\n\r\n" + inside, refused},
		{"after 404", "POST /../ HTTP/1.1\r\nHost: x\r\nContent-Length: 35\r\n\r\n" + inside, refused},
		{"expect and a body", postA + "Expect: 100-continue\r\nContent-Length: 3\r\n\r\nabc", []int{100, 200, 200}},
		{
			"expect and chunks", postA +
				"Expect: 100-continue\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
			[]int{100, 200, 200},
		},
		{"expect something else", postA + "Expect: a\r\nContent-Length: 35\r\n\r\n" + inside, []int{417}},
		{"expect without a body", getA + "Expect: 100-continue\r\n\r\n", taken},
	},
}

// TestFraming sends bytes on a connection and compares the statuses of all responses until the edge closes it, and the
// requests that the origin got. Every input is followed by a valid request: a response to it after a 400 means that the
// edge continued to read although the end of the message was not clear.
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
	n := 0
	for section, list := range messages {
		for _, c := range list {
			n++
			t.Run(section+"/"+c.name, func(t *testing.T) {
				mu.Lock()
				seen = nil
				mu.Unlock()
				got, headers := w.raw(c.in + ok + end)
				if n := len(got); n > 0 && got[n-1] == 200 && len(got) > len(c.want) {
					got = got[:n-1] // that of end
				}
				if diff := cmp.Diff(c.want, got); diff != "" {
					t.Fatalf("statuses (-want +got):\n%s", diff)
				}
				mu.Lock()
				defer mu.Unlock()
				if slices.Contains(seen, "GET /smuggled") {
					t.Errorf("the origin saw %q", seen)
				}
				if len(c.want) == 0 || c.want[len(c.want)-1] < 400 {
					return
				}
				last := headers[len(headers)-1]
				if last.Get("X-Bijou-Fault") != "client" || last.Get("Content-Type") != "application/problem+json" ||
					last.Get("Connection") != "close" {
					t.Errorf("the refusal's header is %v", last)
				}
				if slices.Contains(seen, "GET /ok") && c.want[0] != 200 {
					t.Errorf("the origin saw %q", seen)
				}
			})
		}
	}
	if n < 87 {
		t.Errorf("there are only %d messages", n)
	}
}
