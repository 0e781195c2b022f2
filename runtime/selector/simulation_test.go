package selector

import (
	"container/heap"
	"context"
	"fmt"
	"maps"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"text/tabwriter"
	"time"

	"github.com/protomicro/micro/runtime/registry"
	"github.com/protomicro/micro/runtime/status"
)

// A world is a simulated fleet and its clients: a queueing network of discrete events,
// in which time passes only from one event to the next. The same seed gives the same
// course of events.
type world struct {
	now    time.Duration
	events events
	serial int
	random *rand.Rand

	servers map[string]*simServer
	clients []Picker
	calls   []simCall   // that have ended, in the order of their ends
	info    func() Info // of the next call; nil for none
}

// The fleet of the simulations: ten servers of four workers, of which 1,000 calls a
// second with a mean service time of 20 ms keep one half busy.
const (
	simServers = 10
	simWorkers = 4
	simMean    = 20 * time.Millisecond
	simRate    = 1000
	simTimeout = 5 * time.Second
	simBad     = "i003" // the server that something happens to
)

// A simServer has workers that take calls in turn. A call whose deadline passes while
// it waits is dropped, as runtime/server does.
type simServer struct {
	workers int
	mean    time.Duration // of the service times, which are exponentially distributed
	failing bool          // answers Unavailable in a tenth of the time
	queue   []*simAttempt
	busy    int
}

type simAttempt struct {
	Attempt
	server string
	start  time.Duration
	ended  bool
}

type simCall struct {
	server     string
	start, end time.Duration
	err        error
}

var errSimulated = status.Remote(status.Unavailable, "simulated", nil)
var errLate = status.Remote(status.DeadlineExceeded, "simulated", nil)

type event struct {
	at     time.Duration
	serial int
	do     func()
}

type events []event

func (e events) Len() int { return len(e) }
func (e events) Less(i, j int) bool {
	return e[i].at < e[j].at || e[i].at == e[j].at && e[i].serial < e[j].serial
}
func (e events) Swap(i, j int) { e[i], e[j] = e[j], e[i] }
func (e *events) Push(x any)   { *e = append(*e, x.(event)) }
func (e *events) Pop() any {
	last := len(*e) - 1
	x := (*e)[last]
	*e = (*e)[:last]
	return x
}

func newWorld(seed uint64, servers int) *world {
	w := &world{
		random:  rand.New(rand.NewPCG(seed, seed)),
		servers: make(map[string]*simServer),
	}
	for _, in := range numbered(servers) {
		w.servers[in.ID] = &simServer{workers: simWorkers, mean: simMean}
	}
	return w
}

func (w *world) clock() time.Duration { return w.now }

func (w *world) after(d time.Duration, do func()) {
	w.serial++
	heap.Push(&w.events, event{w.now + d, w.serial, do})
}

// run lets time pass until t.
func (w *world) run(t time.Duration) {
	for len(w.events) > 0 && w.events[0].at <= t {
		e := heap.Pop(&w.events).(event)
		w.now = e.at
		e.do()
	}
	w.now = t
}

// serve adds clients that each have a picker of their own of policy.
func (w *world) serve(policy Policy, clients int, instances []registry.Instance) {
	for range clients {
		w.clients = append(w.clients, policy.Build(nil, instances))
	}
}

// load starts calls at random times, perSecond from all clients together, until t.
func (w *world) load(perSecond float64, until time.Duration) {
	mean := float64(time.Second) / perSecond
	var next func()
	next = func() {
		if w.now < until {
			w.call()
			w.after(time.Duration(w.random.ExpFloat64()*mean), next)
		}
	}
	w.after(0, next)
}

func (w *world) call() {
	var call Info
	if w.info != nil {
		call = w.info()
	}
	in, attempt, err := w.clients[w.random.IntN(len(w.clients))].Pick(context.Background(), call)
	if err != nil {
		panic(err)
	}
	a := &simAttempt{Attempt: attempt, server: in.ID, start: w.now}
	w.after(simTimeout, func() { w.end(a, errLate) })
	s := w.servers[in.ID]
	if s.busy < s.workers {
		w.work(s, a)
	} else {
		s.queue = append(s.queue, a)
	}
}

func (w *world) work(s *simServer, a *simAttempt) {
	s.busy++
	took := time.Duration(w.random.ExpFloat64() * float64(s.mean))
	var err error
	if s.failing {
		took, err = took/10, errSimulated
	}
	w.after(took, func() {
		s.busy--
		w.end(a, err)
		for len(s.queue) > 0 && s.busy < s.workers {
			next := s.queue[0]
			s.queue = s.queue[1:]
			if !next.ended {
				w.work(s, next)
			}
		}
	})
}

