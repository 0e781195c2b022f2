package health

import (
	"context"
	"errors"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	natsgo "github.com/nats-io/nats.go"
	"go.uber.org/goleak"
	"google.golang.org/grpc/health/grpc_health_v1"

	"github.com/protomicro/micro/e2e/internal/etcdtest"
	"github.com/protomicro/micro/e2e/internal/natstest"
	"github.com/protomicro/micro/internal/echotest"
	echov1 "github.com/protomicro/micro/internal/gen/echo/v1"
	"github.com/protomicro/micro/internal/gen/echo/v1/echov1micro"
	micro "github.com/protomicro/micro/runtime"
	"github.com/protomicro/micro/runtime/client"
	"github.com/protomicro/micro/runtime/health"
	"github.com/protomicro/micro/runtime/registry"
	"github.com/protomicro/micro/runtime/registry/etcd"
	"github.com/protomicro/micro/runtime/rpc"
	"github.com/protomicro/micro/runtime/transport"
	"github.com/protomicro/micro/runtime/transport/nats"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// patience bounds every wait for something that has to happen.
const patience = 30 * time.Second

func eventually(t testing.TB, what string, condition func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); !condition(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%s: not after %v", what, patience)
		}
	}
}

func within(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	t.Cleanup(cancel)
	return ctx
}

func open(t testing.TB, ns *natstest.Server) *nats.Transport {
	t.Helper()
	tr, err := nats.Dial(within(t), ns.URL(), nats.Config{Logger: echotest.Quiet()}, natstest.Quick()...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := tr.Close(); err != nil {
			t.Error(err)
		}
	})
	return tr
}

// run runs a service of Echo until stop is called, or the test ends.
func run(t *testing.T, cfg micro.Config) (s *micro.Service, h *echotest.Handler, stop func()) {
	t.Helper()
	cfg.Name, cfg.Signals, cfg.Logger = "test", []os.Signal{}, echotest.Quiet()
	s, err := micro.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	h = &echotest.Handler{Instance: s.ID()}
	if err := h.Register(s.Server()); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- s.Run(ctx) }()
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("%s: %v", s.ID(), err)
		}
	})
	t.Cleanup(stop)
	eventually(t, s.ID()+" is ready", func() bool { return s.Ready() == nil })
	return s, h, stop
}

// The messages are gRPC's own here, and the server takes them for its own.
func TestHealthOverNATS(t *testing.T) {
	ns := natstest.Start(t)
	s, _, stop := run(t, micro.Config{ID: "one", Transport: open(t, ns)})
	c := echotest.Dial(t, client.Config{Transport: open(t, ns)})
	at := client.WithAddress(s.Server().Address())
	spec := func(method string, kind rpc.Kind) *rpc.Spec {
		return &rpc.Spec{Service: health.ServiceName, Method: method, Procedure: health.ServiceName + "/" + method, Kind: kind}
	}

	var res grpc_health_v1.HealthCheckResponse
	if err := c.Call(within(t), spec("Check", rpc.Unary), &grpc_health_v1.HealthCheckRequest{Service: echov1micro.EchoName}, &res, at); err != nil ||
		res.GetStatus() != grpc_health_v1.HealthCheckResponse_SERVING {
		t.Errorf("check: %v, %v", res.GetStatus(), err)
	}
	var all grpc_health_v1.HealthListResponse
	if err := c.Call(within(t), spec("List", rpc.Unary), &grpc_health_v1.HealthListRequest{}, &all, at); err != nil || len(all.GetStatuses()) != 4 {
		t.Errorf("list: %v, %v", all.GetStatuses(), err)
	}
	watch, err := c.Open(within(t), spec("Watch", rpc.ServerStream), &grpc_health_v1.HealthCheckRequest{}, at)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []grpc_health_v1.HealthCheckResponse_ServingStatus{
		grpc_health_v1.HealthCheckResponse_SERVING, grpc_health_v1.HealthCheckResponse_NOT_SERVING,
	} {
		if err := watch.Receive(&res); err != nil || res.GetStatus() != want {
			t.Errorf("watch: %v, %v, want %v", res.GetStatus(), err, want)
		}
		stop()
	}
}

