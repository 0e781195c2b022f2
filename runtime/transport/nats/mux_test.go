package nats

import (
	"strings"
	"sync"
	"testing"

	natsgo "github.com/nats-io/nats.go"

	"github.com/protomicro/micro/runtime/status"
	"github.com/protomicro/micro/runtime/transport"
)

type recorder struct {
	mu   sync.Mutex
	got  []string
	lost int
}

func (r *recorder) receive(m *natsgo.Msg) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.got = append(r.got, string(m.Data))
}

func (r *recorder) lose(*status.Error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.lost++
}

func TestMux(t *testing.T) {
	const parties, each = 8, 300
	x := newMux("base.s")
	deliver := func(subject, body string) bool {
		m := &natsgo.Msg{Subject: subject, Data: []byte(body)}
		p := x.find(m)
		if p != nil {
			p.receive(m)
		}
		return p != nil
	}
	var wg sync.WaitGroup
	for range parties {
		wg.Go(func() {
			for range each {
				r := &recorder{}
				token, ok := x.enter(r, parties)
				if !ok {
					t.Error("no room below the limit")
					return
				}
				if !deliver(x.subject(token), "a") || !deliver(x.subject(token), "b") {
					t.Error("an open stream is not found")
				}
				x.leave(token)
				x.leave(token)
				if deliver(x.subject(token), "late") {
					t.Error("a stream that has ended is found")
				}
				if got := strings.Join(r.got, ""); got != "ab" {
					t.Errorf("got %q", got)
				}
			}
		})
	}
	wg.Wait()
	if n := x.len(); n != 0 {
		t.Errorf("%d streams are left", n)
	}
	var all []*recorder
	for range parties {
		r := &recorder{}
		if _, ok := x.enter(r, parties); !ok {
			t.Error("no room below the limit")
		}
		all = append(all, r)
	}
	if _, ok := x.enter(&recorder{}, parties); ok {
		t.Error("room beyond the limit")
	}
	for _, subject := range []string{"", "base.s", "base.s.", "base.s.-1", "base.s.1.2", "other.1", "base.s." + strings.Repeat("z", 50)} {
		if deliver(subject, "x") {
			t.Errorf("%q finds a stream", subject)
		}
	}
	x.loseAll(errLostStream)
	for _, r := range all {
		if r.lost != 1 || len(r.got) != 0 {
			t.Errorf("lost %d times, got %q", r.lost, r.got)
		}
	}
}

func TestConfig(t *testing.T) {
	cfg, err := Config{}.withDefaults()
	if err != nil {
		t.Fatal(err)
	}
	if cfg.MaxMessage != 4<<20 || cfg.MaxStreams != transport.DefaultMaxStreams || cfg.WindowMessages <= 0 ||
		cfg.WindowBytes <= 0 || cfg.Heartbeat <= 0 || cfg.Prefix != "micro" || cfg.Logger == nil {
		t.Errorf("defaults: %+v", cfg)
	}
	for _, cfg := range []Config{{MaxMessage: -1}, {MaxStreams: -1}, {WindowMessages: -1}, {WindowBytes: -1}, {Heartbeat: -1}} {
		if _, err := cfg.withDefaults(); status.CodeOf(err) != status.InvalidArgument {
			t.Errorf("%+v: got %v", cfg, err)
		}
	}
}
