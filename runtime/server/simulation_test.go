package server_test

import (
	"container/heap"
	"context"
	"errors"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/emptypb"

	"github.com/protomicro/micro/runtime/codec"
	"github.com/protomicro/micro/runtime/codec/protorpc"
	"github.com/protomicro/micro/runtime/rpc"
	"github.com/protomicro/micro/runtime/server"
	"github.com/protomicro/micro/runtime/status"
	"github.com/protomicro/micro/runtime/transport"
	"github.com/protomicro/micro/runtime/transport/memory"
)

// A machine is what all handlers share in a simulation: so many processors, divided
// evenly among the jobs that run. It works in the time of a synctest bubble.
type machine struct {
	processors float64

	mu     sync.Mutex
	jobs   jobs      // a heap: those that are done next come first
	served float64   // what every job that runs has got since the beginning, in seconds
	at     time.Time // as of which served is right
	timer  *time.Timer
}

type job struct {
	until float64 // of machine.served
	done  chan struct{}
}

type jobs []*job

func (js jobs) Len() int           { return len(js) }
func (js jobs) Less(i, j int) bool { return js[i].until < js[j].until }
func (js jobs) Swap(i, j int)      { js[i], js[j] = js[j], js[i] }
func (js *jobs) Push(x any)        { *js = append(*js, x.(*job)) }
func (js *jobs) Pop() any {
	last := len(*js) - 1
	j := (*js)[last]
	*js = (*js)[:last]
	return j
}

// work returns when a job of this length is done. Like most of what computes, it does
// not look whether somebody still waits for it.
func (m *machine) work(length time.Duration) {
	m.mu.Lock()
	m.turn()
	j := &job{until: m.served + length.Seconds(), done: make(chan struct{})}
	heap.Push(&m.jobs, j)
	m.turn()
	m.mu.Unlock()
	<-j.done
}

// rate is how fast each job is served.
func (m *machine) rate() float64 { return min(1, m.processors/float64(len(m.jobs))) }

// turn brings the machine up to date. m.mu is held.
func (m *machine) turn() {
	now := time.Now()
	if len(m.jobs) > 0 {
		m.served += now.Sub(m.at).Seconds() * m.rate()
	}
	m.at = now
	const nothing = 1e-9
	for len(m.jobs) > 0 && m.jobs[0].until <= m.served+nothing {
		close(heap.Pop(&m.jobs).(*job).done)
	}
	if m.timer != nil {
		m.timer.Stop()
	}
	if len(m.jobs) > 0 {
		next := time.Duration((m.jobs[0].until - m.served) / m.rate() * float64(time.Second))
		m.timer = time.AfterFunc(max(next, time.Nanosecond), func() {
			m.mu.Lock()
			defer m.mu.Unlock()
			m.turn()
		})
	}
}

// The machine of the simulations serves 400 calls a second.
const (
	simProcessors = 4
	simWork       = 10 * time.Millisecond // on average; exponentially distributed
	simDeadline   = time.Second           // of each call
	simCapacity   = float64(simProcessors) * float64(time.Second) / float64(simWork)
)

// once sends a call to one server, and does not try again.
func once(ctx context.Context, conn transport.Conn, c codec.Codec, sp *rpc.Spec, timeout time.Duration, msg proto.Message) error {
	frame, err := c.AppendRequest(nil, &codec.Request{Tag: codec.Tag{Seq: 1}, Procedure: sp.Procedure, Timeout: timeout}, msg)
	if err != nil {
		return err
	}
	if timeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, timeout)
		defer cancel()
	}
	reply, err := conn.Call(ctx, transport.Message{Body: frame})
	if err != nil {
		return err
	}
	var res codec.Response
	if err := c.ParseResponse(reply.Body, &res); err != nil {
		return err
	}
	if res.Err != nil {
		return res.Err
	}
	return nil
}

// A simulation has calls come to one server at random, whether it can serve them or
// not.
type simulation struct {
	config   server.Config
	load     float64       // of the machine's capacity
	from, to time.Duration // what counts; calls come from the beginning on
	// pause is what handlers wait for apart from the machine; nil for nothing.
	pause func(at time.Duration) time.Duration
}

// An outcome is what became of the calls of a simulation.
type outcome struct {
	goodput   float64       // answers in time, as a part of the capacity
	p50, p99  time.Duration // of these answers
	refused   float64       // part of all calls
	refusedIn time.Duration // the time that it took to be refused, of 99 in 100
	late      float64       // part of all calls
}

func (s simulation) run(t *testing.T) outcome {
	t.Helper()
	var answers, refusals []time.Duration
	var calls, late int
	synctest.Test(t, func(t *testing.T) {
		began := time.Now()
		m := &machine{processors: simProcessors, at: began}
		net := memory.New(memory.Config{})
		s.config.Transport, s.config.ID = net, "one"
		srv, err := server.New(s.config)
		if err != nil {
			t.Fatal(err)
		}
		sp := spec("Work", rpc.Unary)
		err = srv.Register("a.B", []server.Method{{Spec: sp, Serve: func(_ context.Context, call server.Call) error {
			var length durationpb.Duration
			if err := call.Receive(&length); err != nil {
				return err
			}
			m.work(length.AsDuration())
			if s.pause != nil {
				time.Sleep(s.pause(time.Since(began)))
			}
			return call.Send(&emptypb.Empty{})
		}}})
		if err != nil {
			t.Fatal(err)
		}
		if err := srv.Start(t.Context()); err != nil {
			t.Fatal(err)
		}
		conn, err := net.Dial(t.Context(), srv.Address())
		if err != nil {
			t.Fatal(err)
		}

		var mu sync.Mutex
		call := func(length time.Duration) {
			sent := time.Now()
			err := once(t.Context(), conn, protorpc.New(), sp, simDeadline, durationpb.New(length))
			if at := sent.Sub(began); at < s.from || at >= s.to {
				return
			}
			mu.Lock()
			defer mu.Unlock()
			calls++
			switch {
			case err == nil:
				answers = append(answers, time.Since(sent))
			case errors.Is(err, transport.ErrNotStarted) && status.CodeOf(err) == status.ResourceExhausted:
				refusals = append(refusals, time.Since(sent))
			case status.CodeOf(err) == status.DeadlineExceeded:
				late++
			default:
				t.Errorf("got %v", err)
			}
		}
		random := rand.New(rand.NewPCG(1, 2))
		exponential := func(mean float64) time.Duration { return time.Duration(random.ExpFloat64() * mean) }
		var running sync.WaitGroup
		for time.Since(began) < s.to {
			length := exponential(float64(simWork))
			running.Go(func() { call(length) })
			time.Sleep(exponential(float64(time.Second) / (s.load * simCapacity)))
		}
		running.Wait()
		if err := srv.Shutdown(t.Context()); err != nil {
			t.Error(err)
		}
	})
	return outcome{
		goodput:   float64(len(answers)) / (s.to - s.from).Seconds() / simCapacity,
		p50:       quantile(answers, .5),
		p99:       quantile(answers, .99),
		refused:   float64(len(refusals)) / float64(calls),
		refusedIn: quantile(refusals, .99),
		late:      float64(late) / float64(calls),
	}
}

func quantile(ds []time.Duration, q float64) time.Duration {
	if len(ds) == 0 {
		return 0
	}
	slices.Sort(ds)
	return ds[int(q*float64(len(ds)-1))].Round(time.Millisecond)
}
