package dns

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/protomicro/micro/runtime/registry"
	"github.com/protomicro/micro/runtime/status"
)

// What needs a DNS server is tested in e2e/registry.

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// A script answers with what it is told, at the time that synctest has.
type script struct {
	mu      sync.Mutex
	records []*net.SRV
	ttl     time.Duration
	err     error
	asked   []time.Time
	name    string
}

func (s *script) LookupSRV(ctx context.Context, service, proto, name string) (string, []*net.SRV, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.asked, s.name = append(s.asked, time.Now()), service+proto+name
	return name, s.records, s.err
}

// say makes the answers others.
func (s *script) say(err error, records ...*net.SRV) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.err, s.records = err, records
}

// times are those of the questions so far.
func (s *script) times() []time.Time {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.asked)
}

type ttlScript struct{ *script }

func (s ttlScript) LookupSRVTTL(ctx context.Context, name string) ([]*net.SRV, time.Duration, error) {
	_, records, err := s.LookupSRV(ctx, "", "", name)
	return records, s.ttl, err
}

func open(t *testing.T, cfg Config) *Registry {
	t.Helper()
	if cfg.Scheme == "" {
		cfg.Scheme = "http"
	}
	if cfg.Domain == "" && cfg.Name == nil {
		cfg.Domain = "example.com"
	}
	cfg.Logger = slog.New(slog.DiscardHandler)
	r, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := r.Close(context.Background()); err != nil {
			t.Error(err)
		}
	})
	return r
}

func TestConfig(t *testing.T) {
	name := func(string) string { return "x" }
	for _, tc := range []struct {
		cfg  Config
		want string
	}{
		{Config{Domain: "example.com"}, "Config.Scheme"},
		{Config{Scheme: "http:", Domain: "example.com"}, "Config.Scheme"},
		{Config{Scheme: "http"}, "Config.Domain"},
		{Config{Scheme: "http", Domain: "a..b"}, "empty"},
		{Config{Scheme: "http", Domain: "a b"}, "printable"},
		{Config{Scheme: "http", Domain: "example.com", Name: name}, "both"},
		{Config{Scheme: "http", Domain: "example.com", Interval: time.Millisecond}, "Config.Interval"},
	} {
		if _, err := New(tc.cfg); err == nil || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%+v: %v, want %q in it", tc.cfg, err, tc.want)
		}
	}
	r := open(t, Config{})
	if r.cfg.Interval != DefaultInterval || r.cfg.Resolver != net.DefaultResolver {
		t.Errorf("defaults: %+v", r.cfg)
	}
}

func TestNames(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, tc := range []struct {
			cfg           Config
			service, want string
		}{
			{Config{Domain: "example.com"}, "greet.v1.Greeter", "_greet-v1-greeter._tcp.example.com."},
			{Config{Domain: "example.com."}, "a_b.C", "_a_b-c._tcp.example.com."},
			{Config{Name: func(service string) string { return service + ".service.consul" }}, "a.B", "a.B.service.consul."},
		} {
			asked := &script{}
			tc.cfg.Resolver = asked
			r := open(t, tc.cfg)
			w, err := r.Watch(t.Context(), tc.service)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := w.Next(t.Context()); err != nil || asked.name != tc.want {
				t.Errorf("%s: asked for %q, %v, want %q", tc.service, asked.name, err, tc.want)
			}
			_ = w.Close()
		}
		r := open(t, Config{Resolver: &script{}})
		if _, err := r.Watch(t.Context(), strings.Repeat("a", 63)); err == nil || !strings.Contains(err.Error(), "Config.Name") {
			t.Errorf("a service whose label is too long: %v", err)
		}
	})
}

func TestInstances(t *testing.T) {
	long := strings.Repeat(strings.Repeat("a", 60)+".", 4) + "example.com."
	all, bad := instances("a.B", "http", []*net.SRV{
		{Target: "Host-1.example.com.", Port: 8080, Priority: 1, Weight: 10},
		{Target: "host-1.example.com.", Port: 8080, Priority: 2, Weight: 20},
		{Target: "host-1.example.com.", Port: 8081, Priority: 2, Weight: 20},
		{Target: ".", Port: 80},
		{Target: "noport.example.com."},
		{Target: "a_b.example.com.", Port: 1},
		{Target: "a.b.example.com.", Port: 1},
		{Target: long, Port: 1},
		{Target: "b." + long, Port: 1},
	})
	if len(bad) != 1 || !strings.Contains(bad[0].Error(), "noport.example.com has no port") {
		t.Errorf("bad records: %v", bad)
	}
	if len(all) != 6 {
		t.Fatalf("%d instances: %+v", len(all), all)
	}
	for i, in := range all {
		if err := in.Check(); err != nil {
			t.Error(err)
		}
		if i > 0 && in.ID <= all[i-1].ID {
			t.Errorf("%s comes after %s", in.ID, all[i-1].ID)
		}
	}
	var one registry.Instance
	for _, in := range all {
		if in.ID == "host-1_example_com-8080" {
			one = in
		}
	}
	want := registry.Instance{
		Service: "a.B", ID: "host-1_example_com-8080",
		Metadata:  map[string]string{"priority": "1", "weight": "10"},
		Addresses: []string{"http:host-1.example.com:8080"},
	}
	if !reflect.DeepEqual(one, want) {
		t.Errorf("%+v, want %+v", one, want)
	}
}

