package e2e_test

import (
	"context"
	"fmt"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	mdns "github.com/miekg/dns"

	"github.com/protomicro/micro/runtime/registry"
	"github.com/protomicro/micro/runtime/registry/dns"
	"github.com/protomicro/micro/runtime/registry/registrytest"
)

const zone = "test.example."

// A nameServer is a DNS server on 127.0.0.1, over UDP and TCP.
type nameServer struct {
	addr string

	mu      sync.Mutex
	records map[string][]mdns.RR
	silent  bool // drops questions
	refuses bool // answers them with SERVFAIL
	asked   int
	overTCP int
}

func startNameServer(t *testing.T) *nameServer {
	t.Helper()
	s := &nameServer{records: make(map[string][]mdns.RR)}
	udp, tcp := listenBoth(t)
	s.addr = udp.LocalAddr().String()
	var running sync.WaitGroup
	t.Cleanup(running.Wait) // after the servers are told to stop
	for _, server := range []*mdns.Server{
		{PacketConn: udp, Handler: s},
		{Listener: tcp, Handler: s},
	} {
		ready := make(chan struct{})
		server.NotifyStartedFunc = func() { close(ready) }
		running.Go(func() {
			if err := server.ActivateAndServe(); err != nil {
				t.Errorf("DNS server: %v", err)
			}
		})
		<-ready
		t.Cleanup(func() {
			if err := server.Shutdown(); err != nil {
				t.Errorf("stop the DNS server: %v", err)
			}
		})
	}
	return s
}

// listenBoth listens on one port for UDP and TCP.
func listenBoth(t *testing.T) (net.PacketConn, net.Listener) {
	t.Helper()
	for range 20 {
		tcp, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		if udp, err := net.ListenPacket("udp", tcp.Addr().String()); err == nil {
			return udp, tcp
		}
		_ = tcp.Close() // somebody else has that port
	}
	t.Fatal("no port is free for both UDP and TCP")
	return nil, nil
}

func (s *nameServer) set(change func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	change()
}

// put makes the records of a service those of these targets.
func (s *nameServer) put(service string, ttl uint32, targets ...string) {
	name := "_" + strings.ToLower(strings.ReplaceAll(service, ".", "-")) + "._tcp." + zone
	var records []mdns.RR
	for i, target := range targets {
		records = append(records, &mdns.SRV{
			Hdr:      mdns.RR_Header{Name: name, Rrtype: mdns.TypeSRV, Class: mdns.ClassINET, Ttl: ttl},
			Priority: 1, Weight: uint16(i), Port: 8080, Target: target + "." + zone,
		})
	}
	s.set(func() { s.records[name] = records })
}

func (s *nameServer) ServeDNS(w mdns.ResponseWriter, q *mdns.Msg) {
	s.mu.Lock()
	s.asked++
	silent, refuses := s.silent, s.refuses
	records := s.records[strings.ToLower(q.Question[0].Name)]
	s.mu.Unlock()
	if silent {
		return
	}
	m := new(mdns.Msg)
	m.SetReply(q)
	m.Authoritative = true
	switch {
	case refuses:
		m.Rcode = mdns.RcodeServerFailure
	case len(records) == 0:
		m.Rcode = mdns.RcodeNameError
	case q.Question[0].Qtype == mdns.TypeSRV:
		m.Answer = records
	}
	if w.LocalAddr().Network() == "udp" {
		size := mdns.MinMsgSize
		if opt := q.IsEdns0(); opt != nil {
			size = int(opt.UDPSize())
		}
		m.Truncate(size)
	} else {
		s.set(func() { s.overTCP++ })
	}
	_ = w.WriteMsg(m)
}

// resolver is the standard library's, with this server as the only one.
func (s *nameServer) resolver() *net.Resolver {
	return &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, network, _ string) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, network, s.addr)
	}}
}

// A ttlResolver asks the server itself, which tells the TTL.
type ttlResolver struct {
	*net.Resolver
	server *nameServer
}

func (r ttlResolver) LookupSRVTTL(ctx context.Context, name string) (records []*net.SRV, ttl time.Duration, err error) {
	q := new(mdns.Msg)
	q.SetQuestion(name, mdns.TypeSRV)
	res, _, err := new(mdns.Client).ExchangeContext(ctx, q, r.server.addr)
	if err != nil {
		return nil, 0, err
	}
	if res.Rcode != mdns.RcodeSuccess {
		return nil, 0, &net.DNSError{Err: mdns.RcodeToString[res.Rcode], Name: name, IsNotFound: res.Rcode == mdns.RcodeNameError}
	}
	for _, rr := range res.Answer {
		if srv, ok := rr.(*mdns.SRV); ok {
			records = append(records, &net.SRV{Target: srv.Target, Port: srv.Port, Priority: srv.Priority, Weight: srv.Weight})
			ttl = time.Duration(srv.Hdr.Ttl) * time.Second
		}
	}
	return records, ttl, nil
}

