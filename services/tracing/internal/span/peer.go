package span

import "strconv"

// peer collects what attributes say about the other side of a call. The first fields describe it best.
type peer struct {
	service string // given by name
	address string // a host name or an address
	socket  string // the address of the connection
	db      string
	port    uint64
}

func (p *peer) see(key, v string) {
	switch key {
	case "service.peer.name", "peer.service":
		p.service = v
	case "server.address", "net.peer.name":
		p.address = v
	case "network.peer.address", "net.sock.peer.addr":
		p.socket = v
	case "network.peer.port", "server.port", "net.peer.port":
		if n, err := strconv.ParseUint(v, 10, 16); err == nil {
			p.port = n
		}
	case "db.name", "db.namespace":
		p.db = v
	}
}

// endpoint chooses the name in the order of OpenTelemetry's specification. server.address is the address of the
// server on both sides, so only on the side of the caller it is the other side.
func (p *peer) endpoint(k Kind) Endpoint {
	var e Endpoint
	calls := k == Client || k == Producer
	if !calls && p.service == "" {
		return e
	}
	e.setIP(p.socket)
	e.Service = p.service
	if calls {
		for _, name := range []string{p.address, p.socket, p.db} {
			if e.Service == "" && name != "" && !e.setIP(name) {
				e.Service = name
			}
		}
		e.Port = uint16(p.port)
	}
	return e
}
