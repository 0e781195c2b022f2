package stack

import (
	"context"
	"testing"
	"time"

	echov1 "github.com/protomicro/micro/internal/gen/echo/v1"
	"github.com/protomicro/micro/internal/gen/echo/v1/echov1micro"
	"github.com/protomicro/micro/runtime/status"
)

// etcd is away for longer than the leases live. No call fails meanwhile; afterwards
// the instances are registered again and changes are seen again.
func TestEtcdRestartUnderCalls(t *testing.T) {
	s := startServers(t)
	a, b := s.start(t, "a"), s.start(t, "b")
	l := startLoad(t, s.client(t), 8)
	eventually(t, "both answer", func() bool { return l.byInstance("a") > 0 && l.byInstance("b") > 0 })

	s.etcd.Stop()
	away := time.Now()
	eventually(t, "the services notice", func() bool { return a.service.Ready() != nil && b.service.Ready() != nil })
	eventually(t, "the leases would have ended", func() bool { return time.Since(away) > ttl+time.Second })
	l.more(t, 200)
	if l.failed.Load() > 0 {
		t.Fatalf("%d calls failed while etcd was away: %v", l.failed.Load(), l.errs)
	}

	s.etcd.Restart(t)
	eventually(t, "the services are registered again", func() bool { return a.service.Ready() == nil && b.service.Ready() == nil })
	c := s.start(t, "c")
	eventually(t, "the new one answers", func() bool { return l.byInstance("c") > 0 })
	a.end(t)
	b.end(t)
	l.more(t, 200)
	eventually(t, "only the new one answers", func() bool {
		before := l.byInstance("a") + l.byInstance("b")
		l.more(t, 50)
		return l.byInstance("a")+l.byInstance("b") == before
	})
	l.stop()
	if l.failed.Load() > 0 {
		t.Errorf("%d calls failed: %v", l.failed.Load(), l.errs)
	}
	c.end(t)
}

// NATS is away. Calls under way fail with Unavailable and not at their deadline,
// calls made meanwhile fail at once, and afterwards they are answered again, with
// nobody doing anything about it.
func TestNATSRestartUnderCalls(t *testing.T) {
	s := startServers(t)
	s.start(t, "a")
	s.start(t, "b")
	c := s.client(t)
	l := startLoad(t, c, 8)
	l.more(t, 200)

	// One long call, which nothing but the loss of the connection ends.
	long := make(chan error, 1)
	go func() {
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
		defer cancel()
		_, err := echov1micro.NewEchoClient(c).Sleep(ctx, &echov1.SleepRequest{DelayMs: 5_000})
		long <- err
	}()
	eventually(t, "the long call is under way", func() bool {
		var n uint64
		for _, id := range []string{"a", "b"} {
			res, err := echov1micro.NewAdminClient(c).Counts(t.Context(), &echov1.CountsRequest{})
			if err != nil {
				t.Fatal(id, err)
			}
			n += res.GetCalls()[echov1micro.EchoSleepProcedure]
		}
		return n > 0
	})

	s.nats.Stop()
	if err := <-long; status.CodeOf(err) != status.Unavailable {
		t.Errorf("the long call: %v", err)
	}
	failed := l.failed.Load()
	eventually(t, "calls fail", func() bool { return l.failed.Load() > failed+8 })
	s.nats.Restart(t)
	l.more(t, 500)
	l.stop()
	for code, n := range l.codes {
		if code != status.Unavailable {
			t.Errorf("%d calls failed with %v: %v", n, code, l.errs)
		}
	}
	t.Logf("%d calls answered, %d failed while NATS was away", l.ok.Load(), l.failed.Load())
}
