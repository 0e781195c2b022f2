package metadata

import (
	"context"
	"sync"
)

// One key for each direction and side, so that none is found by another's reader.
type (
	outgoingKey struct{}
	incomingKey struct{}
)

// Append is a context whose calls also send these pairs, beside those that ctx
// has already. Keys and values alternate; they are checked when a call is made.
func Append(ctx context.Context, kv ...string) context.Context {
	md := Outgoing(ctx).Clone()
	md.addPairs(kv)
	return context.WithValue(ctx, outgoingKey{}, md)
}

// WithOutgoing is a context whose calls send md and nothing that ctx had before.
// The md is the context's from here on: do not change it.
func WithOutgoing(ctx context.Context, md MD) context.Context {
	return context.WithValue(ctx, outgoingKey{}, md)
}

// Outgoing is what calls made with ctx send. Do not change it.
func Outgoing(ctx context.Context) MD {
	md, _ := ctx.Value(outgoingKey{}).(MD)
	return md.clipped()
}

// Exchange is the metadata of a call being handled: what came with the request and
// what goes with the response, before it and behind. The server keeps one for each
// call. It must not be copied once it is in use.
type Exchange struct {
	Request  MD
	Response MD // leading
	Trailer  MD

	mu   sync.Mutex // for the last two, while the handler runs
	sent bool       // Response is on its way
}

// TakeResponse is the leading metadata for whoever sends it: the first caller has it,
// and later ones nothing. AddResponse does nothing any more. Servers of streams call
// it.
func (x *Exchange) TakeResponse() MD {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.sent {
		return MD{}
	}
	x.sent = true
	return x.Response.clipped()
}

// Value is x for the key by which this package finds an Exchange in a context, and
// otherwise nil. By it a server's own kind of context can hold x, where WithExchange
// would put another context around that.
func (x *Exchange) Value(key any) any {
	if key == (incomingKey{}) {
		return x
	}
	return nil
}

// WithExchange is a context for a handler. Servers call it; a test of a handler
// may do so as well.
func WithExchange(ctx context.Context, x *Exchange) context.Context {
	return context.WithValue(ctx, incomingKey{}, x)
}

// Incoming is the request's metadata in a handler, empty elsewhere. It is valid
// until the handler returns; do not change it.
func Incoming(ctx context.Context) MD {
	if x, _ := ctx.Value(incomingKey{}).(*Exchange); x != nil {
		return x.Request.clipped()
	}
	return MD{}
}

// AddResponse appends a pair to the response's leading metadata, which the caller has
// before the first message of a stream, and otherwise with the outcome, whether that is
// an answer or an error. It is for a handler before it returns, in any of its
// goroutines. It does nothing and reports false elsewhere, and on a stream after the
// first message was sent.
func AddResponse(ctx context.Context, key, value string) bool {
	x, _ := ctx.Value(incomingKey{}).(*Exchange)
	if x == nil {
		return false
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.sent {
		return false
	}
	x.Response.Add(key, value)
	return true
}

// AddTrailer appends a pair to the response's trailing metadata, which the caller has
// with the outcome of the call or stream. It is for a handler before it returns, in any
// of its goroutines; elsewhere it does nothing and reports false.
func AddTrailer(ctx context.Context, key, value string) bool {
	x, _ := ctx.Value(incomingKey{}).(*Exchange)
	if x == nil {
		return false
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	x.Trailer.Add(key, value)
	return true
}
