package mdns

import (
	"crypto/sha256"
	"encoding/base32"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"golang.org/x/net/dns/dnsmessage"

	"github.com/protomicro/micro/runtime/registry"
)

const (
	// maxPacket is what RFC 6762 allows, without the headers of IP and UDP.
	maxPacket = 9000 - 28

	recordVersion = "1"
	maxString     = 255 // of a TXT record

	legacyTTL = 10 * time.Second

	// The top bit of a class says that the record replaces older ones, and that an
	// answer may be sent to the asker alone.
	topBit = 1 << 15
)

// A record is an instance as it is heard.
type record struct {
	label    string
	stamp    int64  // when it was registered: of two, the later stands
	text     string // the instance in JSON
	ttl      time.Duration
	instance registry.Instance
}

// same says whether two are the same registration.
func (rec *record) same(other *record) bool {
	return rec.stamp == other.stamp && rec.text == other.text
}

// newer says which of two of one label stands.
func (rec *record) newer(other *record) bool {
	return rec.stamp > other.stamp || rec.stamp == other.stamp && rec.text > other.text
}

// content is a record's instance in JSON.
type content struct {
	Service   string            `json:"service"`
	ID        string            `json:"id"`
	Version   string            `json:"version,omitempty"`
	Metadata  map[string]string `json:"metadata,omitempty"`
	Addresses []string          `json:"addresses"`
}

// label is the one label that an instance's service and ID, of up to 640 bytes and
// with letters of both cases, have in DNS.
func label(service, id string) string {
	sum := sha256.Sum256([]byte(service + "/" + id))
	return strings.ToLower(base32.HexEncoding.EncodeToString(sum[:20]))
}

// newRecord makes the record of an instance.
func newRecord(in registry.Instance, stamp int64, ttl time.Duration) (*record, error) {
	text, err := json.Marshal(content{in.Service, in.ID, in.Version, in.Metadata, in.Addresses})
	if err != nil {
		return nil, err
	}
	return &record{label: label(in.Service, in.ID), stamp: stamp, text: string(text), ttl: ttl, instance: in}, nil
}

// strings are those of the record's TXT record.
func (rec *record) strings() []string {
	all := []string{"v=" + recordVersion, "at=" + strconv.FormatInt(rec.stamp, 10)}
	for i, rest := 0, rec.text; rest != ""; i++ {
		key := strconv.Itoa(i) + "="
		n := min(len(rest), maxString-len(key))
		all = append(all, key+rest[:n])
		rest = rest[n:]
	}
	return all
}

// parseStrings is the reverse.
func parseStrings(name string, all []string, ttl time.Duration) (*record, error) {
	values := make(map[string]string, len(all))
	for _, s := range all {
		key, value, _ := strings.Cut(s, "=")
		if _, known := values[key]; !known { // RFC 6763: the first one counts
			values[key] = value
		}
	}
	if v := values["v"]; v != recordVersion {
		return nil, fmt.Errorf("version %.20q of the TXT record is not known, only %s", v, recordVersion)
	}
	stamp, err := strconv.ParseInt(values["at"], 10, 64)
	if err != nil {
		return nil, fmt.Errorf("the time of the registration: %w", err)
	}
	var text strings.Builder
	for i := range all {
		part, ok := values[strconv.Itoa(i)]
		if !ok {
			break
		}
		text.WriteString(part)
	}
	var c content
	if err := json.Unmarshal([]byte(text.String()), &c); err != nil {
		return nil, err
	}
	in := registry.Instance{Service: c.Service, ID: c.ID, Version: c.Version, Metadata: c.Metadata, Addresses: c.Addresses}
	if err := in.Check(); err != nil {
		return nil, err
	}
	if want := label(in.Service, in.ID); want != name {
		return nil, fmt.Errorf("instance %s of %s is named %s, and not %.80s", in.ID, in.Service, want, name)
	}
	return &record{label: name, stamp: stamp, text: text.String(), ttl: ttl, instance: in}, nil
}

// response is the packet that states a record: to the group, with a TTL of zero as a
// goodbye, or as the answer to a legacy question.
func (r *Registry) response(rec *record, host netip.Addr, ttl time.Duration, legacy *question) ([]byte, error) {
	named, err := dnsmessage.NewName(rec.label + "." + r.typeName.String())
	if err != nil {
		return nil, err
	}
	hosted, err := dnsmessage.NewName(rec.label + ".local.")
	if err != nil {
		return nil, err
	}
	unique := dnsmessage.ClassINET | topBit
	head := dnsmessage.Header{Response: true, Authoritative: true}
	if legacy != nil {
		// The asker may be a plain resolver.
		unique, head.ID, ttl = dnsmessage.ClassINET, legacy.id, min(ttl, legacyTTL)
	}
	b := dnsmessage.NewBuilder(make([]byte, 0, 512), head)
	b.EnableCompression()
	if legacy != nil {
		if err := errors.Join(b.StartQuestions(), b.Question(legacy.Question)); err != nil {
			return nil, err
		}
	}
	of := func(name dnsmessage.Name, class dnsmessage.Class) dnsmessage.ResourceHeader {
		return dnsmessage.ResourceHeader{Name: name, Class: class, TTL: uint32(ttl / time.Second)}
	}
	err = errors.Join(
		b.StartAnswers(),
		b.PTRResource(of(r.typeName, dnsmessage.ClassINET), dnsmessage.PTRResource{PTR: named}),
		b.TXTResource(of(named, unique), dnsmessage.TXTResource{TXT: rec.strings()}),
		b.SRVResource(of(named, unique), dnsmessage.SRVResource{Port: servicePort(rec.instance), Target: hosted}),
		b.AResource(of(hosted, unique), dnsmessage.AResource{A: host.As4()}),
	)
	if err != nil {
		return nil, err
	}
	packed, err := b.Finish()
	if err == nil && len(packed) > maxPacket {
		err = fmt.Errorf("%d bytes are over the limit of %d of one multicast DNS packet (put less into its metadata)", len(packed), maxPacket)
	}
	return packed, err
}

