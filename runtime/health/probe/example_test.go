package probe_test

import (
	"context"
	"errors"
	"net/http"
	"time"

	micro "github.com/protomicro/micro/runtime"
	"github.com/protomicro/micro/runtime/health/probe"
)

// A service answers probes from before its start until it has stopped.
func ExampleHandler() {
	var probes http.Server
	s, err := micro.New(micro.Config{
		Name:      "greeter",
		AfterStop: []micro.Hook{func(ctx context.Context) error { return probes.Shutdown(ctx) }},
	})
	if err != nil {
		panic(err)
	}
	probes = http.Server{Addr: ":8086", Handler: probe.Handler(s), ReadHeaderTimeout: time.Second}
	go func() {
		if err := probes.ListenAndServe(); !errors.Is(err, http.ErrServerClosed) {
			panic(err)
		}
	}()

	if err := s.Run(context.Background()); err != nil {
		panic(err)
	}
}