// While NATS is away, a service says that it is not ready and since when; it is live,
// since it comes back by itself. A connection that does not come back is another matter.
func TestReadyWithoutNATS(t *testing.T) {
	ns := natstest.Start(t)
	tr := open(t, ns)
	if err := tr.Healthy(); err != nil {
		t.Error(err)
	}
	s, _, _ := run(t, micro.Config{ID: "one", Transport: tr})
	for range 2 {
		ns.Stop()
		eventually(t, "it is not ready", func() bool { return s.Ready() != nil })
		if err := s.Ready(); !strings.Contains(err.Error(), "micro: transport nats: ") || !strings.Contains(err.Error(), "not connected to NATS at "+ns.URL()+" since 20") {
			t.Errorf("Ready: %v", err)
		}
		if st, ok := s.Health().Status(""); !ok {
			t.Errorf("no status but %v", st)
		}
		eventually(t, "the health follows", func() bool { st, _ := s.Health().Status(""); return st == health.NotServing })
		if err := s.Live(); err != nil {
			t.Errorf("Live: %v", err)
		}
		ns.Restart(t)
		eventually(t, "it is ready again", func() bool { return s.Ready() == nil })
		eventually(t, "the health follows", func() bool { st, _ := s.Health().Status(""); return st == health.Serving })
	}

	nc, err := natsgo.Connect(ns.URL(), natsgo.NoReconnect())
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	once, err := nats.New(nc, nats.Config{})
	if err != nil {
		t.Fatal(err)
	}
	ns.Stop()
	eventually(t, "the connection is given up", func() bool { return errors.Is(once.Healthy(), transport.ErrClosed) })
	if err := once.Healthy(); !strings.Contains(err.Error(), "is closed (only a new transport connects again)") {
		t.Errorf("got %v", err)
	}
	if err := once.Close(); err != nil {
		t.Error(err)
	}
	if err := once.Healthy(); !errors.Is(err, transport.ErrClosed) {
		t.Errorf("a closed transport: %v", err)
	}
	ns.Restart(t) // for the service to stop well
	eventually(t, "it is ready again", func() bool { return s.Ready() == nil })
}

// A counted transport counts the attempts of clients and those that fail.
type counted struct {
	transport.Transport
	calls, failed atomic.Int64
}

type countedConn struct {
	transport.Conn
	t *counted
}

func (t *counted) Dial(ctx context.Context, addr transport.Address) (transport.Conn, error) {
	c, err := t.Transport.Dial(ctx, addr)
	return countedConn{c, t}, err
}

func (c countedConn) Call(ctx context.Context, m transport.Message) (transport.Message, error) {
	c.t.calls.Add(1)
	res, err := c.Conn.Call(ctx, m)
	if err != nil {
		c.t.failed.Add(1)
	}
	return res, err
}

// Instances are replaced under load, as a rolling deployment does, with etcd and NATS.
// Not only does no call fail: not even an attempt is refused, as clients have gone
// elsewhere before an instance stops.
func TestDrainRefusesNothing(t *testing.T) {
	ns, es := natstest.Start(t), etcdtest.Start(t)
	register := func() registry.Registry {
		r, err := etcd.New(es.Direct(t), etcd.Config{Logger: echotest.Quiet()})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := r.Close(within(t)); err != nil {
				t.Error(err)
			}
		})
		return r
	}
	begin := func(id string) (*echotest.Handler, func()) {
		_, h, stop := run(t, micro.Config{ID: id, Transport: open(t, ns), Registry: register()})
		return h, stop
	}
	_, stop := begin("old")
	tr := &counted{Transport: open(t, ns)}
	echo := echov1micro.NewEchoClient(echotest.Dial(t, client.Config{Transport: tr, Registry: register()}))
	ctx, cancel := context.WithCancel(context.Background())
	var calling sync.WaitGroup
	defer calling.Wait()
	defer cancel()
	for range 8 {
		calling.Go(func() {
			for ctx.Err() == nil {
				if _, err := echo.Echo(context.Background(), &echov1.EchoRequest{}); err != nil {
					t.Errorf("a call: %v", err)
				}
				time.Sleep(time.Millisecond) // the machine has others to serve as well
			}
		})
	}
	for _, id := range []string{"new-1", "new-2", "new-3"} {
		h, next := begin(id)
		eventually(t, id+" is called", func() bool { return h.Calls(echov1micro.EchoEchoProcedure) > 0 })
		stop()
		stop = next
	}
	cancel()
	calling.Wait()
	if n := tr.failed.Load(); n > 0 {
		t.Errorf("%d of %d attempts were refused", n, tr.calls.Load())
	}
	t.Logf("%d attempts over three stops, %d refused", tr.calls.Load(), tr.failed.Load())
}