func (w *world) end(a *simAttempt, err error) {
	if a.ended {
		return
	}
	a.ended = true
	a.Done(Result{Err: err, Elapsed: w.now - a.start})
	w.calls = append(w.calls, simCall{a.server, a.start, w.now, err})
}

// quantile is what the part q of the calls that started in [from, to) took at most.
func (w *world) quantile(q float64, from, to time.Duration) time.Duration {
	var took []time.Duration
	for _, c := range w.calls {
		if c.start >= from && c.start < to {
			took = append(took, c.end-c.start)
		}
	}
	if len(took) == 0 {
		return 0
	}
	slices.Sort(took)
	return took[int(q*float64(len(took)-1))]
}

// share is the part of the calls started in [from, to) that went to the server.
func (w *world) share(id string, from, to time.Duration) float64 {
	its, all := 0, 0
	for _, c := range w.calls {
		if c.start >= from && c.start < to {
			all++
			if c.server == id {
				its++
			}
		}
	}
	return float64(its) / float64(max(all, 1))
}

// spread is how many calls the busiest server got, as a multiple of the mean.
func (w *world) spread(from, to time.Duration) float64 {
	most := 0.0
	for id := range w.servers {
		most = max(most, w.share(id, from, to))
	}
	return most * float64(len(w.servers))
}

// simPolicies are the policies as the simulations have them, with their own time and
// chance.
var simPolicies = []struct {
	name    string
	clients int // that share the load, each with a picker of its own
	build   func(draw intN, clock clock) Policy
	short   bool // part of the short form
}{
	{"Random", 4, func(draw intN, _ clock) Policy { return randomPolicy{draw} }, false},
	{"RoundRobin", 4, func(draw intN, _ clock) Policy { return roundRobinPolicy{draw} }, true},
	{"WeightedRandom", 4, func(draw intN, _ clock) Policy { return weightedRandomPolicy{draw} }, false},
	{"WeightedRoundRobin", 4, func(draw intN, _ clock) Policy { return weightedRoundRobinPolicy{draw} }, false},
	{"ConsistentHash", 4, func(draw intN, _ clock) Policy { return consistentHash(ConsistentHashConfig{}, draw) }, false},
	{"LeastConnections", 4, func(draw intN, _ clock) Policy { return leastConnectionsPolicy{draw} }, false},
	{"LeastConnections", 40, func(draw intN, _ clock) Policy { return leastConnectionsPolicy{draw} }, false},
	{"PeakEWMA", 1, simPeakEWMA, false},
	{"PeakEWMA", 4, simPeakEWMA, true},
	{"PeakEWMA", 40, simPeakEWMA, false},
	{"OutlierEjection(RoundRobin)", 4, func(draw intN, clock clock) Policy {
		return outlierEjection(roundRobinPolicy{draw}, OutlierEjectionConfig{}, draw, clock)
	}, false},
	{"OutlierEjection(SlowStart(PeakEWMA))", 4, func(draw intN, clock clock) Policy {
		p := slowStart(simPeakEWMA(draw, clock), SlowStartConfig{}, clock)
		return outlierEjection(p, OutlierEjectionConfig{}, draw, clock)
	}, false},
}

func simPeakEWMA(draw intN, clock clock) Policy { return peakEWMA(PeakEWMAConfig{}, draw, clock) }

// simResult is a policy's line in the table.
type simResult struct {
	spread          float64       // of the calls over a healthy fleet, the most by the mean
	healthy         time.Duration // p99 of a healthy fleet
	p50, p99        time.Duration // with one server 20 times slower
	turnsBad        time.Duration // from when it turns slow until the p99 is back within 1.5 of healthy; never is -1
	getsWell        time.Duration // from when it is well until it has half its share of calls; never is -1
	failed, retried float64       // part of the calls that fail where it fails all, at first and later
}

func (r simResult) ratio() float64 { return float64(r.p99) / float64(r.healthy) }

