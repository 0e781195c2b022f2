package callctx

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

type key struct{}

var errCause = errors.New("cause")

// Each way to end, seen by one who waits from before, one who asks after, and a
// context derived from it.
func TestEnds(t *testing.T) {
	for _, tc := range []struct {
		name  string
		end   func(c *Context, parent context.CancelCauseFunc)
		err   error
		cause error
	}{
		{"cancel", func(c *Context, _ context.CancelCauseFunc) { c.Cancel(nil) }, context.Canceled, context.Canceled},
		{"cancel with a cause", func(c *Context, _ context.CancelCauseFunc) { c.Cancel(errCause) }, context.Canceled, errCause},
		{"cancel twice", func(c *Context, _ context.CancelCauseFunc) { c.Cancel(errCause); c.Cancel(nil) }, context.Canceled, errCause},
		{"parent", func(_ *Context, parent context.CancelCauseFunc) { parent(errCause) }, context.Canceled, errCause},
		{"deadline", func(*Context, context.CancelCauseFunc) { time.Sleep(time.Minute + 1) }, context.DeadlineExceeded, context.DeadlineExceeded},
		{"cancel after the deadline", func(c *Context, _ context.CancelCauseFunc) {
			time.Sleep(time.Minute + 1)
			_ = c.Err() // has been seen
			c.Cancel(errCause)
		}, context.DeadlineExceeded, context.DeadlineExceeded},
	} {
		for _, waits := range []bool{true, false} {
			synctest.Test(t, func(t *testing.T) {
				parent, cancel := context.WithCancelCause(context.WithValue(t.Context(), key{}, "v"))
				defer cancel(nil)
				var c Context
				c.Init(parent, time.Now().Add(time.Minute))
				defer c.Cancel(nil)
				var child context.Context
				if waits {
					_ = c.Done()
					var stop context.CancelFunc
					child, stop = context.WithCancel(&c)
					defer stop()
				}
				if err := c.Err(); err != nil {
					t.Errorf("%s: ended before its end: %v", tc.name, err)
				}
				if c.Value(key{}) != "v" {
					t.Errorf("%s: the value is lost", tc.name)
				}
				tc.end(&c, cancel)
				synctest.Wait()
				if err := context.Cause(&c); !errors.Is(err, tc.cause) {
					t.Errorf("%s, waits %v: the cause is %v", tc.name, waits, err)
				}
				if err := c.Err(); !errors.Is(err, tc.err) {
					t.Errorf("%s, waits %v: Err is %v", tc.name, waits, err)
				}
				select {
				case <-c.Done():
				default:
					t.Errorf("%s, waits %v: Done is open", tc.name, waits)
				}
				if err := c.Err(); !errors.Is(err, tc.err) {
					t.Errorf("%s, waits %v: after Done, Err is %v", tc.name, waits, err)
				}
				if child != nil && (!errors.Is(child.Err(), tc.err) || !errors.Is(context.Cause(child), tc.cause)) {
					t.Errorf("%s: the derived context has %v, %v", tc.name, child.Err(), context.Cause(child))
				}
			})
		}
	}
}

func TestDeadlineIsTheEarlier(t *testing.T) {
	now := time.Now()
	for _, tc := range []struct{ parent, own, want time.Duration }{
		{0, 0, 0}, {time.Hour, 0, time.Hour}, {0, time.Hour, time.Hour},
		{time.Hour, 2 * time.Hour, time.Hour}, {2 * time.Hour, time.Hour, time.Hour},
	} {
		parent, stop := t.Context(), func() {}
		if tc.parent > 0 {
			parent, stop = context.WithDeadline(parent, now.Add(tc.parent))
		}
		var own time.Time
		if tc.own > 0 {
			own = now.Add(tc.own)
		}
		var c Context
		c.Init(parent, own)
		d, ok := c.Deadline()
		if ok != (tc.want > 0) || ok && !d.Equal(now.Add(tc.want)) {
			t.Errorf("%v and %v: %v, %v", tc.parent, tc.own, d.Sub(now), ok)
		}
		c.Cancel(nil)
		stop()
	}
}

