package serving

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"runtime"
	"testing"
	"testing/synctest"
	"time"

	"github.com/protomicro/micro/runtime/status"
	"github.com/protomicro/micro/runtime/transport"
	"github.com/protomicro/micro/runtime/transport/internal/stream"
)

type streamFunc func(ctx context.Context, req *transport.Request, stream transport.ServerStream)

func (f streamFunc) ServeStream(ctx context.Context, req *transport.Request, stream transport.ServerStream) {
	f(ctx, req, stream)
}

func (f streamFunc) ServeCall(_ context.Context, _ *transport.Request, reply transport.Replier) {
	_ = reply.Reject(status.Unimplemented, "no calls here")
}

func newStreams(t *testing.T, h streamFunc, limit int) *Streams {
	t.Helper()
	cfg, err := transport.ListenConfig{Instance: "one", Handler: h, MaxStreams: limit}.WithDefaults()
	if err != nil {
		t.Fatal(err)
	}
	return NewStreams(cfg, stream.NewSet(stream.Config{}), slog.New(slog.DiscardHandler))
}

// A link passes frames on at once.
type link struct {
	to    interface{ Deliver(frame []byte) }
	ended int
}

func (l *link) Send(frame []byte) error { l.to.Deliver(bytes.Clone(frame)); return nil }
func (l *link) MaxFrame() int           { return 1000 }
func (l *link) Ended(*status.Error)     { l.ended++ }

// openStream opens a stream from a client of its own.
func openStream(t *testing.T, ss *Streams, body string) (*stream.Client, *link, *status.Error) {
	t.Helper()
	var up, down link
	c := stream.NewSet(stream.Config{}).NewClient(t.Context(), &up, "one")
	down.to = c
	err := ss.Open(&down, c.Offer(), "the client", transport.Message{Body: []byte(body)},
		func(s *stream.Server) { up.to = s })
	if err != nil {
		c.Fail(err)
	} else if err := c.Opened(); err != nil {
		t.Fatal(err)
	}
	return c, &down, err
}

// TestStreamWithoutAnswer has handlers that end in all the ways but the right one.
func TestStreamWithoutAnswer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ss := newStreams(t, func(_ context.Context, req *transport.Request, _ transport.ServerStream) {
			switch string(req.Body) {
			case "panic":
				panic("of the test")
			case "exit":
				runtime.Goexit()
			}
		}, 0)
		for body, text := range map[string]string{
			"panic":  "the handler panicked",
			"exit":   "the handler gave no reply",
			"return": "the handler gave no reply",
		} {
			c, down, err := openStream(t, ss, body)
			if err != nil {
				t.Fatal(err)
			}
			_, e := c.Recv()
			if status.CodeOf(e) != status.Internal || status.From(e).Message() != text || errors.Is(e, transport.ErrNotStarted) {
				t.Errorf("%s: got %v", body, e)
			}
			synctest.Wait()
			if down.ended != 1 {
				t.Errorf("%s: the link was told %d times of the end", body, down.ended)
			}
		}
		if n := ss.Len(); n != 0 {
			t.Errorf("%d handlers run", n)
		}
	})
}

// TestStreamsEnd has a listener with a stream that does not end by itself.
func TestStreamsEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		causes := make(chan error, 1)
		ss := newStreams(t, func(ctx context.Context, req *transport.Request, s transport.ServerStream) {
			if string(req.Body) == "short" {
				_ = s.Reply(transport.Message{}) // the client misses it
				if ctx.Err() != nil {
					t.Error("the context ended with the answer")
				}
				context.AfterFunc(ctx, func() { causes <- context.Cause(ctx) })
				return
			}
			<-ctx.Done()
			causes <- context.Cause(ctx)
		}, 1)
		long, _, err := openStream(t, ss, "long")
		if err != nil {
			t.Fatal(err)
		}
		if _, _, err := openStream(t, ss, "more"); err == nil || err.Code() != status.ResourceExhausted {
			t.Errorf("one more: got %v", err)
		}
		if err := long.Close(); err != nil {
			t.Error(err)
		}
		if got := status.CodeOf(<-causes); got != status.Canceled {
			t.Errorf("after the client closed it: got %v", got)
		}
		synctest.Wait()

		short, _, err := openStream(t, ss, "short")
		if err != nil {
			t.Fatal(err)
		}
		if _, err := short.Recv(); !errors.Is(err, io.EOF) {
			t.Errorf("got %v", err)
		}
		if got := <-causes; !errors.Is(got, context.Canceled) {
			t.Errorf("after the handler: got %v", got)
		}
		synctest.Wait() // its place is free

		long, _, err = openStream(t, ss, "long")
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		began := time.Now()
		if err := ss.Drain(ctx); !errors.Is(err, context.DeadlineExceeded) || time.Since(began) != time.Minute {
			t.Errorf("drain: got %v after %v", err, time.Since(began))
		}
		if got := status.CodeOf(<-causes); got != status.Unavailable {
			t.Errorf("after the time to shut down: got %v", got)
		}
		if _, err := long.Recv(); status.CodeOf(err) != status.Unavailable {
			t.Errorf("the client got %v", err)
		}
		if _, _, err := openStream(t, ss, "late"); err == nil || err.Code() != status.Unavailable {
			t.Errorf("after the end: got %v", err)
		}
		if err := ss.Drain(t.Context()); err != nil {
			t.Error(err)
		}
	})
}

// TestStreamOffer has a client whose offer is none.
func TestStreamOffer(t *testing.T) {
	ss := newStreams(t, func(context.Context, *transport.Request, transport.ServerStream) {}, 0)
	for offer, code := range map[string]status.Code{"": status.InvalidArgument, "9 8": status.Unimplemented} {
		err := ss.Open(&link{}, offer, "", transport.Message{}, func(*stream.Server) { t.Error("registered") })
		if err == nil || err.Code() != code {
			t.Errorf("%q: got %v", offer, err)
		}
	}
	if n := ss.Len(); n != 0 {
		t.Errorf("%d handlers run", n)
	}
}
