package mdns

import (
	"encoding/hex"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/dns/dnsmessage"

	"github.com/protomicro/micro/runtime/registry"
)

func configured(t testing.TB) *Registry {
	t.Helper()
	r, err := configure(Config{Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func TestConfig(t *testing.T) {
	for _, tc := range []struct {
		cfg  Config
		want string
	}{
		{Config{Namespace: "sixteen-letters-"}, "Config.Namespace"},
		{Config{Namespace: "-a"}, "Config.Namespace"},
		{Config{Namespace: "A"}, "Config.Namespace"},
		{Config{Namespace: "a.b"}, "Config.Namespace"},
		{Config{TTL: MinTTL - 1}, "Config.TTL"},
		{Config{TTL: MaxTTL + 1}, "Config.TTL"},
		{Config{Interface: "no-such-interface"}, `Config.Interface "no-such-interface"`},
	} {
		if r, err := New(tc.cfg); err == nil || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%+v: %v, want %q in it", tc.cfg, err, tc.want)
			if err == nil {
				_ = r.Close(t.Context())
			}
		}
	}
	r, err := configure(Config{TTL: 3500 * time.Millisecond})
	if err != nil || r.ttl != 4*time.Second || r.typeName.String() != "_micro._tcp.local." {
		t.Errorf("TTL %v, type %v, %v", r.ttl, r.typeName, err)
	}
}

func TestMessage(t *testing.T) {
	r := configured(t)
	host := netip.MustParseAddr("192.0.2.1")
	for _, in := range []registry.Instance{
		{Service: "a.B", ID: "a", Addresses: []string{"nats:micro.i.a"}},
		{Service: "a.B", ID: "b", Version: "1\"<&>\x00\u2028", Metadata: map[string]string{"世": "界", "a": ""}, Addresses: []string{"x:1", "http://10.0.0.1:8080/a"}},
		{Service: strings.Repeat("a", 511), ID: strings.Repeat("x", 128), Version: strings.Repeat("v", 6000), Addresses: []string{"x:"}},
	} {
		rec, err := newRecord(in, 17, r.ttl)
		if err != nil {
			t.Fatal(err)
		}
		for _, ttl := range []time.Duration{r.ttl, 0} {
			packed, err := r.response(rec, host, ttl, nil)
			if err != nil {
				t.Fatal(err)
			}
			m := r.parse(packed)
			if len(m.records) != 1 || len(m.bad) > 0 || len(m.questions) > 0 {
				t.Fatalf("%.80q came back as %+v", packed, m)
			}
			got := m.records[0]
			if !got.same(rec) || !got.instance.Equal(in) || got.ttl != ttl || got.label != rec.label {
				t.Errorf("%+v came back as %+v", rec, got)
			}
		}
	}
	query, err := r.query(7)
	if err != nil {
		t.Fatal(err)
	}
	if m := r.parse(query); m.id != 7 || len(m.questions) != 1 || m.questions[0].label != "" || len(m.records) > 0 {
		t.Errorf("the question came back as %+v", m)
	}
}

// Questions of others are understood: for one instance, for its host, for anything,
// and with the answers that they know.
func TestQuestions(t *testing.T) {
	r := configured(t)
	l := label("a.B", "a")
	name := dnsmessage.MustNewName
	for _, tc := range []struct {
		q    dnsmessage.Question
		want []string // labels
	}{
		{dnsmessage.Question{Name: name("_micro._tcp.local."), Type: dnsmessage.TypePTR, Class: dnsmessage.ClassINET}, []string{""}},
		{dnsmessage.Question{Name: name("_Micro._TCP.Local."), Type: dnsmessage.TypePTR, Class: dnsmessage.ClassINET | topBit}, []string{""}},
		{dnsmessage.Question{Name: name("_micro._tcp.local."), Type: dnsmessage.TypeALL, Class: dnsmessage.ClassANY}, []string{""}},
		{dnsmessage.Question{Name: name("_micro._tcp.local."), Type: dnsmessage.TypeA, Class: dnsmessage.ClassINET}, nil},
		{dnsmessage.Question{Name: name("_micro._tcp.local."), Type: dnsmessage.TypePTR, Class: dnsmessage.ClassCHAOS}, nil},
		{dnsmessage.Question{Name: name("_other._tcp.local."), Type: dnsmessage.TypePTR, Class: dnsmessage.ClassINET}, nil},
		{dnsmessage.Question{Name: name(l + "._micro._tcp.local."), Type: dnsmessage.TypeTXT, Class: dnsmessage.ClassINET}, []string{l}},
		{dnsmessage.Question{Name: name(l + ".local."), Type: dnsmessage.TypeA, Class: dnsmessage.ClassINET}, []string{l}},
		{dnsmessage.Question{Name: name(l + ".local."), Type: dnsmessage.TypePTR, Class: dnsmessage.ClassINET}, nil},
	} {
		b := dnsmessage.NewBuilder(nil, dnsmessage.Header{})
		_ = b.StartQuestions()
		if err := b.Question(tc.q); err != nil {
			t.Fatal(err)
		}
		_ = b.StartAnswers()
		for _, known := range []struct {
			label string
			ttl   uint32
		}{{"known", 16}, {"ending", 14}} { // of a TTL of 30 seconds
			if err := b.PTRResource(dnsmessage.ResourceHeader{Name: r.typeName, Class: dnsmessage.ClassINET, TTL: known.ttl},
				dnsmessage.PTRResource{PTR: name(known.label + "." + r.typeName.String())}); err != nil {
				t.Fatal(err)
			}
		}
		packed, err := b.Finish()
		if err != nil {
			t.Fatal(err)
		}
		m := r.parse(packed)
		var got []string
		for _, q := range m.questions {
			got = append(got, q.label)
		}
		if !slices.Equal(got, tc.want) || len(m.known) != 1 || !m.known["known"] {
			t.Errorf("%v: labels %q, known %v; want %q", tc.q, got, m.known, tc.want)
		}
	}
}

// Names that are no text to this parser, and records of other types, stand in the way
// of nothing.
func TestForeignRecords(t *testing.T) {
	r := configured(t)
	rec, err := newRecord(instance("a"), 17, r.ttl)
	if err != nil {
		t.Fatal(err)
	}
	packed, err := r.response(rec, netip.MustParseAddr("192.0.2.1"), r.ttl, nil)
	if err != nil {
		t.Fatal(err)
	}
	// A record in front, of a name with a dot within a label.
	foreign := []byte("\x09Printer.1\x05local\x00\x00\x10\x80\x01\x00\x00\x00\x78\x00\x02\x01x")
	packed = slices.Concat(packed[:12], foreign, packed[12:])
	packed[7]++ // of the answers
	// The pointers of the compression are into what has moved.
	plain := false
	for i := 12 + len(foreign); i < len(packed); i++ {
		if packed[i] == 0xc0 {
			packed[i+1] += byte(len(foreign))
			plain = true
		}
	}
	if m := r.parse(packed); !plain || len(m.records) != 1 || !m.records[0].same(rec) {
		t.Errorf("behind a foreign record: %+v", m)
	}
}

// The bytes are those that docs/protocol.md shows.
func TestVector(t *testing.T) {
	r := configured(t)
	in := registry.Instance{
		Service: "greet.v1.Greeter", ID: "greeter-k3j9x2m4q7", Version: "1.0.0",
		Metadata: map[string]string{"zone": "a"}, Addresses: []string{"http:192.0.2.1:8080"},
	}
	rec, err := newRecord(in, 1767225600000000000, r.ttl)
	if err != nil {
		t.Fatal(err)
	}
	packed, err := r.response(rec, netip.MustParseAddr("192.0.2.1"), r.ttl, nil)
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join("testdata", "announcement.hex")
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	want, err := hex.DecodeString(strings.Join(strings.Fields(string(text)), ""))
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(packed, want) {
		t.Errorf("%s holds other bytes than these:\n%s", file, hex.Dump(packed))
	}
	if m := r.parse(want); len(m.records) != 1 || !m.records[0].instance.Equal(in) || m.records[0].stamp != rec.stamp {
		t.Errorf("%s is read as %+v", file, m)
	}
}

func FuzzParse(f *testing.F) {
	r := configured(f)
	rec, err := newRecord(instance("a"), 17, r.ttl)
	if err != nil {
		f.Fatal(err)
	}
	packed, err := r.response(rec, netip.MustParseAddr("192.0.2.1"), r.ttl, nil)
	if err != nil {
		f.Fatal(err)
	}
	query, err := r.query(1)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(packed)
	f.Add(query)
	f.Fuzz(func(t *testing.T, data []byte) {
		for _, rec := range r.parse(data).records {
			if err := rec.instance.Check(); err != nil {
				t.Fatalf("parse takes what Check refuses: %v", err)
			}
			if again, err := r.response(rec, netip.MustParseAddr("192.0.2.1"), rec.ttl, nil); err == nil {
				m := r.parse(again)
				if len(m.records) != 1 || !m.records[0].instance.Equal(rec.instance) {
					t.Fatalf("%+v comes back as %+v", rec, m)
				}
			}
		}
	})
}
