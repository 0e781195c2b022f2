package mdns

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/net/dns/dnsmessage"

	"github.com/protomicro/micro/runtime/registry"
)

// A network is a multicast one whose time synctest has.
type network struct {
	mu      sync.Mutex
	hosts   map[*host]bool
	loss    float64 // of what reaches another host
	sent    int     // packets
	asked   int     // of them, questions
	observe func(from *host, message []byte)
}

func newNetwork() *network { return &network{hosts: make(map[*host]bool)} }

// A host is a link to the network.
type host struct {
	network *network
	addr    netip.Addr

	// Under network.mu.
	down   bool // neither sends nor receives
	broken error

	packets chan packet
	closed  chan struct{}
	close1  sync.Once
}

func (n *network) newHost(i int) *host {
	h := &host{
		network: n,
		addr:    netip.AddrFrom4([4]byte{10, 0, 0, byte(i)}),
		packets: make(chan packet, 1000),
		closed:  make(chan struct{}),
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.hosts[h] = true
	return h
}

func (h *host) send(message []byte, to netip.AddrPort) error {
	h.network.mu.Lock()
	defer h.network.mu.Unlock()
	if h.broken != nil {
		return h.broken
	}
	if to != group {
		return errors.New("this network has multicast only")
	}
	if h.down {
		return nil
	}
	h.network.sent++
	if len(message) > 2 && message[2]&0x80 == 0 {
		h.network.asked++
	}
	if h.network.observe != nil {
		h.network.observe(h, message)
	}
	for other := range h.network.hosts {
		if other.down || other != h && rand.Float64() < h.network.loss {
			continue
		}
		select {
		case other.packets <- packet{source: netip.AddrPortFrom(h.addr, port), data: slices.Clone(message)}:
		default: // its buffer is full
		}
	}
	return nil
}

func (h *host) receive(buf []byte) (int, netip.AddrPort, error) {
	select {
	case p := <-h.packets:
		return copy(buf, p.data), p.source, nil
	case <-h.closed:
		return 0, netip.AddrPort{}, io.EOF
	}
}

func (h *host) address() netip.Addr      { return h.addr }
func (h *host) near(a netip.Addr) bool   { return a.Is4() }
func (h *host) set(change func(h *host)) { h.network.mu.Lock(); defer h.network.mu.Unlock(); change(h) }

func (h *host) close() error {
	h.close1.Do(func() { close(h.closed) })
	h.set(func(*host) { delete(h.network.hosts, h) })
	return nil
}

// join makes a registry on a host of its own, which is not closed by itself.
func (n *network) join(t *testing.T, i int, cfg Config) (*Registry, *host) {
	t.Helper()
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	r, err := configure(cfg)
	if err != nil {
		t.Fatal(err)
	}
	h := n.newHost(i)
	opened := false
	r.open = func() (link, error) {
		n.mu.Lock()
		defer n.mu.Unlock()
		if !opened {
			opened = true
			return h, nil
		}
		if h.broken != nil {
			return nil, h.broken
		}
		return nil, errors.New("a test's network is opened once")
	}
	if err := r.start(); err != nil {
		t.Fatal(err)
	}
	return r, h
}

func shut(t *testing.T, registries ...*Registry) {
	t.Helper()
	for _, r := range registries {
		if err := r.Close(context.Background()); err != nil {
			t.Errorf("Close: %v", err)
		}
	}
}

func instance(id string) registry.Instance {
	return registry.Instance{Service: "a.B", ID: id, Addresses: []string{"test:" + id}}
}

func mustRegister(t *testing.T, r *Registry, in registry.Instance) registry.Registration {
	t.Helper()
	reg, err := r.Register(t.Context(), in)
	if err != nil {
		t.Fatal(err)
	}
	return reg
}

func mustWatch(t *testing.T, r *Registry) registry.Watcher {
	t.Helper()
	w, err := r.Watch(t.Context(), "a.B")
	if err != nil {
		t.Fatal(err)
	}
	return w
}

// until calls Next until the instances are those.
func until(t *testing.T, w registry.Watcher, want ...string) registry.Snapshot {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
	defer cancel()
	var s registry.Snapshot
	for {
		var err error
		last := s
		if s, err = w.Next(ctx); err != nil {
			t.Fatalf("waited for %q, had %+v: %v", want, last, err)
		}
		if !s.Stale && slices.Equal(idsOf(s), want) {
			return s
		}
	}
}

func idsOf(s registry.Snapshot) []string {
	ids := make([]string, 0, len(s.Instances))
	for _, in := range s.Instances {
		ids = append(ids, in.ID)
	}
	return ids
}

// One packet in twenty is lost. Nobody who lives is ever missing, and who dies leaves
// when the TTL is over.
func TestLossyNetwork(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNetwork()
		var all []*Registry
		var hosts []*host
		var want []string
		for i := range 8 {
			r, h := n.join(t, i, Config{})
			id := fmt.Sprint("i", i)
			mustRegister(t, r, instance(id))
			all, hosts, want = append(all, r), append(hosts, h), append(want, id)
		}
		var watchers []registry.Watcher
		for _, r := range all {
			w := mustWatch(t, r)
			until(t, w, want...)
			watchers = append(watchers, w)
		}
		n.mu.Lock()
		n.loss, n.asked, n.sent = 0.05, 0, 0
		n.mu.Unlock()

		const minutes = 30
		ctx, cancel := context.WithTimeout(t.Context(), minutes*time.Minute)
		defer cancel()
		var watching sync.WaitGroup
		for i, w := range watchers {
			watching.Go(func() {
				if s, err := w.Next(ctx); !errors.Is(err, context.DeadlineExceeded) {
					t.Errorf("watcher %d is told %q, %v", i, idsOf(s), err)
				}
			})
		}
		watching.Wait()
		n.mu.Lock()
		// All together ask about once in six seconds, and each answers then.
		if most := minutes * 60 / 6 * 2; n.asked > most || n.sent > most*(1+len(all)) {
			t.Errorf("%d questions and %d packets in %d minutes", n.asked, n.sent, minutes)
		}
		t.Logf("%d questions and %d packets in %d minutes, by %d processes", n.asked, n.sent, minutes, len(all))
		n.loss = 0
		n.mu.Unlock()

		hosts[0].set(func(h *host) { h.down = true })
		begun := time.Now()
		until(t, watchers[1], want[1:]...)
		if d := time.Since(begun); d > DefaultTTL {
			t.Errorf("the dead one left after %v", d)
		}
		hosts[0].set(func(h *host) { h.down = false })
		until(t, watchers[1], want...)
		until(t, watchers[0], want...)
		shut(t, all...)
	})
}

