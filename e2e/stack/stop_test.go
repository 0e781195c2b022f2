package stack

import (
	"testing"

	"github.com/protomicro/micro/internal/gen/echo/v1/echov1micro"
)

// All instances are replaced one after the other under load, as a rolling
// deployment does. No call fails, and none runs twice.
func TestRollingRestartLosesNoCall(t *testing.T) {
	s := startServers(t)
	old := []*instance{s.start(t, "old-0"), s.start(t, "old-1"), s.start(t, "old-2")}
	const callers = 16
	l := startLoad(t, s.client(t), callers)
	l.more(t, 500)

	all := old
	for i, in := range old {
		next := s.start(t, "new-"+string(rune('0'+i)))
		all = append(all, next)
		eventually(t, next.id+" answers", func() bool { return l.byInstance(next.id) > 0 })
		in.end(t)
		after := l.byInstance(in.id)
		l.more(t, 500)
		// An answer may be counted a moment after the instance has ended, but no more
		// than one of each caller.
		if n := l.byInstance(in.id) - after; n > callers {
			t.Errorf("%s gave %d answers after its end", in.id, n)
		}
	}
	l.stop()
	if l.failed.Load() > 0 {
		t.Errorf("%d of %d calls failed: %v", l.failed.Load(), l.failed.Load()+l.ok.Load(), l.errs)
	}
	var ran uint64
	for _, in := range all {
		ran += in.handler.Calls(echov1micro.EchoEchoProcedure)
	}
	if ran != uint64(l.ok.Load()) {
		t.Errorf("%d calls were answered, %d were run", l.ok.Load(), ran)
	}
	t.Logf("%d calls over three stops and starts, %d failed", l.ok.Load(), l.failed.Load())
}
