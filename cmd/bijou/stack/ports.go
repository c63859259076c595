package stack

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"strconv"
	"sync"
)

// Ports are taken from below the range from which Linux (32768 and up) and macOS (49152 and up) take the local ports
// of outgoing connections: otherwise a connection could sit on the port of an instance that is about to restart.
const lowestPort, highestPort = 20000, 32767

// ports finds free loopback ports and listens on them until close, so that no other program gets them.
type ports struct {
	mu   sync.Mutex
	held map[int]net.Listener
}

// find returns wanted if it is free, otherwise, or for 0, any free port.
func (p *ports) find(wanted int) (int, error) {
	if wanted > 0 && p.hold(wanted) == nil {
		return wanted, nil
	}
	var last error
	for range 1000 {
		port := lowestPort + rand.N(highestPort-lowestPort+1)
		if _, found := drawn.LoadOrStore(port, true); found {
			last = errHeld
		} else if last = p.hold(port); last == nil {
			return port, nil
		}
	}
	return 0, fmt.Errorf("no free port between %d and %d: %w", lowestPort, highestPort, last)
}

var errHeld = errors.New("given out already")

// drawn has the ports that were given to any stack of this process. Between [ports.close] and the start of its instance
// a port is free, and another stack must not take it.
var drawn sync.Map

func (p *ports) hold(port int) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.held[port] != nil {
		return errHeld
	}
	l, err := net.Listen("tcp", "127.0.0.1:"+strconv.Itoa(port)) //nolint:noctx // binding does not wait
	if err != nil {
		return err
	}
	if p.held == nil {
		p.held = map[int]net.Listener{}
	}
	p.held[port] = l
	return nil
}

// close frees all ports, so that the instances can listen on them.
//
// It must be done before the first process is started. A child that is being started has, for a moment, a copy of
// every file of its parent: a port that is freed meanwhile stays taken, and its instance cannot listen.
func (p *ports) close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, l := range p.held {
		_ = l.Close()
	}
	p.held = nil
}