// A process that comes late hears of those that are there, and they of it.
func TestLateWatcher(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNetwork()
		first, _ := n.join(t, 1, Config{})
		mustRegister(t, first, instance("a"))
		mustRegister(t, first, instance("b"))
		time.Sleep(time.Hour) // nobody has asked for long

		late, _ := n.join(t, 2, Config{})
		begun := time.Now()
		w := mustWatch(t, late)
		if s, err := w.Next(t.Context()); err != nil || !slices.Equal(idsOf(s), []string{"a", "b"}) {
			t.Errorf("the first snapshot: %q, %v", idsOf(s), err)
		}
		if d := time.Since(begun); d > 1500*time.Millisecond {
			t.Errorf("it took %v", d)
		}
		names, err := late.Services(t.Context())
		if err != nil || !slices.Equal(names, []string{"a.B"}) {
			t.Errorf("Services: %q, %v", names, err)
		}

		begun = time.Now()
		nothing, err := late.Watch(t.Context(), "a.C")
		if err != nil {
			t.Fatal(err)
		}
		if s, err := nothing.Next(t.Context()); err != nil || len(s.Instances) > 0 || s.Stale {
			t.Errorf("a service that is not there: %+v, %v", s, err)
		}
		if d := time.Since(begun); d > time.Second/4 {
			t.Errorf("it took %v to know what is not there, by one who knows all", d)
		}
		shut(t, first)
		until(t, w)
		shut(t, late)
	})
}

