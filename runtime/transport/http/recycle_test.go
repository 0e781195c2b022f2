package http_test

import (
	"bytes"
	"context"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/protomicro/micro/internal/echotest"
	echov1 "github.com/protomicro/micro/internal/gen/echo/v1"
	"github.com/protomicro/micro/internal/gen/echo/v1/echov1micro"
	"github.com/protomicro/micro/runtime/client"
	"github.com/protomicro/micro/runtime/codec/jsonrpc"
	"github.com/protomicro/micro/runtime/metadata"
	"github.com/protomicro/micro/runtime/server"
	"github.com/protomicro/micro/runtime/transport/http"
)

// TestRecycled makes many calls with messages of all sizes, some of which are given up,
// and has every answer be that to its own request, also when later calls have used the
// memory again.
func TestRecycled(t *testing.T) {
	s, _ := echotest.Serve(t, server.Config{Transport: open(t, http.Config{}), Logger: echotest.Quiet()})
	for name, cfg := range map[string]http.Config{
		"native":      {},
		"connect":     {Protocol: http.Connect},
		"all in gzip": {Protocol: http.Connect, Gzip: true, GzipMinSize: -1},
		"grpc":        {Protocol: http.GRPC},
	} {
		t.Run(name, func(t *testing.T) {
			c := echotest.Dial(t, client.Config{Transport: open(t, cfg)})
			recycled(t, echov1micro.NewEchoClient(c), client.WithAddress(s.Address()))
			if name != "all in gzip" {
				recycled(t, echov1micro.NewEchoClient(c), client.WithAddress(s.Address()), client.WithCodec(jsonrpc.New()))
			}
		})
	}
}

func recycled(t *testing.T, c echov1micro.EchoClient, opts ...client.CallOption) {
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			rnd := rand.New(rand.NewPCG(uint64(i), 0))
			letter := byte('a' + i)
			var answers []*echov1.EchoResponse
			var traces []string
			for n := range 40 {
				size := rnd.IntN(1 << rnd.IntN(18))
				req := &echov1.EchoRequest{Text: strings.Repeat(string(letter), size/2), Body: bytes.Repeat([]byte{letter}, size/2)}
				opts, ctx := opts, t.Context()
				var header metadata.MD
				if n%3 == 0 {
					opts = append(opts[:len(opts):len(opts)], client.WithMetadata("trace", string(letter)), client.WithResponseMetadata(&header))
				}
				giveUp := n%5 == 0
				if giveUp {
					var cancel context.CancelFunc
					ctx, cancel = context.WithTimeout(ctx, time.Duration(rnd.IntN(500))*time.Microsecond)
					defer cancel()
				}
				res, err := c.Echo(ctx, req, opts...)
				if err != nil {
					if !giveUp {
						t.Error(err)
					}
					continue
				}
				answers = append(answers, res)
				if len(res.GetBody()) != size/2 || len(res.GetText()) != size/2 {
					t.Errorf("%d and %d bytes came back, want %d", len(res.GetBody()), len(res.GetText()), size/2)
				}
				if n%3 == 0 {
					traces = append(traces, header.Get("echo-trace"))
				}
			}
			for _, res := range answers {
				if strings.Trim(res.GetText(), string(letter)) != "" || len(bytes.Trim(res.GetBody(), string(letter))) != 0 {
					t.Errorf("an answer to %c has something else in it", letter)
				}
			}
			for _, trace := range traces {
				if trace != string(letter) {
					t.Errorf("an answer to %c has the metadata %q", letter, trace)
				}
			}
		})
	}
	wg.Wait()
}
