package http

import (
	"bytes"
	"context"
	"errors"
	"io"
	nethttp "net/http"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/protomicro/micro/runtime/codec"
	"github.com/protomicro/micro/runtime/transport"
)

// TestLent has calls given up, and answered early, while their bodies are being sent,
// and uses the memory again at once. No byte may arrive of what it holds then.
func TestLent(t *testing.T) {
	for _, protocol := range []Protocol{Native, Connect} {
		t.Run(protocol.String(), func(t *testing.T) { testLent(t, protocol) })
	}
}

func testLent(t *testing.T, protocol Protocol) {
	const (
		size  = 600 << 10 // more than a listener takes that does not read
		reuse = 0xff
	)
	var whole, cut atomic.Int64
	serve := func(w nethttp.ResponseWriter, r *nethttp.Request) {
		b := make([]byte, size+1<<10)
		n, err := io.ReadFull(r.Body, b[:1<<10])
		if err == nil && b[512] == 0 { // a body that is to be read
			var m int
			m, err = io.ReadFull(r.Body, b[n:])
			n += m
		}
		if at := bytes.IndexByte(b[:n], reuse); at >= 0 {
			t.Errorf("byte %d of %d is of the next use", at, n)
		}
		switch {
		case errors.Is(err, io.ErrUnexpectedEOF) && n >= size:
			whole.Add(1)
		case err != nil:
			cut.Add(1)
		}
		w.WriteHeader(nethttp.StatusServiceUnavailable)
	}
	tr, err := New(Config{Protocol: protocol, Middleware: func(nethttp.Handler) nethttp.Handler { return nethttp.HandlerFunc(serve) }})
	if err != nil {
		t.Fatal(err)
	}
	l, err := tr.Listen(t.Context(), transport.ListenConfig{Instance: "one", Handler: noHandler{}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
		defer cancel()
		if err := errors.Join(l.Shutdown(ctx), tr.Close()); err != nil {
			t.Error(err)
		}
	})
	c, err := tr.Dial(t.Context(), l.Address())
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	for i := range 4 {
		wg.Go(func() {
			var b []byte
			for n := range 24 {
				payload := make([]byte, size)
				ctx, cancel := context.WithCancel(t.Context())
				switch (i + n) % 3 {
				case 0: // is answered early
					payload = bytes.Repeat([]byte{1}, size)
				case 1: // is given up
					ctx, cancel = context.WithTimeout(t.Context(), time.Duration(n)*100*time.Microsecond)
				}
				frame, err := encodingProto.AppendRequest(b[:0], &codec.Request{Tag: codec.Tag{Seq: 1}, Procedure: "test/Call"}, encoded(payload))
				if err != nil {
					t.Error(err)
				}
				if _, err := c.Call(ctx, transport.Message{Body: frame}); err == nil {
					t.Error("the call succeeded")
				}
				cancel()
				for j := range frame {
					frame[j] = reuse
				}
				b = frame
			}
		})
	}
	wg.Wait()
	if whole.Load() == 0 || cut.Load() == 0 {
		t.Errorf("%d bodies arrived as a whole and %d in part, want some of both", whole.Load(), cut.Load())
	}
}

type noHandler struct{}

func (noHandler) ServeCall(context.Context, *transport.Request, transport.Replier) {}

func (noHandler) ServeStream(context.Context, *transport.Request, transport.ServerStream) {}

// TestLentReader has every reader of a body begin at its start and end with the call.
func TestLentReader(t *testing.T) {
	body := lent{b: []byte("body")}
	one, two := &lentReader{from: &body}, &lentReader{from: &body}
	part := make([]byte, 3)
	if n, err := one.Read(part); n != len(part) || err != nil {
		t.Errorf("Read: %d, %v", n, err)
	}
	if b, err := io.ReadAll(two); string(b) != "body" || err != nil {
		t.Errorf("the second reader: %q, %v", b, err)
	}
	body.end()
	if n, err := one.Read(part); n != 0 || !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("Read when the call has ended: %d, %v", n, err)
	}
}
