package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"regexp"
	"slices"
	"strconv"
	"time"

	"github.com/protomicro/micro/bench/internal/child"
	"github.com/protomicro/micro/bench/internal/peer"
	"github.com/protomicro/micro/bench/internal/report"
)

// A plan is what the flags say.
type plan struct {
	run      *regexp.Regexp // of WORKLOAD/PEER
	cell     *regexp.Regexp // of a cell's title
	short    bool
	rounds   int
	duration time.Duration
	log      io.Writer // of how far it is
}

// selected are the peers of a workload that the plan wants.
func (p plan) selected(w *workload) (peers []peer.Peer) {
	for _, candidate := range w.peers {
		if p.run.MatchString(w.name + "/" + candidate.Name) {
			peers = append(peers, candidate)
		}
	}
	return peers
}

func (p plan) cells(w *workload) []cell {
	all := w.cells
	if p.short {
		all = w.short
	}
	return slices.DeleteFunc(slices.Clone(all), func(c cell) bool { return !p.cell.MatchString(report.Title(c.result(w))) })
}

// startTimeout bounds how long a process takes until it is ready, and what else is not
// a run.
const startTimeout = 60 * time.Second

// A runner has the processes that all cells share.
type runner struct {
	plan
	nats    *child.Process
	natsURL string
	program string
	spaces  int
}

func newRunner(ctx context.Context, p plan) (*runner, error) {
	program, err := os.Executable()
	if err != nil {
		return nil, err
	}
	r := &runner{plan: p, program: program}
	var at started
	if r.nats, at, err = r.start(ctx, order{Role: roleNATS}); err != nil {
		return nil, err
	}
	r.natsURL = at.Address
	return r, nil
}

func (r *runner) close() { r.nats.Stop() }

// start starts a child.
func (r *runner) start(ctx context.Context, o order) (*child.Process, started, error) {
	name := "the NATS server"
	if o.Role != roleNATS {
		name = "the " + o.Role + " of " + o.Peer
	}
	var at started
	p, err := child.Start(name, r.program, workerArg, o.Role, o.Workload, o.Peer)
	if err != nil {
		return nil, at, err
	}
	o.Do = "start"
	if err := p.Ask(ctx, startTimeout, o, &at); err != nil {
		p.Stop()
		return nil, at, err
	}
	return p, at, nil
}

// A contender is a peer in a cell.
type contender struct {
	peer.Peer
	client, server *child.Process // server is nil where there is but one process
	rounds         []report.Round
	err            error // from which on it is out
	before         [2]child.Usage
}

func (c *contender) stop() {
	if c.client != nil {
		c.client.Stop()
	}
	if c.server != nil {
		c.server.Stop()
	}
}

// cell has the peers take turns. An error is the whole run's; what a peer cannot do is
// in its result.
func (r *runner) cell(ctx context.Context, w *workload, c cell, peers []peer.Peer) ([]report.Result, error) {
	contenders := make([]*contender, len(peers))
	for i, p := range peers {
		contenders[i] = &contender{Peer: p}
		defer contenders[i].stop()
		contenders[i].err = r.prepare(ctx, w, c, contenders[i])
	}
	for round := range r.rounds {
		for i := range contenders { // each begins a round in its turn
			k := contenders[(round+i)%len(contenders)]
			if err := ctx.Err(); err != nil {
				return nil, context.Cause(ctx)
			}
			if k.err == nil {
				k.err = r.round(ctx, k)
			}
		}
	}
	var results []report.Result
	for _, k := range contenders {
		res := c.result(w)
		res.Peer, res.PeerIs = k.Name, k.About
		if k.err == nil {
			k.err = r.finish(ctx, c, k, &res)
		}
		if k.err != nil {
			if err := ctx.Err(); err != nil {
				return nil, context.Cause(ctx)
			}
			res.Error = k.err.Error()
		}
		results = append(results, res)
	}
	baseline := contenders[0]
	for i, k := range contenders {
		if baseline.Name == peer.Raw().Name && baseline.err == nil && k.err == nil {
			results[i].OfBaseline = math.Round(report.Ratio(k.rounds, baseline.rounds)*1e4) / 1e4
		}
	}
	// A peer may fail, and the server that others use may not.
	if err := r.nats.Ask(ctx, startTimeout, order{Do: "usage"}, nil); err != nil {
		return nil, err
	}
	return results, nil
}

