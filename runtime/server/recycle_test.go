package server

import (
	"context"
	"io"
	"log/slog"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/emptypb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/protomicro/micro/runtime/codec"
	"github.com/protomicro/micro/runtime/codec/protorpc"
	"github.com/protomicro/micro/runtime/metadata"
	"github.com/protomicro/micro/runtime/rpc"
	"github.com/protomicro/micro/runtime/transport"
)

// A recycler is a replier whose transport uses memory again.
type recycler struct {
	discard
	back [][]byte
}

func (r *recycler) Recycle(m transport.Message) {
	r.back = append(r.back, m.Body)
	clear(m.Body)
}

// TestRecycle has the memory of a request go back only where nobody can still have it.
func TestRecycle(t *testing.T) {
	var kept context.Context // that a handler had
	receive := func(ctx context.Context, call Call) error {
		kept = ctx
		if err := call.Receive(&wrapperspb.BytesValue{}); err != nil {
			return err
		}
		return call.Send(&emptypb.Empty{})
	}
	for _, tt := range []struct {
		name     string
		size     int // of the message
		metadata metadata.MD
		resolved bool
		serve    Handler
		want     int
	}{
		{"plain", 0, metadata.MD{}, false, receive, 1},
		{"with the number of its attempt", 0, metadata.Pairs(rpc.KeyAttempt, "2"), false, receive, 1},
		{"with metadata", 0, metadata.Pairs("key", "value"), false, receive, 0},
		{"large, with metadata", leastDetached, metadata.Pairs("key", "value"), false, receive, 1},
		{"of a method from elsewhere", 0, metadata.MD{}, true, receive, 0},
		{"not received", 0, metadata.MD{}, false, func(_ context.Context, call Call) error { return call.Send(&emptypb.Empty{}) }, 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := protorpc.New()
			spec := &rpc.Spec{Service: "a.B", Method: "M", Procedure: "a.B/M"}
			frame, err := c.AppendRequest(nil, &codec.Request{Tag: codec.Tag{Seq: 1}, Procedure: spec.Procedure, Metadata: tt.metadata}, wrapperspb.Bytes(make([]byte, tt.size)))
			if err != nil {
				t.Fatal(err)
			}
			d := &dispatcher{
				codecs:  map[string]codec.Codec{c.ContentType(): c},
				methods: map[string]*method{spec.Procedure: {spec: spec, serve: tt.serve, resolved: tt.resolved}},
				logger:  slog.New(slog.NewTextHandler(io.Discard, nil)),
				load:    &overload{instance: "one", epoch: time.Now()},
			}
			d.load.dispatcher = d
			var r recycler
			req := &transport.Request{Message: transport.Message{Body: frame}, Received: time.Now()}
			d.ServeCall(t.Context(), req, &r)
			if len(r.back) != tt.want {
				t.Fatalf("%d messages went back, want %d", len(r.back), tt.want)
			}
			if tt.want == 1 && (&r.back[0][0] != &frame[0] || req.Body != nil) {
				t.Error("it is not the request's, or the request still has it")
			}
			if got, want := metadata.Incoming(kept).Get("key"), tt.metadata.Get("key"); tt.size > 0 && got != want {
				t.Errorf("the metadata that the handler has kept is %q, want %q", got, want)
			}
		})
	}
}
