package e2e_test

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base32"
	"errors"
	"net"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"
	"golang.org/x/net/ipv4"

	"github.com/protomicro/micro/runtime/registry"
	"github.com/protomicro/micro/runtime/registry/mdns"
)

var mdnsGroup = &net.UDPAddr{IP: net.IPv4(224, 0, 0, 251), Port: 5353}

// newMDNSRegistry makes a registry on the loopback interface, which is the default.
func newMDNSRegistry(t *testing.T, cfg mdns.Config) *mdns.Registry {
	t.Helper()
	cfg.Logger = quiet()
	r, err := mdns.New(cfg)
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

func mdnsNamespace() string { return "e-" + strings.ToLower(rand.Text()[:12]) }

// listenMDNS hears what is sent to the group on the loopback interface, and no other.
func listenMDNS(t *testing.T) (*net.UDPConn, *net.Interface) {
	t.Helper()
	all, err := net.Interfaces()
	if err != nil {
		t.Fatal(err)
	}
	i := slices.IndexFunc(all, func(ifi net.Interface) bool { return ifi.Flags&net.FlagLoopback != 0 })
	if i < 0 {
		t.Fatal("there is no loopback interface")
	}
	conn, err := net.ListenMulticastUDP("udp4", &all[i], mdnsGroup)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return conn, &all[i]
}

// hear waits for a message that another implementation of DNS reads as wanted.
func hear(t *testing.T, conn *net.UDPConn, ok func(*dns.Msg) bool) *dns.Msg {
	t.Helper()
	if err := conn.SetReadDeadline(time.Now().Add(time.Minute)); err != nil {
		t.Fatal(err)
	}
	for buf := make([]byte, 9000); ; {
		n, err := conn.Read(buf)
		if err != nil {
			t.Fatal(err)
		}
		m := new(dns.Msg)
		if err := m.Unpack(buf[:n]); err == nil && ok(m) {
			return m
		}
	}
}

// The records are those of docs/protocol.md, for other programs too.
func TestMDNSWire(t *testing.T) {
	t.Parallel()
	conn, loopback := listenMDNS(t)
	namespace := mdnsNamespace()
	typeName := "_" + namespace + "._tcp.local."
	r := newMDNSRegistry(t, mdns.Config{Namespace: namespace, TTL: time.Minute})
	in := registry.Instance{
		Service: "greet.v1.Greeter", ID: "A", Version: "1.0.0",
		Metadata:  map[string]string{"long": strings.Repeat("x", 300)},
		Addresses: []string{"nats:micro.i.a", "http:127.0.0.1:8080"},
	}
	reg := register(t, r, in)

	sum := sha256.Sum256([]byte("greet.v1.Greeter/A"))
	label := strings.ToLower(base32.HexEncoding.EncodeToString(sum[:20]))
	text := `{"service":"greet.v1.Greeter","id":"A","version":"1.0.0","metadata":{"long":"` + strings.Repeat("x", 300) +
		`"},"addresses":["nats:micro.i.a","http:127.0.0.1:8080"]}`
	check := func(m *dns.Msg, ttl uint32, class uint16) {
		t.Helper()
		if !m.Response || !m.Authoritative || len(m.Answer) != 4 {
			t.Fatalf("not an answer with four records: %v", m)
		}
		ptr, srv := m.Answer[0].(*dns.PTR), m.Answer[2].(*dns.SRV)
		txt, a := m.Answer[1].(*dns.TXT), m.Answer[3].(*dns.A)
		if ptr.Hdr.Name != typeName || ptr.Hdr.Class != dns.ClassINET || ptr.Ptr != label+"."+typeName {
			t.Errorf("PTR: %v", ptr)
		}
		if srv.Hdr.Name != ptr.Ptr || srv.Port != 8080 || srv.Target != label+".local." {
			t.Errorf("SRV: %v", srv)
		}
		if a.Hdr.Name != srv.Target || !a.A.Equal(net.IPv4(127, 0, 0, 1)) {
			t.Errorf("A: %v", a)
		}
		if len(txt.Txt) != 4 || txt.Txt[0] != "v=1" || !strings.HasPrefix(txt.Txt[1], "at=") || txt.Txt[2] != "0="+strings.ReplaceAll(text[:253], `"`, `\"`) || txt.Txt[3] != "1="+strings.ReplaceAll(text[253:], `"`, `\"`) {
			t.Errorf("TXT: %q", txt.Txt)
		}
		for _, rr := range m.Answer {
			if rr.Header().Ttl != ttl || rr != m.Answer[0] && rr.Header().Class != class {
				t.Errorf("TTL or class: %v", rr)
			}
		}
	}
	const flush = dns.ClassINET | 1<<15
	ours := func(m *dns.Msg) bool { return len(m.Answer) > 0 && m.Answer[0].Header().Name == typeName }
	check(hear(t, conn, ours), 60, flush)

	// A resolver that does not listen to the group is answered by itself.
	resolver, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = resolver.Close() })
	if err := ipv4.NewPacketConn(resolver).SetMulticastInterface(loopback); err != nil {
		t.Fatal(err)
	}
	q := new(dns.Msg).SetQuestion(typeName, dns.TypePTR)
	packed, err := q.Pack()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := resolver.WriteToUDP(packed, mdnsGroup); err != nil {
		t.Fatal(err)
	}
	answer := hear(t, resolver, ours)
	check(answer, 10, dns.ClassINET)
	if answer.Id != q.Id || len(answer.Question) != 1 || answer.Question[0] != q.Question[0] {
		t.Errorf("the answer does not repeat the question: %v", answer)
	}

	if err := reg.Close(within(t)); err != nil {
		t.Error(err)
	}
	check(hear(t, conn, func(m *dns.Msg) bool { return ours(m) && m.Answer[0].Header().Ttl == 0 }), 0, flush)
}