// Two processes have one ID: the later stands until it leaves, or dies.
func TestSameID(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNetwork()
		first, _ := n.join(t, 1, Config{})
		second, secondHost := n.join(t, 2, Config{})
		third, _ := n.join(t, 3, Config{})
		w := mustWatch(t, third)
		version := func(want string) {
			t.Helper()
			ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
			defer cancel()
			for {
				s, err := w.Next(ctx)
				if err != nil {
					t.Fatalf("waited for version %s: %v", want, err)
				}
				if len(s.Instances) == 1 && s.Instances[0].Version == want {
					synctest.Wait() // the others have heard it, too
					return
				}
			}
		}
		older, later := instance("a"), instance("a")
		older.Version, later.Version = "1", "2"
		a := mustRegister(t, first, older)
		version("1")
		b := mustRegister(t, second, later)
		version("2")
		synctest.Wait()
		if state := a.State(); state.Registered || !errors.Is(state.LastError, errTaken) {
			t.Errorf("the older one: %+v", state)
		}
		time.Sleep(time.Hour)
		if a.State().Registered || !b.State().Registered {
			t.Errorf("an hour later: %+v, %+v", a.State(), b.State())
		}
		if err := b.Close(t.Context()); err != nil {
			t.Fatal(err)
		}
		version("1")
		if !a.State().Registered {
			t.Errorf("the older one, when the later has left: %+v", a.State())
		}

		b = mustRegister(t, second, later)
		version("2")
		secondHost.set(func(h *host) { h.down = true })
		version("1")
		if !a.State().Registered {
			t.Errorf("the older one, when the later is dead: %+v", a.State())
		}
		time.Sleep(time.Minute)
		if b.State().Registered {
			t.Errorf("the later one, cut off: %+v", b.State())
		}
		// It was not dead. Who of them is heard first decides which of them stands; what
		// matters is that they agree.
		secondHost.set(func(h *host) { h.down = false })
		time.Sleep(time.Hour)
		stands, other := a, b
		want := "1"
		if b.State().Registered {
			stands, other, want = b, a, "2"
		}
		if !stands.State().Registered || other.State().Registered {
			t.Errorf("an hour after its return: %+v, %+v", a.State(), b.State())
		}
		newest := registry.Snapshot{Instances: []registry.Instance{older}} // that was the last one
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		for {
			s, err := w.Next(ctx)
			if err != nil {
				break
			}
			newest = s
		}
		if len(newest.Instances) != 1 || newest.Instances[0].Version != want {
			t.Errorf("version %s stands, and others find %+v", want, newest)
		}
		if err := other.Close(t.Context()); err != nil {
			t.Fatal(err)
		}
		shut(t, first)
		shut(t, second)
		until(t, w)
		shut(t, third)
	})
}

// Clocks differ: who has heard of the other outbids it.
func TestClockAhead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNetwork()
		first, _ := n.join(t, 1, Config{})
		second, _ := n.join(t, 2, Config{})
		a := mustRegister(t, first, instance("a"))
		if err := first.do(func() {
			reg := a.(*registration)
			reg.renew(first.names[reg.rec.label], time.Now().Add(time.Hour))
			reg.announceAt = time.Now()
		}); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		b := mustRegister(t, second, instance("a"))
		time.Sleep(time.Minute)
		if a.State().Registered || !b.State().Registered {
			t.Errorf("%+v, %+v", a.State(), b.State())
		}

		third, _ := n.join(t, 3, Config{}) // has heard nothing
		c := mustRegister(t, third, instance("a"))
		time.Sleep(time.Minute)
		if c.State().Registered || !b.State().Registered {
			t.Errorf("one of an older time: %+v, %+v", c.State(), b.State())
		}
		shut(t, third, second, first)
	})
}

// The interface fails, and comes back.
func TestBrokenInterface(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNetwork()
		r, h := n.join(t, 1, Config{})
		other, _ := n.join(t, 2, Config{})
		reg := mustRegister(t, r, instance("a"))
		mustRegister(t, other, instance("b"))
		w := mustWatch(t, r)
		until(t, w, "a", "b")
		gone := errors.New("no such device")
		h.set(func(h *host) { h.broken, h.down = gone, true })
		begun := time.Now()
		s, err := w.Next(t.Context())
		if err != nil || !s.Stale || !slices.Equal(idsOf(s), []string{"a", "b"}) || !errors.Is(s.Err, gone) {
			t.Errorf("%+v, %v", s, err)
		}
		if d := time.Since(begun); d > DefaultTTL/2 {
			t.Errorf("it took %v to notice", d)
		}
		if state := reg.State(); state.Registered || !errors.Is(state.LastError, gone) {
			t.Errorf("State: %+v", state)
		}
		time.Sleep(time.Hour) // longer than any TTL
		if _, err := r.Register(t.Context(), instance("c")); !errors.Is(err, gone) || !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("Register: %v", err)
		}
		short, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		second := mustWatch(t, r)
		if s, err := second.Next(short); err != nil || !s.Stale || len(s.Instances) != 2 {
			t.Errorf("a second watcher: %+v, %v", s, err)
		}
		if _, err := r.Services(t.Context()); !errors.Is(err, gone) {
			t.Errorf("Services: %v", err)
		}
		h.set(func(h *host) { h.broken, h.down = nil, false })
		until(t, w, "a", "b")
		if !reg.State().Registered {
			t.Errorf("State: %+v", reg.State())
		}
		shut(t, r, other)
	})
}

