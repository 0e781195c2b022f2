package micro_test

import (
	"context"
	"os"
	"testing"
	"testing/synctest"

	"github.com/protomicro/micro/internal/echotest"
	echov1 "github.com/protomicro/micro/internal/gen/echo/v1"
	"github.com/protomicro/micro/internal/gen/echo/v1/echov1micro"
	micro "github.com/protomicro/micro/runtime"
	"github.com/protomicro/micro/runtime/client"
	"github.com/protomicro/micro/runtime/reflection"
	"github.com/protomicro/micro/runtime/transport/memory"
)

// To ask a service of one call for its schema does not use that call up.
func TestOnceHasReflection(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		net := memory.New(memory.Config{})
		s, err := micro.New(micro.Config{Name: "function", Transport: net, Once: true, Signals: []os.Signal{}})
		if err != nil {
			t.Fatal(err)
		}
		if err := (&echotest.Handler{}).Register(s.Server()); err != nil {
			t.Fatal(err)
		}
		if err := reflection.Register(s.Server(), reflection.Config{}); err != nil {
			t.Fatal(err)
		}
		ended := make(chan error, 1)
		go func() { ended <- s.Run(context.Background()) }()
		synctest.Wait()
		c := echotest.Dial(t, client.Config{Transport: net})
		at := client.WithAddress(s.Server().Address())
		for range 2 {
			if _, err := reflection.Fetch(t.Context(), c, []string{echov1micro.EchoName}, at); err != nil {
				t.Error(err)
			}
		}
		if _, err := echov1micro.NewEchoClient(c).Echo(t.Context(), &echov1.EchoRequest{}); err != nil {
			t.Error(err)
		}
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
}
