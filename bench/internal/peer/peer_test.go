package peer

import (
	"context"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"go.uber.org/goleak"
	"google.golang.org/protobuf/proto"

	"github.com/protomicro/micro/bench/internal/natsserver"
	echov1 "github.com/protomicro/micro/internal/gen/echo/v1"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func startNATS(t *testing.T) string {
	t.Helper()
	url, stop, err := natsserver.Start(&server.Options{JetStream: true, StoreDir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(stop)
	return url
}

// start starts both sides.
func start(t *testing.T, p Peer, s Setup) *Client {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	t.Cleanup(cancel)
	if p.Serve != nil {
		srv, err := p.Serve(ctx, s)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(srv.Close)
		s.Address = srv.Address
	}
	c, err := p.Dial(ctx, s)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	t.Cleanup(cancel) // first, as the last one that was added: it ends what Open opened
	return c
}

// TestCalls makes calls with each peer, to more than one service and instance where it
// has them, and passes a stream of each kind.
func TestCalls(t *testing.T) {
	url := startNATS(t)
	for i, p := range []Peer{
		Raw(), NATSMicro(), NATSMicroProto(), PSRPC(), PSRPCSkipClaim(), GRPC(), Connect(), ConnectGzip(), DRPC(), ConnectToMicro(),
		Memory.Proto(), Memory.JSON(), NATS.Proto(), NATS.JSON(), HTTP.Proto(), HTTP.JSON(), HTTPConnect.Proto(), HTTPConnect.JSON(),
	} {
		t.Run(strings.ReplaceAll(p.Name, "/", "-"), func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
			defer cancel()
			s := Setup{NATS: url, Space: "calls" + strconv.Itoa(i), Payload: 3000, Callers: 2, Services: 3, Instances: 2}
			if strings.HasPrefix(p.Name, "psrpc") || strings.HasPrefix(p.Name, "connect-go>") {
				s.Services, s.Instances = 1, 1
			}
			c := start(t, p, s)
			for n := range 7 {
				if err := c.Call(ctx, n); err != nil {
					t.Fatal(err)
				}
			}
			if c.Stream == nil {
				return
			}
			kinds := []Kind{Down, Up, Both}
			if strings.HasPrefix(p.Name, "psrpc") {
				kinds = []Kind{Both}
			}
			for _, kind := range kinds {
				for range 2 { // one after the other counts anew
					if err := c.Stream(ctx, kind, Batch); err != nil {
						t.Fatalf("%s: %v", kind, err)
					}
				}
			}
			if c.Open == nil {
				return
			}
			for range 3 {
				turn, err := c.Open(ctx)
				if err != nil {
					t.Fatal(err)
				}
				for range 3 {
					if err := turn(); err != nil {
						t.Fatal(err)
					}
				}
			}
			if err := c.Call(ctx, 0); err != nil {
				t.Fatalf("while streams are open: %v", err)
			}
		})
	}
}

// TestEvents publishes events with each peer and waits until they have arrived.
func TestEvents(t *testing.T) {
	url := startNATS(t)
	core := []Peer{RawCore(false), RawCore(true), WatermillCore(), MicroCore(1, false), MicroCore(16, false), MicroCore(1, true)}
	stored := []Peer{RawJetStream(false), RawJetStream(true), WatermillJetStream(1), WatermillJetStream(4), MicroJetStream()}
	for i, p := range slices.Concat(core, stored) {
		t.Run(strings.ReplaceAll(p.Name, "/", "-"), func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
			defer cancel()
			c := start(t, p, Setup{NATS: url, Space: "events" + strconv.Itoa(i), Services: 1, Instances: 1})
			if Batch%c.Publishers != 0 {
				t.Fatalf("%d publishers", c.Publishers)
			}
			for range 2 * Batch {
				if err := c.Publish(ctx); err != nil {
					t.Fatal(err)
				}
			}
			if err := c.Flush(ctx); err != nil {
				t.Fatal(err)
			}
			if err := c.Window.Wait(ctx, 2*Batch); err != nil {
				t.Fatal(err)
			}
			if n := c.Window.Arrived(); n != 2*Batch {
				t.Errorf("%d events arrived", n)
			}
		})
	}
}

// TestTimedEvents publishes events with each peer, one after the other, and hears how
// long each one took.
func TestTimedEvents(t *testing.T) {
	url := startNATS(t)
	core := []Peer{RawCore(false), RawCore(true), WatermillCore(), MicroCore(1, false), MicroCore(16, false), MicroCore(1, true)}
	stored := []Peer{RawJetStream(false), RawJetStream(true), WatermillJetStream(1), MicroJetStream()}
	for i, p := range slices.Concat(core, stored) {
		t.Run(strings.ReplaceAll(p.Name, "/", "-"), func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
			defer cancel()
			c := start(t, p, Setup{NATS: url, Space: "timed" + strconv.Itoa(i), Services: 1, Instances: 1, Timed: true})
			for range 10 {
				began := time.Now()
				age, err := c.PublishTimed(ctx)
				if err != nil {
					t.Fatal(err)
				}
				if all := time.Since(began); age <= 0 || age > all {
					t.Errorf("an event took %v of %v", age, all)
				}
			}
		})
	}
}

// TestSizes: what the tables say about sizes holds.
func TestSizes(t *testing.T) {
	for _, m := range []proto.Message{
		&echov1.CountResponse{Body: streamBody()}, &echov1.SumRequest{Body: streamBody()},
		&echov1.ChatRequest{Body: streamBody()}, &echov1.ChatResponse{Body: streamBody()},
	} {
		if n := proto.Size(m); n != StreamMessage {
			t.Errorf("%T has %d bytes", m, n)
		}
	}
	event, err := Event("b17")
	if err != nil || proto.Size(event) != EventSize {
		t.Errorf("an event has %d bytes: %v", proto.Size(event), err)
	}
	request, response, err := Frames(1000)
	if err != nil || len(request) < 1000 || len(response) < 1000 || len(request) > 1200 {
		t.Errorf("frames of %d and %d bytes: %v", len(request), len(response), err)
	}
}

// TestWindow: a publisher waits where it is too far ahead, and no longer than its context.
func TestWindow(t *testing.T) {
	w := newWindow()
	if err := w.Room(t.Context(), ahead-1); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	if err := w.Room(ctx, ahead); err == nil {
		t.Fatal("there is room for one more than the bound")
	}
	w.set(1)
	if err := w.Room(t.Context(), ahead); err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- w.Wait(t.Context(), 5) }()
	w.set(5)
	w.set(4) // of a handler that was late to tell
	if err := <-done; err != nil {
		t.Fatal(err)
	}
}