// simulate is what a policy does in four courses of events. length is that of each.
func simulate(build func(draw intN, clock clock) Policy, clients int, length time.Duration) simResult {
	const warm = 10 * time.Second
	run := func(happens func(w *world, bad *simServer)) *world {
		w := newWorld(1, simServers)
		chance := rand.New(rand.NewPCG(2, 2))
		w.info = func() Info { return Info{Key: fmt.Sprint(chance.IntN(10000))} }
		w.serve(build(chance.IntN, w.clock), clients, numbered(simServers))
		w.load(simRate, 1<<62)
		happens(w, w.servers[simBad])
		return w
	}
	var r simResult
	w := run(func(w *world, _ *simServer) { w.run(warm + length + simTimeout) })
	r.spread, r.healthy = w.spread(warm, warm+length), w.quantile(0.99, warm, warm+length)

	w = run(func(w *world, bad *simServer) {
		bad.mean *= 20
		w.run(warm + length + simTimeout)
	})
	r.p50, r.p99 = w.quantile(0.5, warm, warm+length), w.quantile(0.99, warm, warm+length)

	turn, well := warm, warm+length
	w = run(func(w *world, bad *simServer) {
		w.run(turn)
		bad.mean *= 20
		w.run(well)
		bad.mean /= 20
		w.run(well + length + simTimeout)
	})
	r.turnsBad = lasts(turn, well, func(from, to time.Duration) bool {
		return float64(w.quantile(0.99, from, to)) <= 1.5*float64(r.healthy)
	})
	r.getsWell = lasts(well, well+length, func(from, to time.Duration) bool {
		return w.share(simBad, from, to) >= 0.5/simServers
	})

	w = run(func(w *world, bad *simServer) {
		w.run(turn)
		bad.failing = true
		w.run(turn + length + simTimeout)
	})
	r.failed, r.retried = w.failures(turn, turn+time.Second), w.failures(turn+time.Second, turn+length)
	return r
}

// lasts is how long after from it takes until ok says yes of five seconds in a row, -1
// for never.
func lasts(from, until time.Duration, ok func(from, to time.Duration) bool) time.Duration {
	row := 0
	for t := from; t+time.Second <= until; t += time.Second {
		if row++; !ok(t, t+time.Second) {
			row = 0
		}
		if row == 5 {
			return t - 4*time.Second - from
		}
	}
	return -1
}

// failures is the part of the calls started in [from, to) that failed.
func (w *world) failures(from, to time.Duration) float64 {
	failed, all := 0, 0
	for _, c := range w.calls {
		if c.start >= from && c.start < to {
			all++
			if c.err != nil {
				failed++
			}
		}
	}
	return float64(failed) / float64(max(all, 1))
}