// A derived context is tied to it without a goroutine of its own.
func TestDerivedContextsNeedNoGoroutine(t *testing.T) {
	var c Context
	c.Init(context.Background(), time.Now().Add(time.Hour))
	child, stop := context.WithCancel(&c)
	defer stop()
	if err := goleak.Find(goleak.IgnoreCurrent()); err != nil {
		t.Error(err)
	}
	c.Cancel(nil)
	if child.Err() == nil { // at once, not when a goroutine comes to it
		t.Error("the derived context goes on")
	}
}

func TestCostsNothingUnused(t *testing.T) {
	parent := context.Background()
	deadline := time.Now().Add(time.Hour)
	c := make([]Context, 1001)
	i := 0
	if n := testing.AllocsPerRun(1000, func() {
		c[i].Init(parent, deadline)
		_ = c[i].Err()
		_ = c[i].Value(key{})
		c[i].Cancel(nil)
		i++
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

type own struct{}

type values struct{}

func (values) Value(key any) any {
	if key == (own{}) {
		return "own"
	}
	return nil
}

func TestOwnValues(t *testing.T) {
	parent := context.WithValue(t.Context(), key{}, "parent's")
	var made, narrowed Context
	made.InitValues(parent, time.Time{}, values{})
	narrowed.Init(parent, time.Time{})
	if !narrowed.Narrow(time.Now().Add(time.Hour), values{}) {
		t.Error("a new context was not narrowed")
	}
	for _, c := range []*Context{&made, &narrowed} {
		child, stop := context.WithCancel(c)
		defer stop()
		for _, ctx := range []context.Context{c, child} {
			if ctx.Value(own{}) != "own" || ctx.Value(key{}) != "parent's" {
				t.Errorf("%v, %v", ctx.Value(own{}), ctx.Value(key{}))
			}
		}
		if c.Narrow(time.Time{}, values{}) {
			t.Error("narrowed a second time")
		}
		c.Cancel(nil)
		if child.Err() == nil || child.Value(own{}) != "own" {
			t.Errorf("after its end: %v, %v", child.Err(), child.Value(own{}))
		}
	}
	if _, ok := made.Deadline(); ok {
		t.Error("a deadline out of nowhere")
	}
	if d, ok := narrowed.Deadline(); !ok || time.Until(d) < 50*time.Minute {
		t.Errorf("the deadline is %v, %v", d, ok)
	}
	var asked Context
	asked.Init(parent, time.Time{})
	_ = asked.Done()
	if asked.Narrow(time.Now(), values{}) {
		t.Error("narrowed though somebody waits for its end as it was")
	}
	asked.Cancel(nil)
}

// What Bounds says is what Done would do, and costs no channel.
func TestBounds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		parent, cancel := context.WithCancel(t.Context())
		defer cancel()
		deadline := time.Now().Add(time.Minute)
		var c Context
		c.Init(parent, deadline)
		ended, at, lazy := Bounds(&c)
		if ended != parent.Done() || !at.Equal(deadline) || !lazy || GivenUp(&c) != nil {
			t.Errorf("%v, %v, %v, %v", ended, at, lazy, GivenUp(&c))
		}
		if c.waited() != nil {
			t.Error("a context was made")
		}
		time.Sleep(time.Minute)
		if err := GivenUp(&c); err != nil {
			t.Errorf("it looked at the clock: %v", err)
		}
		if err := c.Err(); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("at the deadline: %v", err)
		}
		for _, ctx := range []context.Context{&c, parent} { // what has been asked for its end, and another context
			if ended, at, lazy = Bounds(ctx); ended != ctx.Done() || !at.IsZero() || lazy || !errors.Is(GivenUp(ctx), ctx.Err()) {
				t.Errorf("%v, %v, %v, %v", ended, at, lazy, GivenUp(ctx))
			}
			cancel()
		}
		var d Context
		d.Init(parent, time.Time{})
		if err := GivenUp(&d); !errors.Is(err, context.Canceled) {
			t.Errorf("its parent has ended: %v", err)
		}
		d.Cancel(nil)
		if ended, _, lazy = Bounds(&d); lazy {
			t.Error("a cancelled context is one to wait for")
		}
		<-ended
	})
}
