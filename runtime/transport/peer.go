package transport

import (
	"context"
	"crypto/tls"
)

// A Peer is what a transport knows of the other end of the connection that a request
// came by, which may be a proxy's.
type Peer struct {
	// Address is where the connection comes from, as the network has it:
	// "192.0.2.1:4321".
	Address string
	// TLS is the state of its TLS, with the certificates that the peer has shown; nil
	// without. It must not be changed.
	TLS *tls.ConnectionState
}

type peerKey struct{}

// WithPeer is a context for a handler. Transports call it; a test of a handler may do
// so as well.
func WithPeer(ctx context.Context, p *Peer) context.Context {
	return context.WithValue(ctx, peerKey{}, p)
}

// PeerOf is the peer whose request is being handled, or nil: elsewhere, and where the
// transport has no connections to its peers, as that over NATS.
func PeerOf(ctx context.Context) *Peer {
	p, _ := ctx.Value(peerKey{}).(*Peer)
	return p
}
