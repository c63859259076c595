package discovery

import (
	"context"
	"sync"
)

// Peers are the other instances of a service, as one of its instances sees them. A replica uses it to call the other
// replicas, or to follow them.
type Peers struct {
	// Directory has the instances. Nil: there are no peers.
	Directory *Directory
	// Service and Self are the name of the service and the id of this instance, which is not among its own peers.
	Service, Self string
	// Endpoint is the listener of the peers that is used: "grpc". An instance without it is left out.
	Endpoint string
}

// Peer is one other instance.
type Peer struct {
	// ID is the id of the instance, Addr the host:port of the endpoint.
	ID, Addr string
}

// List returns the peers that are known now, sorted by id. Their status does not matter, except that those that are
// STARTING are left out: a peer that takes no new calls still has the data that it got before.
func (p Peers) List() []Peer {
	if p.Directory == nil {
		return nil
	}
	return p.of(p.Directory.Instances(p.Service))
}

func (p Peers) of(instances []Instance) []Peer {
	var peers []Peer
	for _, in := range instances {
		if addr := in.Endpoints[p.Endpoint]; addr != "" && in.ID != p.Self && in.Status != Starting {
			peers = append(peers, Peer{in.ID, addr})
		}
	}
	return peers
}

// Follow runs fn for each peer, in a goroutine of its own, with a context that ends when the peer is not in
// [Peers.List] any more. A peer with a new address is run again, after the fn of the old address has returned. Follow
// returns when ctx has ended and every fn has returned.
func (p Peers) Follow(ctx context.Context, fn func(ctx context.Context, peer Peer)) {
	if p.Directory == nil {
		<-ctx.Done()
		return
	}
	f := &peerRuns{fn: fn, running: map[Peer]context.CancelFunc{}, ended: map[string]chan struct{}{}}
	stop := p.Directory.Watch(p.Service, func(instances []Instance) { f.update(ctx, p.of(instances)) })
	<-ctx.Done()
	stop()
	f.mu.Lock() // an update that has begun before stop has ended after this
	f.stopped = true
	f.mu.Unlock()
	f.all.Wait()
}

// peerRuns is the state of one [Peers.Follow].
type peerRuns struct {
	fn  func(context.Context, Peer)
	all sync.WaitGroup

	mu      sync.Mutex
	stopped bool
	running map[Peer]context.CancelFunc
	ended   map[string]chan struct{} // peer's id -> closed when the last fn for this id has returned
}

func (f *peerRuns) update(ctx context.Context, peers []Peer) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.stopped {
		return
	}
	current := map[Peer]bool{}
	for _, peer := range peers {
		current[peer] = true
	}
	for peer, cancel := range f.running {
		if !current[peer] {
			cancel()
			delete(f.running, peer)
		}
	}
	for _, peer := range peers {
		if f.running[peer] == nil {
			f.startLocked(ctx, peer)
		}
	}
}

func (f *peerRuns) startLocked(ctx context.Context, peer Peer) {
	ctx, cancel := context.WithCancel(ctx)
	before, ended := f.ended[peer.ID], make(chan struct{})
	f.running[peer], f.ended[peer.ID] = cancel, ended
	f.all.Go(func() {
		defer f.end(peer.ID, ended)
		defer cancel()
		if before != nil {
			<-before
		}
		if ctx.Err() == nil {
			f.fn(ctx, peer)
		}
	})
}

func (f *peerRuns) end(id string, ended chan struct{}) {
	close(ended)
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.ended[id] == ended {
		delete(f.ended, id)
	}
}
