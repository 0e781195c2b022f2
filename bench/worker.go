package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats-server/v2/server"

	"github.com/protomicro/micro/bench/internal/child"
	"github.com/protomicro/micro/bench/internal/natsserver"
	"github.com/protomicro/micro/bench/internal/peer"
	"github.com/protomicro/micro/bench/internal/stats"
)

// workerArg begins the arguments of this program as one of its own children. The rest
// is for those who look at a list of processes.
const workerArg = "worker"

// Roles of a worker.
const (
	roleNATS   = "nats"
	roleServer = "server"
	roleClient = "client"
)

// An order is what a worker is asked to do. The first one is "start".
type order struct {
	Do       string
	Role     string        `json:",omitempty"` // start
	Workload string        `json:",omitempty"` // start
	Peer     string        `json:",omitempty"` // start
	Setup    peer.Setup    `json:",omitzero"`  // start
	Duration time.Duration `json:",omitempty"` // run
	Streams  int           `json:",omitempty"` // open: how many there are to be
}

// A started worker tells where it is.
type started struct{ Address string }

// An outcome is what a run came to.
type outcome struct {
	Ops     int64 // calls, messages, events
	Seconds float64
	// Quantiles in seconds; 0 where single operations are not timed.
	P50, P99, P999 float64
	// Before and After are the usage of the process.
	Before, After child.Usage
}

// A worker is the state of a child. It does one thing at a time.
type worker struct {
	workload *workload
	setup    peer.Setup
	client   *peer.Client
	stop     func() // nil where the end of the process is enough

	rate    float64      // messages a second that a stream had, to be guided by
	turn    func() error // on a stream that stays open
	opened  int
	streams context.Context // of the streams that stay open
}

// work is main for children: it answers orders until standard input ends.
func work() error {
	signal.Ignore(os.Interrupt) // a terminal sends it to all; the parent says when to end
	w := new(worker)
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	w.streams = ctx
	err := child.Serve(ctx, os.Stdin, os.Stdout, func(ctx context.Context, line json.RawMessage) (any, error) {
		var o order
		if err := json.Unmarshal(line, &o); err != nil {
			return nil, err
		}
		return w.do(ctx, o)
	})
	if w.stop != nil {
		w.stop()
	}
	return err
}

func (w *worker) do(ctx context.Context, o order) (any, error) {
	switch o.Do {
	case "start":
		address, err := w.start(w.streams, o)
		return started{address}, err
	case "usage":
		return child.Now(), nil
	case "collect":
		return child.Collected(), nil
	case "open":
		return nil, w.open(o.Streams)
	case "run":
		before := child.Now()
		out, err := w.run(ctx, o.Duration)
		out.Before, out.After = before, child.Now()
		return out, err
	}
	return nil, fmt.Errorf("no order is called %q", o.Do)
}

func (w *worker) start(ctx context.Context, o order) (address string, err error) {
	w.setup = o.Setup
	if o.Role == roleNATS {
		address, w.stop, err = serveNATS()
		return address, err
	}
	var p *peer.Peer
	if w.workload, p, err = find(o.Workload, o.Peer); err != nil {
		return "", err
	}
	if o.Role == roleServer {
		s, err := p.Serve(ctx, o.Setup)
		if err != nil {
			return "", err
		}
		return s.Address, nil
	}
	w.client, err = p.Dial(ctx, o.Setup)
	return "", err
}

// Limits of the NATS server, which must not be what is measured: the largest payload
// fits in one message, and a burst of them into what it holds for a connection.
const (
	maxPayload = 8 << 20
	maxPending = 4 << 30
)

func serveNATS() (url string, stop func(), err error) {
	dir, err := os.MkdirTemp("", "bench-nats-")
	if err != nil {
		return "", nil, err
	}
	url, stopServer, err := natsserver.Start(&server.Options{
		MaxPayload: maxPayload, MaxPending: maxPending, JetStream: true, StoreDir: dir,
	})
	if err != nil {
		_ = os.RemoveAll(dir) // the first error says more
		return "", nil, err
	}
	return url, func() {
		stopServer()
		_ = os.RemoveAll(dir) // nobody listens any more
	}, nil
}

// opTimeout bounds how much longer than its duration a run may take.
const opTimeout = 60 * time.Second

func (w *worker) run(ctx context.Context, d time.Duration) (outcome, error) {
	ctx, cancel := context.WithTimeout(ctx, d+opTimeout)
	defer cancel()
	switch w.workload.shape {
	case shapeCall, shapeOpen:
		return w.runCalls(ctx, d)
	case shapeStream:
		return w.runStream(ctx, d)
	case shapePublish:
		return w.runPublish(ctx, d)
	case shapeTurns:
		return w.runTurns(ctx, d)
	case shapeTimed:
		return timeEach(ctx, d, w.client.PublishTimed)
	}
	return outcome{}, fmt.Errorf("the workload %s has no shape", w.workload.name)
}

// histograms are shared by callers, so that 1,024 of them need no more memory than 8.
const histograms = 8

