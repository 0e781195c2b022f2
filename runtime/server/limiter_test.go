package server

import (
	"context"
	"io"
	"log/slog"
	"math/rand/v2"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/emptypb"

	"github.com/protomicro/micro/runtime/codec"
	"github.com/protomicro/micro/runtime/codec/protorpc"
	"github.com/protomicro/micro/runtime/rpc"
	"github.com/protomicro/micro/runtime/status"
	"github.com/protomicro/micro/runtime/transport"
)

// A world is what a limiter sees: as many calls run as it lets, all take as long as
// latency says for that many.
type world struct {
	now     time.Duration
	latency func(running int) time.Duration
}

// run has as many calls as may begin and end together, one lot after the other.
func (w *world) run(l *limiter, d time.Duration, waited bool) (mean float64) {
	end := w.now + d
	sum := 0.0
	for w.now < end {
		running := int(l.now.Load())
		took := w.latency(running)
		for range running {
			l.end(w.now, w.now+took, waited)
		}
		w.now += took
		sum += float64(running) * took.Seconds()
	}
	return sum / (d + w.now - end).Seconds()
}

// shared is the latency on something that serves so many calls at once without
// slowing them down.
func shared(capacity int, alone time.Duration) func(int) time.Duration {
	return func(running int) time.Duration {
		return max(alone, alone*time.Duration(running)/time.Duration(capacity))
	}
}

// TestLimiterFindsCapacity has it rest near what is there, from below and from above,
// whatever the size.
func TestLimiterFindsCapacity(t *testing.T) {
	for _, capacity := range []int{4, 20, 150} {
		for _, alone := range []time.Duration{10 * time.Millisecond, 300 * time.Millisecond} {
			l := newLimiter(4, 500)
			w := &world{latency: shared(capacity, alone)}
			check := func(when string) {
				t.Helper()
				w.run(l, 5*time.Second+20*w.latency(500), true)
				if mean := w.run(l, 10*time.Second+20*w.latency(500), true); mean < float64(capacity) || mean > 2.25*float64(capacity) {
					t.Errorf("%s: the limit is %.0f on average, where %d calls of %v have room", when, mean, capacity, alone)
				}
			}
			check("at first")
			w.latency = func(int) time.Duration { return alone } // nothing is shared now
			w.run(l, 5*time.Second+200*alone, true)
			if got := l.now.Load(); got < 400 {
				t.Errorf("where calls of %v do not share anything: limit %d of 500", alone, got)
			}
			w.latency = shared(capacity, alone)
			check("from above")
			w.latency = shared(capacity, 10*alone) // everything is slower, and that is no load
			check("when all is slower")
			w.latency = shared(capacity, alone)
			check("when it is well again")
		}
	}
}

// TestLimiterLeavesAlone has it do nothing where nobody waits, however slow calls are.
func TestLimiterLeavesAlone(t *testing.T) {
	l := newLimiter(4, 100)
	w := &world{}
	for _, took := range []time.Duration{time.Millisecond, time.Second, time.Microsecond, time.Minute} {
		w.latency = func(int) time.Duration { return took }
		w.run(l, 200*max(took, time.Millisecond), false)
		if got := l.now.Load(); got != 4 {
			t.Errorf("calls of %v: limit %d", took, got)
		}
	}
}

// TestLimiterBounds has anything happen.
func TestLimiterBounds(t *testing.T) {
	random := rand.New(rand.NewPCG(3, 4))
	for range 40 {
		least := 1 + random.IntN(10)
		most := least + random.IntN(50)
		l := newLimiter(least, most)
		now := time.Duration(0)
		for range 20_000 {
			now += time.Duration(random.ExpFloat64() * float64(time.Millisecond))
			took := time.Duration(random.ExpFloat64() * random.ExpFloat64() * float64(10*time.Millisecond))
			l.end(max(0, now-took), now, random.IntN(3) == 0)
			if got := int(l.now.Load()); got < least || got > most {
				t.Fatalf("limit %d, bounds %d and %d", got, least, most)
			}
		}
	}
}

