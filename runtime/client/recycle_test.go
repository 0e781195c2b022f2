package client_test

import (
	"context"
	"testing"

	"github.com/protomicro/micro/internal/echotest"
	echov1 "github.com/protomicro/micro/internal/gen/echo/v1"
	"github.com/protomicro/micro/internal/gen/echo/v1/echov1micro"
	"github.com/protomicro/micro/runtime/client"
	"github.com/protomicro/micro/runtime/codec"
	"github.com/protomicro/micro/runtime/codec/protorpc"
	"github.com/protomicro/micro/runtime/metadata"
	"github.com/protomicro/micro/runtime/status"
	"github.com/protomicro/micro/runtime/transport"
)

// A recycling transport answers with one response, and uses its memory again when it
// may.
type recycling struct {
	transport.Transport
	transport.Conn
	response codec.Response
	recycled int
}

func (r *recycling) Scheme() string { return "recycling" }

func (r *recycling) Dial(context.Context, transport.Address) (transport.Conn, error) { return r, nil }

func (r *recycling) Close() error { return nil }

func (r *recycling) Call(_ context.Context, m transport.Message) (transport.Message, error) {
	var req codec.Request
	if err := protorpc.New().ParseRequest(m.Body, &req); err != nil {
		return transport.Message{}, err
	}
	r.response.Tag = req.Tag
	b, err := protorpc.New().AppendResponse(nil, &r.response, &echov1.EchoResponse{Text: "text"})
	return transport.Message{Body: b}, err
}

func (r *recycling) Recycle(m transport.Message) {
	r.recycled++
	for i := range m.Body {
		m.Body[i] = 0xff
	}
}

// TestRecycle has the memory of a reply go back only where nothing of it is left.
func TestRecycle(t *testing.T) {
	for _, tt := range []struct {
		name     string
		response codec.Response
		want     int
	}{
		{"a message", codec.Response{}, 1},
		{"with metadata", codec.Response{Metadata: metadata.Pairs("key", "value")}, 0},
		{"with a trailer", codec.Response{Trailer: metadata.Pairs("key", "value")}, 0},
		{"an error", codec.Response{Err: status.New(status.NotFound, "nothing")}, 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			tr := &recycling{response: tt.response}
			c := echotest.Dial(t, client.Config{Transport: tr})
			var header, trailer metadata.MD
			res, err := echov1micro.NewEchoClient(c).Echo(t.Context(), &echov1.EchoRequest{}, client.WithAddress("recycling:here"),
				client.WithResponseMetadata(&header), client.WithResponseTrailer(&trailer))
			if tr.recycled != tt.want {
				t.Errorf("went back %d times, want %d", tr.recycled, tt.want)
			}
			if tt.response.Err != nil {
				if status.CodeOf(err) != status.NotFound {
					t.Error(err)
				}
				return
			}
			if err != nil || res.GetText() != "text" {
				t.Errorf("got %v, %v", res, err)
			}
			if header.Len()+trailer.Len() != 1-tt.want || header.Get("key")+trailer.Get("key") != map[int]string{0: "value", 1: ""}[tt.want] {
				t.Errorf("got the metadata %v, %v", header, trailer)
			}
		})
	}
}