func newDNSRegistry(t *testing.T, cfg dns.Config) *dns.Registry {
	t.Helper()
	cfg.Scheme, cfg.Domain, cfg.Logger = "http", zone, quiet()
	if cfg.Interval == 0 {
		cfg.Interval = 20 * time.Millisecond
	}
	r, err := dns.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := r.Close(context.Background()); err != nil {
			t.Errorf("Close: %v", err)
		}
	})
	return r
}

func TestDNSConformance(t *testing.T) {
	t.Parallel()
	registrytest.RunReadOnly(t, func(t *testing.T) registrytest.ReadOnlyTarget {
		server := startNameServer(t)
		r := newDNSRegistry(t, dns.Config{Resolver: server.resolver()})
		return registrytest.ReadOnlyTarget{
			Registry: r,
			Set: func(service string, n int) {
				var targets []string
				for i := range n {
					targets = append(targets, fmt.Sprint("host-", i))
				}
				server.put(service, 0, targets...)
			},
			Close: r.Close,
			// A silent server would do as well, after the ten seconds that the standard
			// library waits for one.
			SetReachable: func(ok bool) { server.set(func() { server.refuses = !ok }) },
		}
	})
}

func TestDNSRecords(t *testing.T) {
	t.Parallel()
	server := startNameServer(t)
	r := newDNSRegistry(t, dns.Config{Resolver: server.resolver()})
	server.put("greet.v1.Greeter", 60, "Host-a", "host-b")
	w := watch(t, r, "greet.v1.Greeter")
	s := untilIDs(t, w, "host-a_test_example-8080", "host-b_test_example-8080")
	want := registry.Instance{
		Service: "greet.v1.Greeter", ID: "host-b_test_example-8080",
		Metadata:  map[string]string{"priority": "1", "weight": "1"},
		Addresses: []string{"http:host-b.test.example:8080"},
	}
	if !s.Instances[1].Equal(want) {
		t.Errorf("read %+v, want %+v", s.Instances[1], want)
	}

	// More than one UDP packet holds.
	const n = 200
	var targets, ids []string
	for i := range n {
		targets = append(targets, fmt.Sprintf("host-%03d", i))
		ids = append(ids, fmt.Sprintf("host-%03d_test_example-8080", i))
	}
	server.put("greet.v1.Greeter", 60, targets...)
	untilIDs(t, w, ids...)
	server.set(func() {
		if server.overTCP == 0 {
			t.Error("nothing was asked over TCP")
		}
	})
}

// The server is there but says nothing. Close does not wait for it.
func TestDNSSilence(t *testing.T) {
	t.Parallel()
	server := startNameServer(t)
	r := newDNSRegistry(t, dns.Config{Resolver: server.resolver()})
	server.put(service, 60, "host-a")
	w := watch(t, r, service)
	untilIDs(t, w, "host-a_test_example-8080")
	server.set(func() { server.silent = true })
	s := until(t, w, "stale", func(s registry.Snapshot) bool { return s.Stale })
	if len(s.Instances) != 1 || !strings.Contains(s.Err.Error(), "_repair-v1-service._tcp.test.example.") {
		t.Errorf("stale snapshot: %+v", s)
	}
	if err := r.Close(within(t)); err != nil {
		t.Error(err)
	}
}

// A TTL that the resolver tells is what the registry waits for.
func TestDNSTTL(t *testing.T) {
	t.Parallel()
	server := startNameServer(t)
	r := newDNSRegistry(t, dns.Config{Resolver: ttlResolver{server.resolver(), server}, Interval: time.Hour})
	server.put(service, 1, "host-a")
	w := watch(t, r, service)
	s := next(t, w)
	server.put(service, 3600, "host-b") // seen after a second, and not after an hour
	if s := until(t, w, "the other host", func(s registry.Snapshot) bool { return !slices.Equal(ids(s), []string{"host-a_test_example-8080"}) }); ids(s)[0] != "host-b_test_example-8080" {
		t.Errorf("after %+v: %+v", s, s)
	}
	if len(s.Instances) != 1 {
		t.Errorf("the first snapshot: %+v", s)
	}
}
