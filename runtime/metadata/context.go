package metadata

import "context"

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
// what goes with the response. The server keeps one for each call.
type Exchange struct {
	Request  MD
	Response MD
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

// AddResponse appends a pair to the response's metadata. It is for the handler's
// own goroutine, before it returns, whether with an answer or an error; elsewhere
// it does nothing and reports false.
func AddResponse(ctx context.Context, key, value string) bool {
	x, _ := ctx.Value(incomingKey{}).(*Exchange)
	if x == nil {
		return false
	}
	x.Response.Add(key, value)
	return true
}