// What a Register that fails has sent is taken back, and what it was to replace stays.
func TestRegisterFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNetwork()
		r, h := n.join(t, 1, Config{})
		old, later := instance("a"), instance("a")
		later.Version = "2"
		reg := mustRegister(t, r, old)
		h.set(func(h *host) { h.down = true })
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		for _, in := range []registry.Instance{later, instance("b")} {
			if _, err := r.Register(ctx, in); !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("Register: %v", err)
			}
		}
		big := instance("c")
		big.Metadata = map[string]string{"x": strings.Repeat("x", maxPacket)}
		if _, err := r.Register(t.Context(), big); err == nil || !strings.Contains(err.Error(), fmt.Sprint(maxPacket)) {
			t.Errorf("an instance that is too large: %v", err)
		}
		h.set(func(h *host) { h.down = false })
		other, _ := n.join(t, 2, Config{})
		time.Sleep(time.Minute)
		w := mustWatch(t, other)
		if s := until(t, w, "a"); !s.Instances[0].Equal(old) || !reg.State().Registered {
			t.Errorf("after a replacement that failed: %+v, %+v", s, reg.State())
		}
		shut(t, r, other)
	})
}

// What others say under the same names does no harm.
func TestHostile(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNetwork()
		var log strings.Builder
		r, _ := n.join(t, 1, Config{Logger: slog.New(slog.NewTextHandler(&log, nil))})
		attacker := n.newHost(2)
		mustRegister(t, r, instance("a"))
		w := mustWatch(t, r)
		until(t, w, "a")

		pack := func(label string, txt ...string) []byte {
			b := dnsmessage.NewBuilder(nil, dnsmessage.Header{Response: true})
			err := errors.Join(b.StartAnswers(), b.TXTResource(dnsmessage.ResourceHeader{
				Name: dnsmessage.MustNewName(label + "." + r.typeName.String()), Class: dnsmessage.ClassINET, TTL: 100,
			}, dnsmessage.TXTResource{TXT: txt}))
			message, err2 := b.Finish()
			if err := errors.Join(err, err2); err != nil {
				t.Fatal(err)
			}
			return message
		}
		text := `0={"service":"a.B","id":"x","addresses":["test:x"]}`
		right := label("a.B", "x")
		for _, message := range [][]byte{
			nil, {0}, make([]byte, 11), make([]byte, 12), make([]byte, maxPacket),
			pack("x", "v=1", "at=1", text),
			pack(right, "v=2", "at=1", text),
			pack(right, "v=1", "at=now", text),
			pack(right, "v=1", "at=1"),
			pack(right, "v=1", "at=1", text[:20]),
			pack(right, "v=1", "at=1", `0={"service":"a.B","id":"x","addresses":[]}`),
			pack(right, "v=1", "at=1", "1="+text),
		} {
			_ = attacker.send(message, group)
		}
		const most = 200
		if err := r.do(func() { r.tuning.instances = most }); err != nil {
			t.Fatal(err)
		}
		for i := range 3 * most {
			id := fmt.Sprint("flood", i)
			_ = attacker.send(pack(label("a.B", id), "v=1", "at=1", fmt.Sprintf(`0={"service":"a.B","id":%q,"addresses":["test:x"]}`, id)), group)
			if i%100 == 0 {
				synctest.Wait() // the buffer holds no more
			}
		}
		_ = attacker.send(pack(right, "x=y", "v=1", "at=1", text, "v=2", "new"), group)
		synctest.Wait()
		s, err := w.Next(t.Context())
		if err != nil || len(s.Instances) == 0 || s.Instances[0].ID != "a" || len(s.Instances) > most {
			t.Errorf("%d instances, %v", len(s.Instances), err)
		}
		if err := r.do(func() {}); err != nil {
			t.Fatal(err)
		}
		for _, want := range []string{"version", "is named", "no address", "passed over"} {
			if !strings.Contains(log.String(), want) {
				t.Errorf("nothing is logged with %q:\n%.2000s", want, log.String())
			}
		}
		until(t, w, "a") // all of them expire, as nobody repeats them
		_ = attacker.send(pack(right, "x=y", "v=1", "at=1", text, "v=2", "new"), group)
		until(t, w, "a", "x")
		_ = attacker.close()
		shut(t, r)
	})
}