func TestEstimates(t *testing.T) {
	var a average
	var m median
	if a.get() != 0 || m.get() != 0 {
		t.Error("there are values before the first")
	}
	random := rand.New(rand.NewPCG(5, 6))
	for i := range 5000 {
		d := time.Duration(random.IntN(200)) * time.Millisecond // 100 ms on average
		if i%3 == 0 {
			m.add(time.Hour) // whatever it is: more than the median
		} else {
			m.add(d)
		}
		a.add(d)
	}
	if got := a.get(); got < 30*time.Millisecond || got > 170*time.Millisecond {
		t.Errorf("average %v of 0 to 200 ms", got)
	}
	// A third is above, so it is at three quarters of the rest.
	if got := m.get(); got < 110*time.Millisecond || got > 195*time.Millisecond {
		t.Errorf("median %v", got)
	}
	before := m.get()
	for range 64 {
		m.doubt()
	}
	if got := m.get(); got > before/2 || got <= 0 {
		t.Errorf("%v after 64 doubts of %v", got, before)
	}
	for range 5000 {
		m.doubt()
		a.add(0)
	}
	if m.get() <= 0 || a.get() <= 0 {
		t.Error("an estimate is lost")
	}
}

// discard answers nobody.
type discard struct{}

func (discard) Reply(transport.Message) error    { return nil }
func (discard) Reject(status.Code, string) error { return nil }

// dispatch is a dispatcher with one method, and a request for it.
func dispatch(tb testing.TB, cfg Config) (*dispatcher, *transport.Request) {
	tb.Helper()
	c := protorpc.New()
	sp := &rpc.Spec{Service: "a.B", Method: "M", Procedure: "a.B/M"}
	frame, err := c.AppendRequest(nil, &codec.Request{Procedure: sp.Procedure, Timeout: time.Hour}, &emptypb.Empty{})
	if err != nil {
		tb.Fatal(err)
	}
	res := &emptypb.Empty{}
	d := &dispatcher{
		codecs: map[string]codec.Codec{c.ContentType(): c},
		methods: map[string]*method{sp.Procedure: {spec: sp, serve: func(_ context.Context, call Call) error {
			return call.Send(res)
		}}},
		logger: slog.New(slog.NewTextHandler(io.Discard, nil)),
		load:   &overload{instance: "one", epoch: time.Now()},
	}
	if cfg.Adaptive {
		d.load.limiter = newLimiter(4, 1000)
	}
	d.load.dispatcher = d
	return d, &transport.Request{Message: transport.Message{Body: frame}, Received: time.Now()}
}

// What protects a server costs a call no memory.
func TestProtectionAllocates(t *testing.T) {
	allocs := func(cfg Config, queued int) float64 {
		d, req := dispatch(t, cfg)
		req.Queued = queued
		return testing.AllocsPerRun(1000, func() {
			req.Received = time.Now()
			d.ServeCall(t.Context(), req, discard{})
		})
	}
	plain := allocs(Config{}, 0)
	if got := allocs(Config{}, 1); got != plain {
		t.Errorf("a call that waited: %v allocations and not %v", got, plain)
	}
	if got := allocs(Config{Adaptive: true}, 0); got != plain {
		t.Errorf("adaptive: %v allocations and not %v", got, plain)
	}
	if got := allocs(Config{Adaptive: true}, 1); got != plain {
		t.Errorf("adaptive, a call that waited: %v allocations and not %v", got, plain)
	}
	d, req := dispatch(t, Config{Adaptive: true})
	if got := testing.AllocsPerRun(1000, func() {
		d.load.Limit()
		if d.load.Admit(req, 1) != nil {
			t.Error("the first of the queue is refused")
		}
	}); got != 0 {
		t.Errorf("admission: %v allocations", got)
	}
}

func BenchmarkServeCall(b *testing.B) {
	for name, cfg := range map[string]Config{"fixed": {}, "adaptive": {Adaptive: true}} {
		b.Run(name, func(b *testing.B) {
			d, req := dispatch(b, cfg)
			b.ReportAllocs()
			b.RunParallel(func(pb *testing.PB) {
				req := *req
				for pb.Next() {
					d.ServeCall(context.Background(), &req, discard{})
				}
			})
		})
	}
}

// BenchmarkProtection is what the protection adds to a call that need not wait.
func BenchmarkProtection(b *testing.B) {
	for name, cfg := range map[string]Config{"fixed": {}, "adaptive": {Adaptive: true}} {
		b.Run(name, func(b *testing.B) {
			d, req := dispatch(b, cfg)
			m := d.methods["a.B/M"]
			b.ReportAllocs()
			b.RunParallel(func(pb *testing.PB) {
				now := time.Now() // which a call has anyway
				for pb.Next() {
					if d.load.turn(req, now) != nil || d.load.late(req, m, time.Hour) != nil {
						b.Error("refused")
					}
					d.load.end(req, m, now)
					d.load.progress()
				}
			})
		})
	}
}