// prepare starts a peer and warms it up.
func (r *runner) prepare(ctx context.Context, w *workload, c cell, k *contender) error {
	r.spaces++
	setup := c.setup()
	setup.Timed = w.shape == shapeTimed
	setup.NATS, setup.Space = r.natsURL, "b"+strconv.Itoa(r.spaces)
	o := order{Workload: w.name, Peer: k.Name, Setup: setup}
	var err error
	if k.Serve != nil {
		var at started
		o.Role = roleServer
		if k.server, at, err = r.start(ctx, o); err != nil {
			return err
		}
		o.Setup.Address = at.Address
	}
	o.Role = roleClient
	if k.client, _, err = r.start(ctx, o); err != nil {
		return err
	}
	warm := order{Do: "run", Duration: r.duration}
	if err := k.client.Ask(ctx, r.runTimeout(), warm, nil); err != nil {
		return err
	}
	if w.shape != shapeOpen {
		return nil
	}
	for i, p := range k.processes() {
		if err := p.Ask(ctx, startTimeout, order{Do: "collect"}, &k.before[i]); err != nil {
			return err
		}
	}
	return k.client.Ask(ctx, startTimeout, order{Do: "open", Streams: c.Streams}, nil)
}

// processes are the client's and, where there is one, the server's.
func (c *contender) processes() []*child.Process {
	if c.server == nil {
		return []*child.Process{c.client}
	}
	return []*child.Process{c.client, c.server}
}

func (r *runner) runTimeout() time.Duration { return r.duration + opTimeout + startTimeout }

// round is one turn of a peer.
func (r *runner) round(ctx context.Context, k *contender) error {
	var before, after [2]child.Usage // of the server and of NATS
	read := func(usage *[2]child.Usage) error {
		var err error
		if k.server != nil {
			err = k.server.Ask(ctx, startTimeout, order{Do: "usage"}, &usage[0])
		}
		if k.NATS {
			err = errors.Join(err, r.nats.Ask(ctx, startTimeout, order{Do: "usage"}, &usage[1]))
		}
		return err
	}
	if err := read(&before); err != nil {
		return err
	}
	var out outcome
	if err := k.client.Ask(ctx, r.runTimeout(), order{Do: "run", Duration: r.duration}, &out); err != nil {
		return err
	}
	if err := read(&after); err != nil {
		return err
	}
	if out.Ops == 0 || out.Seconds <= 0 {
		return errors.New("nothing was done")
	}
	ops := float64(out.Ops)
	per := func(before, after uint64) float64 { return float64(after-before) / ops }
	k.rounds = append(k.rounds, report.Round{
		Rate: ops / out.Seconds,
		P50:  out.P50 * 1e6, P99: out.P99 * 1e6, P999: out.P999 * 1e6,
		ClientCPU:    (out.After.CPU - out.Before.CPU) / ops * 1e6,
		ServerCPU:    (after[0].CPU - before[0].CPU) / ops * 1e6,
		NATSCPU:      (after[1].CPU - before[1].CPU) / ops * 1e6,
		ClientAllocs: per(out.Before.Mallocs, out.After.Mallocs),
		ServerAllocs: per(before[0].Mallocs, after[0].Mallocs),
		ClientBytes:  per(out.Before.Bytes, out.After.Bytes),
		ServerBytes:  per(before[0].Bytes, after[0].Bytes),
	}.Rounded())
	return nil
}

// finish reads the memory of a peer that has done all rounds.
func (r *runner) finish(ctx context.Context, c cell, k *contender, res *report.Result) error {
	res.Rounds, res.Median = k.rounds, report.Median(k.rounds).Rounded()
	for i, p := range k.processes() {
		var now, collected child.Usage
		err := errors.Join(p.Ask(ctx, startTimeout, order{Do: "usage"}, &now), p.Ask(ctx, startTimeout, order{Do: "collect"}, &collected))
		if err != nil {
			return err
		}
		m := report.Memory{RSS: now.RSS, Live: collected.Heap + collected.Stacks}
		if c.Streams > 0 {
			m.PerStream = math.Round((float64(m.Live) - float64(k.before[i].Heap+k.before[i].Stacks)) / float64(c.Streams))
		}
		if i == 0 {
			res.Client = m
		} else {
			res.Server = &m
		}
	}
	return nil
}

// all runs what the plan says and passes on the results of each cell.
func (r *runner) all(ctx context.Context, done func([]report.Result) error) error {
	for _, w := range workloads() {
		peers := r.selected(w)
		if len(peers) == 0 {
			continue
		}
		for _, c := range r.cells(w) {
			began := time.Now()
			results, err := r.cell(ctx, w, c, peers)
			if err != nil {
				return err
			}
			if err := done(results); err != nil {
				return err
			}
			fmt.Fprintf(r.log, "bench: %s: %d peers in %v\n", report.Title(results[0]), len(peers), time.Since(began).Round(100*time.Millisecond))
		}
	}
	return nil
}
