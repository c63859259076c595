package circuits

import (
	"context"
	"net"
	"time"

	circuitsv1 "bijou.dev/platform/api/circuits/v1"
	"bijou.dev/platform/discovery"
	"bijou.dev/platform/pace"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/metadata"
)

// followPeer keeps the view of one replica up to date until ctx ends.
func (b *Board) followPeer(ctx context.Context, peer discovery.Peer) {
	id, addr := peer.ID, peer.Addr
	defer b.setPeer(id, nil)
	conn, err := grpc.NewClient("passthrough:///"+addr,
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		// The circuits of a thousand callers are larger than the default limit of 4 MiB.
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(64<<20)),
		// Without keep-alive, a connection that drops all packets would be noticed after minutes only.
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: 10 * time.Second, Timeout: expiry}),
		grpc.WithContextDialer(func(ctx context.Context, addr string) (net.Conn, error) {
			return b.opts.DialContext(ctx, "tcp", addr)
		}))
	if err != nil {
		b.log.Error("a replica cannot be watched", "peer", id, "address", addr, "error", err)
		return
	}
	defer conn.Close()
	client, broken := circuitsv1.NewCircuitsClient(conn), false
	backoff := pace.Backoff{First: period / 4, Max: expiry}
	for ctx.Err() == nil {
		got, err := b.watchPeer(ctx, id, client)
		if got {
			broken = false
			backoff.Reset()
		}
		if !broken && ctx.Err() == nil {
			broken = true
			b.log.Warn("a replica is not watched; trying again", "peer", id, "address", addr, "error", err)
		}
		backoff.Wait(ctx)
	}
}

// watchPeer stores what one replica sends until the stream breaks, and reports whether anything was received.
func (b *Board) watchPeer(ctx context.Context, id string, client circuitsv1.CircuitsClient) (got bool, err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	// A peer that sends nothing hangs, even if its connection is open.
	silence := time.AfterFunc(2*expiry, cancel)
	defer silence.Stop()
	ctx = metadata.AppendToOutgoingContext(ctx, peerKey, b.opts.Instance)
	stream, err := client.Watch(ctx, &circuitsv1.WatchRequest{})
	if err != nil {
		return false, err
	}
	for {
		resp, err := stream.Recv()
		if err != nil {
			return got, err
		}
		got = true
		silence.Reset(2 * expiry)
		b.setPeer(id, &view{at: time.Now(), services: resp.Services})
	}
}

// setPeer replaces the view of a peer; nil removes it.
func (b *Board) setPeer(id string, v *view) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if v == nil {
		delete(b.peers, id)
	} else {
		b.peers[id] = v
	}
}