// servicePort is the port of the first address that has one, for other programs that
// show what there is; ours read the addresses.
func servicePort(in registry.Instance) uint16 {
	for _, a := range in.Addresses {
		_, rest, _ := strings.Cut(a, ":")
		rest, _, _ = strings.Cut(strings.TrimPrefix(rest, "//"), "/")
		if _, port, err := net.SplitHostPort(rest); err == nil {
			if n, err := strconv.ParseUint(port, 10, 16); err == nil {
				return uint16(n)
			}
		}
	}
	return 0
}

// query is the packet that asks for all instances.
func (r *Registry) query(id uint16) ([]byte, error) {
	b := dnsmessage.NewBuilder(make([]byte, 0, 64), dnsmessage.Header{ID: id})
	err := errors.Join(
		b.StartQuestions(),
		b.Question(dnsmessage.Question{Name: r.typeName, Type: dnsmessage.TypePTR, Class: dnsmessage.ClassINET}),
	)
	if err != nil {
		return nil, err
	}
	return b.Finish()
}

// A question is one that this registry may have an answer to.
type question struct {
	dnsmessage.Question
	id    uint16
	label string // empty where it is for all instances
}

// A message is what matters of a packet.
type message struct {
	id        uint16
	questions []question
	known     map[string]bool // labels that the asker knows, and will for some time
	records   []*record
	bad       map[string]error // why what is under the type is not an instance, by label
}

// parse reads a packet. What cannot be of interest is passed over, and so is the rest
// of a packet that is damaged.
func (r *Registry) parse(data []byte) message {
	m := message{known: make(map[string]bool), bad: make(map[string]error)}
	var p dnsmessage.Parser
	head, err := p.Start(data)
	if err != nil || head.OpCode != 0 || head.RCode != 0 {
		return m
	}
	m.id = head.ID
	for {
		q, err := p.Question()
		if errors.Is(err, dnsmessage.ErrSectionDone) {
			break
		}
		if err != nil {
			return m
		}
		if head.Response {
			continue
		}
		class := q.Class &^ topBit
		if class != dnsmessage.ClassINET && class != dnsmessage.ClassANY {
			continue
		}
		switch l, of := r.labelOf(q.Name); {
		case of && l != "", !of && l != "" && (q.Type == dnsmessage.TypeA || q.Type == dnsmessage.TypeALL):
			m.questions = append(m.questions, question{q, m.id, l})
		case of && (q.Type == dnsmessage.TypePTR || q.Type == dnsmessage.TypeALL):
			m.questions = append(m.questions, question{q, m.id, ""})
		}
	}
	section := func(header func() (dnsmessage.ResourceHeader, error), skip func() error) error {
		for {
			h, err := header()
			if errors.Is(err, dnsmessage.ErrSectionDone) {
				return nil
			}
			read := false
			if err == nil { // otherwise a name that is text to others
				if read, err = r.parseResource(&m, &p, head.Response, h); err != nil {
					return err
				}
			}
			if !read {
				if err := skip(); err != nil {
					return err
				}
			}
		}
	}
	if section(p.AnswerHeader, p.SkipAnswer) == nil && head.Response && p.SkipAllAuthorities() == nil {
		_ = section(p.AdditionalHeader, p.SkipAdditional)
	}
	return m
}

// parseResource reads one resource whose header was read, if it is of interest.
func (r *Registry) parseResource(m *message, p *dnsmessage.Parser, response bool, h dnsmessage.ResourceHeader) (read bool, err error) {
	l, of := r.labelOf(h.Name)
	if !of || h.Class&^topBit != dnsmessage.ClassINET {
		return false, nil
	}
	ttl := min(time.Duration(h.TTL)*time.Second, MaxTTL)
	switch {
	case response && l != "" && h.Type == dnsmessage.TypeTXT:
		res, err := p.TXTResource()
		if err != nil {
			return false, err
		}
		if rec, bad := parseStrings(l, res.TXT, ttl); bad != nil {
			m.bad[l] = bad
		} else {
			m.records = append(m.records, rec)
		}
		return true, nil
	case !response && l == "" && h.Type == dnsmessage.TypePTR:
		res, err := p.PTRResource()
		if err != nil {
			return false, err
		}
		if known, of := r.labelOf(res.PTR); of && ttl >= r.ttl/2 {
			m.known[known] = true
		}
		return true, nil
	}
	return false, nil
}

// labelOf is what a name has before the type's, or before ".local." where it is not
// of the type.
func (r *Registry) labelOf(name dnsmessage.Name) (label string, of bool) {
	text := strings.ToLower(name.String())
	if before, of := strings.CutSuffix(text, r.typeName.String()); of {
		label, dotted := strings.CutSuffix(before, ".")
		return label, dotted || before == ""
	}
	label, _ = strings.CutSuffix(text, ".local.")
	return label, false
}