// What other programs state in that form is found.
func TestMDNSForeign(t *testing.T) {
	t.Parallel()
	conn, loopback := listenMDNS(t)
	if err := ipv4.NewPacketConn(conn).SetMulticastInterface(loopback); err != nil {
		t.Fatal(err)
	}
	namespace := mdnsNamespace()
	r := newMDNSRegistry(t, mdns.Config{Namespace: namespace})
	w := watch(t, r, "a.B")
	if s := next(t, w); len(s.Instances) > 0 || s.Stale {
		t.Errorf("at first: %+v", s)
	}
	sum := sha256.Sum256([]byte("a.B/x"))
	name := strings.ToUpper(base32.HexEncoding.EncodeToString(sum[:20])) + "._" + namespace + "._TCP.local."
	say := func(ttl uint32) {
		t.Helper()
		m := &dns.Msg{MsgHdr: dns.MsgHdr{Response: true, Authoritative: true}}
		m.Extra = []dns.RR{&dns.TXT{
			Hdr: dns.RR_Header{Name: name, Rrtype: dns.TypeTXT, Class: dns.ClassINET | 1<<15, Ttl: ttl},
			Txt: []string{"new=key", "v=1", "at=1", `0={"service":"a.B","id":"x","new":[1],"addre`, `1=sses":["test:x"]}`},
		}}
		packed, err := m.Pack()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := conn.WriteToUDP(packed, mdnsGroup); err != nil {
			t.Fatal(err)
		}
	}
	say(4500)
	s := untilIDs(t, w, "x")
	if want := (registry.Instance{Service: "a.B", ID: "x", Addresses: []string{"test:x"}}); !s.Instances[0].Equal(want) {
		t.Errorf("found %+v", s.Instances[0])
	}
	say(0)
	untilIDs(t, w)
}

// Two processes on one machine need no configuration; and no other interface has
// anything to do with it.
func TestMDNSLoopbackOnly(t *testing.T) {
	members := func() string {
		text, err := os.ReadFile("/proc/net/igmp")
		if errors.Is(err, os.ErrNotExist) {
			t.Skip("this system does not tell which interfaces are in which groups")
		}
		if err != nil {
			t.Fatal(err)
		}
		device, others := "", ""
		for line := range strings.Lines(string(text)) {
			if fields := strings.Fields(line); len(fields) > 2 && fields[2] == ":" {
				device = fields[1]
			} else if device != "lo" && strings.Contains(line, "FB0000E0") {
				others += device + " "
			}
		}
		return others
	}
	before := members()
	namespace := mdnsNamespace()
	a, b := newMDNSRegistry(t, mdns.Config{Namespace: namespace}), newMDNSRegistry(t, mdns.Config{Namespace: namespace})
	register(t, a, instance("a"))
	register(t, b, instance("b"))
	untilIDs(t, watch(t, a, service), "a", "b")
	untilIDs(t, watch(t, b, service), "a", "b")
	if after := members(); after != before {
		t.Errorf("interfaces in the group, besides lo: %q before and %q after", before, after)
	}
	names, err := newMDNSRegistry(t, mdns.Config{Namespace: namespace}).Services(within(t))
	if err != nil || !slices.Equal(names, []string{service}) {
		t.Errorf("Services: %q, %v", names, err)
	}
	if names, err := newMDNSRegistry(t, mdns.Config{Namespace: mdnsNamespace()}).Services(within(t)); err != nil || len(names) > 0 {
		t.Errorf("Services of another namespace: %q, %v", names, err)
	}
}
