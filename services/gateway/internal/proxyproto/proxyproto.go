// Package proxyproto reads the header of the PROXY protocol, by which a proxy that does not speak HTTP says whose
// connection it passes on: https://www.haproxy.org/download/3.2/doc/proxy-protocol.txt, versions 1 and 2.
//
// It is our own code because a header must be read to its last byte and no further: the edge waits for requests in the
// kernel, without a buffer, and so what comes behind the header must stay there. github.com/pires/go-proxyproto
// (v0.16.0, as of November 2026) reads through a buffer, reads the header when somebody asks for the address of a
// connection, which may be the goroutine that accepts, and refuses a header of version 1 that comes in two pieces.
package proxyproto

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"strconv"
	"strings"
)

// ErrMissing is returned for a connection that begins with other bytes.
var ErrMissing = errors.New("the connection does not begin with a header of the PROXY protocol")

const (
	signature = "\r\n\r\n\x00\r\nQUIT\n" // of version 2
	prefix    = "PROXY "                 // of version 1

	// maxLine is the longest line of version 1 (section 2.1).
	maxLine = 107
	// maxBlock is how long the part of version 2 may be that has addresses and further fields (TLVs). The protocol allows
	// 64 KiB. HAProxy takes 16 KiB, which is the size of its buffer.
	maxBlock = 16 << 10
)

// Read reads a header and returns the address of the client. Not valid: the header names none, because the proxy has
// made the connection for itself or does not know; then the address of the connection is that of the client. It reads
// no byte behind the header. The error is one of r, ErrMissing, or says what is wrong with the header.
func Read(r io.Reader) (client netip.Addr, err error) {
	buf := make([]byte, 512)
	if _, err := io.ReadFull(r, buf[:len(signature)]); err != nil {
		return netip.Addr{}, err
	}
	switch head := string(buf[:len(signature)]); {
	case head == signature:
		return readBlock(r, buf)
	case strings.HasPrefix(head, prefix):
		return readLine(r, buf[:len(signature)])
	}
	return netip.Addr{}, ErrMissing
}

// readLine reads a header of version 1, of which line has the beginning.
func readLine(r io.Reader, line []byte) (netip.Addr, error) {
	for line[len(line)-1] != '\n' {
		if len(line) == maxLine {
			return netip.Addr{}, fmt.Errorf("PROXY protocol 1: the line must end within %d bytes", maxLine)
		}
		n := len(line)
		line = line[:min(n+atLeast(line), maxLine)]
		if _, err := io.ReadFull(r, line[n:]); err != nil {
			return netip.Addr{}, err
		}
	}
	return parseLine(string(line))
}

// atLeast is how many bytes must follow the beginning of a line. Reading them at once saves most of the system calls
// that reading single bytes would need.
func atLeast(line []byte) int {
	text := string(line)
	if strings.HasPrefix(text, prefix+"U") || strings.HasSuffix(text, "\r") {
		return 1 // a proxy may send anything behind UNKNOWN
	}
	// A space and a character for each word that has not begun, then the end of the line.
	return 2*max(0, 5-strings.Count(text, " ")) + len("\r\n")
}

func parseLine(line string) (netip.Addr, error) {
	text, ok := strings.CutSuffix(line, "\r\n")
	words := strings.Split(text, " ")
	switch {
	case !ok:
		return netip.Addr{}, errors.New("PROXY protocol 1: the line must end with CR LF")
	case words[1] == "UNKNOWN":
		return netip.Addr{}, nil
	case len(words) != 6 || words[1] != "TCP4" && words[1] != "TCP6":
		return netip.Addr{}, fmt.Errorf("PROXY protocol 1: the line must be PROXY, TCP4 or TCP6, two addresses and two "+
			"ports, or PROXY UNKNOWN, is %q", text)
	}
	var addrs [2]netip.Addr
	for i := range addrs {
		addr, err := netip.ParseAddr(words[2+i])
		// nginx sends a line TCP6 with an address of IPv4 when the other one is of IPv6.
		if err != nil || addr.Zone() != "" || words[1] == "TCP4" && !addr.Is4() {
			return netip.Addr{}, fmt.Errorf("PROXY protocol 1: an address of %s is %q", words[1], words[2+i])
		}
		addrs[i] = addr.Unmap()
	}
	for _, port := range words[4:] {
		if n, err := strconv.ParseUint(port, 10, 16); err != nil || strconv.FormatUint(n, 10) != port {
			return netip.Addr{}, fmt.Errorf("PROXY protocol 1: a port must be 0 to 65535, is %q", port)
		}
	}
	return addrs[0], nil
}

// readBlock reads what follows the signature of version 2. buf is memory for it.
func readBlock(r io.Reader, buf []byte) (client netip.Addr, err error) {
	if _, err := io.ReadFull(r, buf[:4]); err != nil {
		return netip.Addr{}, err
	}
	version, command, left := buf[0]>>4, buf[0]&15, int(binary.BigEndian.Uint16(buf[2:]))
	family, transport := buf[1]>>4, buf[1]&15
	size := 0 // of the address of the client; the block also has that of the proxy, and two ports
	switch {
	case version != 2:
		return netip.Addr{}, fmt.Errorf("PROXY protocol 2: the version must be 2, is %d", version)
	case left > maxBlock:
		return netip.Addr{}, fmt.Errorf("PROXY protocol 2: there must be at most %d bytes, there are %d", maxBlock, left)
	case command == 0: // LOCAL: the rest does not matter
	case command != 1:
		return netip.Addr{}, fmt.Errorf("PROXY protocol 2: the command must be LOCAL or PROXY, is %d", command)
	case family > 3 || transport > 2:
		return netip.Addr{}, fmt.Errorf("PROXY protocol 2: there is no address family and protocol 0x%x%x", family, transport)
	case family == 1 && transport == 1: // TCP over IPv4
		size = 4
	case family == 2 && transport == 1: // TCP over IPv6
		size = 16
	}
	if size > 0 {
		need := 2*size + 4
		if left < need {
			return netip.Addr{}, fmt.Errorf("PROXY protocol 2: two addresses need %d bytes, there are %d", need, left)
		}
		if _, err := io.ReadFull(r, buf[:need]); err != nil {
			return netip.Addr{}, err
		}
		client, _ = netip.AddrFromSlice(buf[:size]) // it has one of the two sizes
		left -= need
	}
	for left > 0 { // TLVs, and addresses of other families
		n, err := r.Read(buf[:min(left, len(buf))])
		if left -= n; err != nil && left > 0 {
			return netip.Addr{}, err
		}
	}
	return client.Unmap(), nil
}