// runCalls has each caller make one call after the other until d is over.
func (w *worker) runCalls(ctx context.Context, d time.Duration) (outcome, error) {
	var (
		hs    [histograms]stats.Histogram
		over  atomic.Bool
		ops   atomic.Int64
		fault atomic.Pointer[error]
		wg    sync.WaitGroup
	)
	call := w.client.Call
	began := time.Now()
	timer := time.AfterFunc(d, func() { over.Store(true) })
	defer timer.Stop()
	for caller := range w.setup.Callers {
		wg.Go(func() {
			h, n := &hs[caller%histograms], int64(0)
			defer func() { ops.Add(n) }()
			for i := caller; !over.Load(); i += 7919 { // through all services, each caller on its own way
				began := time.Now()
				if err := call(ctx, i); err != nil {
					fault.CompareAndSwap(nil, &err)
					over.Store(true)
					return
				}
				h.Record(time.Since(began))
				n++
			}
		})
	}
	wg.Wait()
	took := time.Since(began)
	if err := fault.Load(); err != nil {
		return outcome{}, fmt.Errorf("after %d calls: %w", ops.Load(), *err)
	}
	for i := range hs[1:] {
		hs[0].Add(&hs[i+1])
	}
	return timed(&hs[0], ops.Load(), took), nil
}

// runStream passes as many messages on one stream as took d the last time.
func (w *worker) runStream(ctx context.Context, d time.Duration) (outcome, error) {
	for w.rate == 0 { // the first time, from a few on to what takes a while
		const enough = 20 * time.Millisecond
		for n := peer.Batch; w.rate == 0; n *= 4 {
			out, err := w.stream(ctx, n)
			if err != nil {
				return outcome{}, err
			}
			if out.Seconds >= enough.Seconds() {
				w.rate = float64(out.Ops) / out.Seconds
			}
		}
	}
	n := max(int(w.rate*d.Seconds())/peer.Batch, 1) * peer.Batch
	out, err := w.stream(ctx, n)
	if err == nil {
		w.rate = float64(out.Ops) / out.Seconds
	}
	return out, err
}

// runTurns passes one message after the other there and back, on a stream that stays open.
func (w *worker) runTurns(ctx context.Context, d time.Duration) (outcome, error) {
	if w.turn == nil {
		var err error
		if w.turn, err = w.client.Open(w.streams); err != nil {
			return outcome{}, err
		}
	}
	return timeEach(ctx, d, func(context.Context) (time.Duration, error) {
		began := time.Now()
		err := w.turn()
		return time.Since(began), err
	})
}

// timeEach does one thing after the other until d is over.
func timeEach(ctx context.Context, d time.Duration, do func(context.Context) (time.Duration, error)) (outcome, error) {
	var h stats.Histogram
	began, n := time.Now(), int64(0)
	for time.Since(began) < d || n == 0 {
		took, err := do(ctx)
		if err != nil {
			return outcome{}, fmt.Errorf("after %d: %w", n, err)
		}
		h.Record(took)
		n++
	}
	return timed(&h, n, time.Since(began)), nil
}

// timed is the outcome of n operations whose latencies are in h.
func timed(h *stats.Histogram, n int64, took time.Duration) outcome {
	q := func(q float64) float64 { return h.Quantile(q).Seconds() }
	return outcome{Ops: n, Seconds: took.Seconds(), P50: q(0.5), P99: q(0.99), P999: q(0.999)}
}

func (w *worker) stream(ctx context.Context, n int) (outcome, error) {
	began := time.Now()
	if err := w.client.Stream(ctx, w.workload.kind, n); err != nil {
		return outcome{}, fmt.Errorf("a stream of %d messages: %w", n, err)
	}
	return outcome{Ops: int64(n), Seconds: time.Since(began).Seconds()}, nil
}

// runPublish publishes until d is over and waits until all has arrived.
func (w *worker) runPublish(ctx context.Context, d time.Duration) (outcome, error) {
	c := w.client
	before := c.Window.Arrived()
	began := time.Now()
	var sent int64
	for time.Since(began) < d || sent == 0 {
		if err := c.Window.Room(ctx, before+sent+peer.Batch); err != nil {
			return outcome{}, err
		}
		if err := publishBatch(ctx, c); err != nil {
			return outcome{}, fmt.Errorf("after %d events: %w", sent, err)
		}
		sent += peer.Batch
	}
	if err := errors.Join(c.Flush(ctx), c.Window.Wait(ctx, before+sent)); err != nil {
		return outcome{}, err
	}
	return outcome{Ops: sent, Seconds: time.Since(began).Seconds()}, nil
}

func publishBatch(ctx context.Context, c *peer.Client) error {
	publish := func(n int) error {
		for range n {
			if err := c.Publish(ctx); err != nil {
				return err
			}
		}
		return nil
	}
	if c.Publishers == 1 {
		return publish(peer.Batch)
	}
	var wg sync.WaitGroup
	errs := make([]error, c.Publishers)
	for i := range errs {
		wg.Go(func() { errs[i] = publish(peer.Batch / c.Publishers) })
	}
	wg.Wait()
	return errors.Join(errs...)
}

// openers is how many streams are opened at one time.
const openers = 32

// open opens streams until there are n.
func (w *worker) open(n int) error {
	var left atomic.Int64
	left.Store(int64(n - w.opened))
	errs := make([]error, openers)
	var wg sync.WaitGroup
	for i := range errs {
		wg.Go(func() {
			for left.Add(-1) >= 0 && errs[i] == nil {
				_, errs[i] = w.client.Open(w.streams)
			}
		})
	}
	wg.Wait()
	w.opened = n
	return errors.Join(errs...)
}
