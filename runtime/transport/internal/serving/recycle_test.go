package serving

import (
	"context"
	"hash/maphash"
	"log/slog"
	"testing"

	"github.com/protomicro/micro/runtime/transport"
)

// A recycler is a listener that uses memory again.
type recycler struct {
	answers
	back string
}

func (r *recycler) Recycle(m transport.Message) { r.back += string(m.Body) }

// A handler is told of a listener that uses memory again, and of no other.
func TestRecycle(t *testing.T) {
	var with recycler
	for name, a := range map[string]Answerer[string]{"with": &with, "without": new(answers)} {
		done := make(chan bool, 1)
		cfg, err := transport.ListenConfig{Instance: "one", Handler: handlerFunc(func(_ context.Context, req *transport.Request, reply transport.Replier) {
			rc, ok := reply.(transport.Recycler)
			if err := reply.Reply(transport.Message{}); err != nil {
				t.Error(err)
			}
			if ok {
				rc.Recycle(req.Message)
			}
			done <- ok
		})}.WithDefaults()
		if err != nil {
			t.Fatal(err)
		}
		seed := maphash.MakeSeed()
		calls := New(cfg, func(k string) uint64 { return maphash.String(seed, k) }, a, slog.New(slog.DiscardHandler))
		calls.Deliver("place", transport.Message{Body: []byte("body")})
		if got := <-done; got != (name == "with") {
			t.Errorf("%s: told %v", name, got)
		}
		if err := calls.Drain(t.Context()); err != nil {
			t.Error(err)
		}
	}
	if with.back != "body" {
		t.Errorf("%q came back", with.back)
	}
}