// TestSimulation prints what the policies do in a simulated fleet: with -v all of them
// and for two minutes of each course of events, otherwise a few for a shorter time.
func TestSimulation(t *testing.T) {
	all, length := testing.Verbose() && !raced, 12*time.Second
	switch {
	case all:
		length = 2 * time.Minute
	case raced:
		length = 6 * time.Second
	}
	results := make(map[string]simResult)
	var table strings.Builder
	tab := tabwriter.NewWriter(&table, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(tab, "policy\tclients\tspread\thealthy p99\tone slow: p50\tp99\tratio\tturns bad\tgets well\tfails: 1st s\tthen\t")
	for _, p := range simPolicies {
		if !p.short && !all {
			continue
		}
		r := simulate(p.build, p.clients, length)
		results[fmt.Sprint(p.name, " ", p.clients)] = r
		took := func(d time.Duration) string {
			if d < 0 {
				return "never"
			}
			return fmt.Sprintf("%.0f s", d.Seconds())
		}
		well := took(r.getsWell)
		if r.turnsBad < 0 {
			well = "-" // it never left
		}
		fmt.Fprintf(tab, "%s\t%d\t%.2f\t%d ms\t%d ms\t%d ms\t%.2f\t%s\t%s\t%.2f %%\t%.3f %%\t\n", p.name, p.clients, r.spread,
			r.healthy.Milliseconds(), r.p50.Milliseconds(), r.p99.Milliseconds(), r.ratio(),
			took(r.turnsBad), well, 100*r.failed, 100*r.retried)
	}
	_ = tab.Flush() // a Builder does not fail
	t.Log("\n" + table.String())

	for name, r := range results {
		if !strings.HasPrefix(name, "PeakEWMA") {
			continue
		}
		if r.ratio() > 1.5 {
			t.Errorf("%s: with one server 20 times slower, the p99 is %.2f times that of a healthy fleet; want at most 1.5", name, r.ratio())
		}
		if r.spread > 1.2 {
			t.Errorf("%s: the busiest of equal servers gets %.2f times the mean", name, r.spread)
		}
		if r.turnsBad < 0 || r.turnsBad > 5*time.Second {
			t.Errorf("%s: it takes %v to leave a server that turns slow", name, r.turnsBad)
		}
		if all && (r.getsWell < 0 || r.getsWell > 40*time.Second) {
			t.Errorf("%s: it takes %v to come back to a server that is well again", name, r.getsWell)
		}
		if r.retried > 0.005 {
			t.Errorf("%s: %.2f %% of the calls go to a server that fails all", name, 100*r.retried)
		}
	}
	if turns := results["RoundRobin 4"]; turns.ratio() < 10 || turns.failed < 0.08 {
		t.Errorf("the simulation shows no harm where there should be: round robin's p99 is %.2f times that of a healthy fleet", turns.ratio())
	}
	if again := simulate(simPeakEWMA, 4, length/6); again != simulate(simPeakEWMA, 4, length/6) {
		t.Error("the same simulation has two results")
	}
}

// TestSimulationOfKeys prints how keys and clients are spread, and how few of them move.
func TestSimulationOfKeys(t *testing.T) {
	const servers = 100
	keys, length := 20000, 30*time.Second
	if raced {
		keys, length = 5000, 10*time.Second
	}
	all := numbered(servers)
	without := slices.Delete(slices.Clone(all), 37, 38)
	var table strings.Builder
	policy := consistentHash(ConsistentHashConfig{}, seeded(1))
	p := policy.Build(nil, all)
	before := owners(t, p, keys)
	each := map[string]int{}
	for _, id := range before {
		each[id]++
	}
	most := slices.Max(slices.Collect(maps.Values(each)))
	left := moved(before, owners(t, policy.Build(p, without), keys))
	fmt.Fprintf(&table, "ConsistentHash, %d keys: the busiest of %d has %.2f times the mean; when one leaves, %.2f %% of the keys move\n",
		keys, servers, float64(most*servers)/float64(keys), 100*float64(left)/float64(keys))
	if left > keys/50 {
		t.Errorf("%d of %d keys moved when one of %d left", left, keys, servers)
	}
	modulo := 0
	for i := range keys {
		h := hash(fmt.Sprintf("key-%d", i))
		if all[h%servers].ID != without[h%(servers-1)].ID {
			modulo++
		}
	}
	fmt.Fprintf(&table, "for comparison, hash modulo the number of instances: %.2f %%\n", 100*float64(modulo)/float64(keys))

	for _, load := range []float64{math.Inf(1), 1.25} {
		w := newWorld(1, simServers)
		chance := rand.New(rand.NewPCG(2, 2))
		w.info = func() Info {
			if chance.IntN(4) == 0 {
				return Info{Key: "hot"}
			}
			return Info{Key: fmt.Sprint(chance.IntN(10000))}
		}
		w.serve(consistentHash(ConsistentHashConfig{MaxLoad: load}, chance.IntN), 4, numbered(simServers))
		w.load(simRate, length)
		w.run(length + 2*simTimeout)
		p99 := w.quantile(0.99, 0, length)
		fmt.Fprintf(&table, "ConsistentHash, every fourth call with one key, MaxLoad %.2f: the busiest of %d has %.2f times the mean, p99 %d ms\n",
			load, simServers, w.spread(0, length), p99.Milliseconds())
		if hot := p99 > time.Second; hot != math.IsInf(load, 1) {
			t.Errorf("with MaxLoad %v the p99 is %v", load, p99)
		}
	}

	const clients, size = 1000, 20
	for _, n := range []int{100, 400} {
		users, changed := map[string]int{}, 0
		for c := range clients {
			before := subsetOf(fmt.Sprint("client-", c), size, numbered(n))
			for _, id := range before {
				users[id]++
			}
			for _, id := range subsetOf(fmt.Sprint("client-", c), size, slices.Delete(numbered(n), 37, 38)) {
				if !slices.Contains(before, id) {
					changed++
				}
			}
		}
		fewest, most := clients, 0
		for _, in := range numbered(n) {
			fewest, most = min(fewest, users[in.ID]), max(most, users[in.ID])
		}
		fmt.Fprintf(&table, "Subset, %d clients with %d of %d: an instance has %d to %d clients, %d in the mean; when one leaves, %.2f %% of the pairs change\n",
			clients, size, n, fewest, most, clients*size/n, 100*float64(changed)/(clients*size))
		if changed != users["i037"] {
			t.Errorf("%d pairs changed when an instance with %d clients left", changed, users["i037"])
		}
	}
	t.Log("\n" + table.String())
}