func TestPolling(t *testing.T) {
	srv := []*net.SRV{{Target: "a.example.com.", Port: 1}}
	for name, tc := range map[string]struct {
		ttl      time.Duration // negative: not told
		min, max time.Duration
	}{
		"no TTL":                          {-1, 27 * time.Second, 33 * time.Second},
		"a TTL longer than the interval":  {time.Hour, 27 * time.Second, 33 * time.Second},
		"a TTL shorter than the interval": {10 * time.Second, 10 * time.Second, 11 * time.Second},
		"no TTL at all":                   {0, time.Second, 1100 * time.Millisecond},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				answers := &script{records: srv, ttl: tc.ttl}
				var resolver Resolver = answers
				if tc.ttl >= 0 {
					resolver = ttlScript{answers}
				}
				r := open(t, Config{Resolver: resolver})
				w, err := r.Watch(t.Context(), "a.B")
				if err != nil {
					t.Fatal(err)
				}
				time.Sleep(10 * time.Minute)
				if err := w.Close(); err != nil {
					t.Fatal(err)
				}
				synctest.Wait()
				asked := answers.times()
				n := len(asked)
				for i := 1; i < n; i++ {
					if d := asked[i].Sub(asked[i-1]); d < tc.min || d > tc.max {
						t.Fatalf("asked again after %v, want %v to %v", d, tc.min, tc.max)
					}
				}
				time.Sleep(10 * time.Minute)
				if after := len(answers.times()) - n; n < 10 || after != 0 {
					t.Errorf("asked %d times while watched, %d times after", n, after)
				}
			})
		})
	}
}

// What was last known stays while there is no answer, and a name that does not exist
// is an answer.
func TestFailures(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		answers := &script{records: []*net.SRV{{Target: "a.example.com.", Port: 1}}}
		r := open(t, Config{Resolver: answers})
		w, err := r.Watch(t.Context(), "a.B")
		if err != nil {
			t.Fatal(err)
		}
		defer w.Close()
		next := func() registry.Snapshot {
			t.Helper()
			s, err := w.Next(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			return s
		}
		if s := next(); s.Stale || len(s.Instances) != 1 {
			t.Errorf("at first: %+v", s)
		}
		last := answers.times()[0]

		outage := &net.DNSError{Err: "server misbehaving", Name: "x", IsTemporary: true}
		answers.say(outage)
		s := next()
		if !s.Stale || len(s.Instances) != 1 || !s.Since.Equal(last) || !errors.Is(s.Err, outage) || !strings.Contains(s.Err.Error(), "_a-b._tcp.example.com. of a.B") {
			t.Errorf("in an outage: %+v, want it to be stale since %v", s, last)
		}
		begun := len(answers.times())
		time.Sleep(20 * time.Minute)
		asked := answers.times()
		if n := len(asked) - begun; n < 40 || n > 90 {
			t.Errorf("asked %d times within 20 minutes of an outage", n)
		}
		if d := asked[begun].Sub(asked[begun-1]); d > time.Second {
			t.Errorf("asked again %v after the first failure", d)
		}

		answers.say(&net.DNSError{Err: "no such host", Name: "x", IsNotFound: true})
		if s := next(); s.Stale || s.Err != nil || len(s.Instances) != 0 {
			t.Errorf("a name that does not exist: %+v", s)
		}
		// net.Resolver returns what is valid beside an error that says what is not.
		answers.say(outage, &net.SRV{Target: "b.example.com.", Port: 1})
		if s := next(); s.Stale || len(s.Instances) != 1 {
			t.Errorf("some records beside an error: %+v", s)
		}
	})
}

func TestReadOnly(t *testing.T) {
	r := open(t, Config{Resolver: &script{}})
	_, err := r.Register(t.Context(), registry.Instance{Service: "a.B", ID: "a", Addresses: []string{"http:x"}})
	if status.CodeOf(err) != status.Unimplemented || !strings.Contains(err.Error(), "_a-b._tcp.example.com.") {
		t.Errorf("Register: %v", err)
	}
	if _, err := r.Services(t.Context()); status.CodeOf(err) != status.Unimplemented {
		t.Errorf("Services: %v", err)
	}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := r.Services(ended); !errors.Is(err, context.Canceled) {
		t.Errorf("Services under an ended context: %v", err)
	}
	if _, err := r.Watch(ended, "a.B"); !errors.Is(err, context.Canceled) {
		t.Errorf("Watch under an ended context: %v", err)
	}
}
