package metadata_test

import (
	"context"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/protomicro/micro/runtime/metadata"
)

func TestOutgoing(t *testing.T) {
	ctx := t.Context()
	check(t, metadata.Outgoing(ctx))
	one := metadata.Append(ctx, "A", "1")
	two := metadata.Append(one, "b", "2", "a", "3")
	three := metadata.Append(one, "c", "4")
	check(t, metadata.Outgoing(ctx))
	check(t, metadata.Outgoing(one), "a", "1")
	check(t, metadata.Outgoing(two), "a", "1", "b", "2", "a", "3")
	check(t, metadata.Outgoing(three), "a", "1", "c", "4")
	check(t, metadata.Outgoing(metadata.WithOutgoing(two, metadata.Pairs("d", "5"))), "d", "5")
	check(t, metadata.Outgoing(metadata.WithOutgoing(two, metadata.MD{})))
}

// The sides of a program do not mix: a handler's calls send nothing of what it got.
func TestIncomingAndOutgoingAreApart(t *testing.T) {
	x := &metadata.Exchange{Request: metadata.Pairs("token", "secret")}
	ctx := metadata.WithExchange(metadata.Append(t.Context(), "out", "1"), x)
	check(t, metadata.Incoming(ctx), "token", "secret")
	check(t, metadata.Outgoing(ctx), "out", "1")
	if !metadata.AddResponse(ctx, "Res", "2") {
		t.Error("AddResponse did nothing in a handler")
	}
	if !metadata.AddTrailer(ctx, "End", "3") {
		t.Error("AddTrailer did nothing in a handler")
	}
	check(t, x.Response, "res", "2")
	check(t, x.Trailer, "end", "3")
	check(t, metadata.Incoming(ctx), "token", "secret")
	check(t, metadata.Outgoing(ctx), "out", "1")

	check(t, metadata.Incoming(metadata.Append(t.Context(), "out", "1")))
	if metadata.AddResponse(t.Context(), "k", "v") || metadata.AddTrailer(t.Context(), "k", "v") {
		t.Error("AddResponse or AddTrailer claims to have an effect outside of a handler")
	}
	check(t, metadata.Incoming(metadata.WithExchange(ctx, nil)))
	if none := metadata.WithExchange(ctx, nil); metadata.AddResponse(none, "k", "v") || metadata.AddTrailer(none, "k", "v") {
		t.Error("AddResponse or AddTrailer claims to have an effect on no exchange")
	}
	// Within a handler that is called in a handler's process, the inner one counts.
	inner := &metadata.Exchange{Request: metadata.Pairs("inner", "1")}
	check(t, metadata.Incoming(metadata.WithExchange(ctx, inner)), "inner", "1")
}

// Leading metadata is sent once, whichever of a handler's goroutines is the first to
// send a message, and nothing is added to it after that.
func TestTakeResponse(t *testing.T) {
	x := &metadata.Exchange{}
	ctx := metadata.WithExchange(t.Context(), x)
	var wg sync.WaitGroup
	var added, taken atomic.Int64
	for range 4 {
		wg.Go(func() {
			for range 100 {
				if metadata.AddResponse(ctx, "k", "v") {
					added.Add(1)
				}
				metadata.AddTrailer(ctx, "t", "v")
			}
			taken.Add(int64(x.TakeResponse().Len()))
		})
	}
	wg.Wait()
	if added.Load() != taken.Load() || added.Load() < 100 {
		t.Errorf("%d pairs were added and %d taken", added.Load(), taken.Load())
	}
	if x.Trailer.Len() != 400 {
		t.Errorf("%d pairs of the trailer", x.Trailer.Len())
	}
	if metadata.AddResponse(ctx, "k", "v") {
		t.Error("AddResponse claims to have an effect on what has been sent")
	}
	check(t, x.TakeResponse())
}

// Calls that share a context may each add to what they got from it.
func TestContextIsSharedSafely(t *testing.T) {
	ctx := t.Context()
	for range 3 {
		ctx = metadata.Append(ctx, "k", "v") // leaves spare capacity at some length
	}
	x := &metadata.Exchange{}
	for range 3 {
		x.Request.Add("k", "v")
	}
	ctx = metadata.WithExchange(ctx, x)
	var wg sync.WaitGroup
	for _, get := range []func(context.Context) metadata.MD{metadata.Outgoing, metadata.Incoming} {
		for range 4 {
			wg.Go(func() {
				md := get(ctx)
				md.Add("own", "w")
				if v := md.Values("own"); len(v) != 1 {
					t.Errorf("got %q", v)
				}
			})
		}
	}
	wg.Wait()
	check(t, metadata.Outgoing(ctx), "k", "v", "k", "v", "k", "v")
	check(t, metadata.Incoming(ctx), "k", "v", "k", "v", "k", "v")
}

func TestExchangeAsValues(t *testing.T) {
	x := &metadata.Exchange{}
	if v := x.Value("something else"); v != nil {
		t.Errorf("got %v", v)
	}
	// It is found by the key that WithExchange uses.
	ctx := valued{t.Context(), x}
	if !metadata.AddResponse(ctx, "k", "v") || x.Response.Get("k") != "v" {
		t.Error("it is not found")
	}
}

type valued struct {
	context.Context
	x *metadata.Exchange
}

func (v valued) Value(key any) any { return v.x.Value(key) }
