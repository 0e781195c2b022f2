package faults

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	echov1 "github.com/protomicro/micro/internal/gen/echo/v1"
	"github.com/protomicro/micro/internal/gen/echo/v1/echov1micro"
)

// What becomes of instances.

func nothing(t *testing.T, f *fleet) *load {
	f.three(t, 0, 1, 2)
	l := f.startLoad(t, f.clients(t, 0, 1, 2, 0), "a", "b", "c")
	l.more(t, 200)
	return l
}

func stopped(t *testing.T, f *fleet) *load {
	all := f.three(t, 0, 1, 2)
	l := f.startLoad(t, f.clients(t, 0, 1, 2, 0), "a", "b", "c")
	all["b"].end(t)
	l.more(t, 200)
	return l
}

func rolling(t *testing.T, f *fleet) *load {
	all := f.three(t, 0, 1, 2)
	l := f.startLoad(t, f.clients(t, 0, 1, 2, 0), "a", "b", "c")
	for i, id := range []string{"a", "b", "c"} {
		next := f.start(t, f.at(i, "new-"+id))
		l.answered(t, next.ID, 10)
		all[id].end(t)
		l.more(t, 100)
	}
	return l
}

func killed(t *testing.T, f *fleet) *load {
	f.start(t, f.at(0, "a"))
	f.start(t, f.at(1, "b"))
	victim := f.spawn(t, f.at(2, "c"))
	l := f.startLoad(t, f.clients(t, 0, 1, 2, 0), "a", "b", "c")
	victim.kill()
	eventually(t, "NATS notices", func() bool { return len(f.nats.NodesOf(t, "c")) == 0 })
	l.lose("c")
	l.more(t, 1000)
	return l
}

// slowness has one of three instances as many times slower than the others. What its
// share comes to is asserted; what it does to the latency is told.
func slowness(times int) func(t *testing.T, f *fleet) *load {
	return func(t *testing.T, f *fleet) *load {
		for i, id := range []string{"a", "b", "c"} {
			s := f.at(i, id)
			if id == "c" {
				s.Delay *= time.Duration(times)
			}
			f.start(t, s)
		}
		l := f.startLoad(t, f.clients(t, 0, 1, 2, 0), "a", "b", "c")
		l.more(t, 1000)
		l.stop()
		a, b, c := l.byInstance("a"), l.byInstance("b"), l.byInstance("c")
		l.remark = fmt.Sprintf("p99 %s; c gets %.1f %% of the calls", short(l.percentile(99)), 100*float64(c)/float64(a+b+c))
		// On a machine that stands still for longer, all of them are slow.
		if times > 1 && c >= min(a, b) {
			t.Errorf("%d calls go to the slow one, %d and %d to the others", c, a, b)
		}
		return l
	}
}

// full has an instance that runs and holds as many calls as it may.
func full(t *testing.T, f *fleet) *load {
	f.start(t, f.at(0, "a"))
	f.start(t, f.at(1, "b"))
	c := f.at(2, "c")
	c.MaxConcurrent, c.MaxQueued = 1, 1
	f.start(t, c)
	cs := f.clients(t, 0, 1, 2, 0)
	for name, c := range cs {
		f.reaches(t, name, c, []string{"a", "b", "c"})
	}
	ctx, end := context.WithCancel(t.Context())
	var fillers sync.WaitGroup
	defer fillers.Wait()
	defer end()
	filler := echov1micro.NewEchoClient(f.dial(t, "filler", f.home(0)))
	for range 3 { // one runs, one waits, one is refused
		fillers.Go(func() {
			for ctx.Err() == nil {
				_, _ = filler.Sleep(ctx, &echov1.SleepRequest{DelayMs: 60_000}, only("c"))
			}
		})
	}
	l := f.startLoad(t, cs, "a", "b")
	l.more(t, 200)
	eventually(t, "calls are refused by c", func() bool { return l.refusals("c") > 0 })
	l.more(t, 200)
	l.stop()
	l.remark = fmt.Sprintf("%d refusals", l.refusals("c"))
	return l
}

// everything is what a power failure is: all of it ends at once, and begins anew.
func everything(t *testing.T, f *fleet) *load {
	var all []*instance
	for i, id := range []string{"a", "b", "c"} {
		all = append(all, f.spawn(t, f.at(i, id)))
	}
	l := f.startLoad(t, f.clients(t, 0, 1, 2, 0), "a", "b", "c")
	l.outage("client-0", "client-1", "client-2", "client-3")
	for _, in := range all {
		in.kill()
	}
	for _, n := range f.nats.Nodes {
		n.Stop()
	}
	f.etcd.Kill()
	l.lose("a", "b", "c")
	for _, n := range f.nats.Nodes {
		n.Restart(t)
	}
	f.etcd.Restart(t)
	f.nats.Settle(t)
	for i, id := range []string{"d", "e", "f"} {
		f.start(t, f.at(i, id))
	}
	for _, id := range []string{"d", "e", "f"} {
		l.answered(t, id, 10)
	}
	l.recovered(t)
	l.more(t, 200)
	return l
}
