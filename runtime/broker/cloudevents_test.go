package broker

import (
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/protomicro/micro/runtime/metadata"
	"github.com/protomicro/micro/runtime/status"
)

func headersOf(m *Message) [][2]string {
	var hs [][2]string
	for k, v := range m.Headers() {
		hs = append(hs, [2]string{k, v})
	}
	return hs
}

func TestHeaders(t *testing.T) {
	m := &Message{
		Topic: "dead.shipping.orders.eu", ID: "1", Source: "shop/é", Type: "order.v1.OrderPlaced",
		Time: time.Date(2026, 1, 2, 3, 4, 5, 600, time.FixedZone("", 3600)), Key: `a "b" 100%`, ContentType: ContentTypeJSON,
		Metadata: metadata.Pairs("Trace", "x y", "raw-bin", "\x00 %"),
		DeadLetter: &DeadLetter{
			Topic: "orders.eu", Group: "shipping", Reason: "no\nstock", Attempts: 5, Time: time.Date(2026, 1, 2, 3, 4, 6, 0, time.UTC),
		},
	}
	want := [][2]string{
		{"ce-specversion", "1.0"},
		{"ce-id", "1"},
		{"ce-source", "shop/%C3%A9"},
		{"ce-type", "order.v1.OrderPlaced"},
		{"ce-time", "2026-01-02T02:04:05.0000006Z"},
		{"ce-datacontenttype", "application/json"},
		{"ce-partitionkey", "a%20%22b%22%20100%25"},
		{"ce-deadtopic", "orders.eu"},
		{"ce-deadgroup", "shipping"},
		{"ce-deadreason", "no%0Astock"},
		{"ce-deadattempts", "5"},
		{"ce-deadtime", "2026-01-02T03:04:06Z"},
		{"trace", "x y"},
		{"raw-bin", "%00%20%25"},
	}
	if got := headersOf(m); !reflect.DeepEqual(got, want) {
		t.Errorf("got  %q\nwant %q", got, want)
	}
	if got := headersOf(&Message{}); !reflect.DeepEqual(got, [][2]string{{"ce-specversion", "1.0"}}) {
		t.Errorf("got %q for no attributes", got)
	}
}

func TestSetHeader(t *testing.T) {
	var m Message
	for _, h := range [][2]string{
		{"Ce-Specversion", "1.0"}, {"CE-ID", "a%20b"}, {"ce-source", `"/quoted \"x\""`}, {"ce-time", "2026-01-02T03:04:05+01:00"},
		{"Content-Type", "application/json"}, {"ce-type", "t"}, {"Nats-Msg-Id", "dropped"}, {"Trace-Id", "7"}, {"ce-traceparent", "00-1"},
		{"ce-subject", "s%"}, {"no spaces allowed", "dropped"}, {"x-bin", "%00"},
	} {
		if err := m.SetHeader(h[0], h[1]); err != nil {
			t.Errorf("%s: %v", h[0], err)
		}
	}
	want := Message{
		ID: "a b", Source: `/quoted "x"`, Type: "t", ContentType: ContentTypeJSON, Time: time.Date(2026, 1, 2, 2, 4, 5, 0, time.UTC),
		Metadata: metadata.Pairs("trace-id", "7", "ce-traceparent", "00-1", "ce-subject", "s%", "x-bin", "\x00"),
	}
	if !reflect.DeepEqual(m, want) {
		t.Errorf("got  %+v\nwant %+v", m, want)
	}
	// The attribute is worth more than the header, in whatever order they come.
	if err := m.SetHeader("ce-datacontenttype", ContentTypeProto); err != nil || m.ContentType != ContentTypeProto {
		t.Errorf("got %q, %v", m.ContentType, err)
	}
	if err := m.SetHeader("content-type", ContentTypeJSON); err != nil || m.ContentType != ContentTypeProto {
		t.Errorf("got %q, %v", m.ContentType, err)
	}
}

func TestSetHeaderRefuses(t *testing.T) {
	for _, tc := range [][3]string{
		{"ce-specversion", "0.3", `the CloudEvents version "0.3" is not 1.0`},
		{"ce-time", "noon", `the header ce-time is "noon", which is no time of RFC 3339`},
		{"ce-deadattempts", "x", `the header ce-deadattempts is "x", which is no number`},
		{"ce-deadtime", "", `the header ce-deadtime is "", which is no time of RFC 3339`},
		{"content-type", "application/cloudevents+json", `the content type "application/cloudevents+json" is an event in structured mode (only binary mode is read)`},
	} {
		err := new(Message).SetHeader(tc[0], tc[1])
		if status.CodeOf(err) != status.InvalidArgument || status.From(err).Message() != tc[2] {
			t.Errorf("%s: got %v; want %s", tc[0], err, tc[2])
		}
	}
}

// What Complete lets through arrives as it was.
func FuzzHeaders(f *testing.F) {
	f.Add("1", "s", "t", "k", "md", "v", "reason", int64(1))
	f.Add("ü", "%", "\"", " ", "raw-bin", "\xff", "\n", int64(1<<40))
	f.Fuzz(func(t *testing.T, id, source, typ, key, mdKey, mdValue, reason string, nanos int64) {
		m := Message{Topic: "t", ID: id, Source: source, Type: typ, Key: key, Time: time.Unix(0, nanos).UTC(), Metadata: metadata.Pairs(mdKey, mdValue)}
		if m.Complete() != nil {
			return
		}
		m.Attempt = 3
		sent := m.GiveUp("g", errorText(reason), time.Unix(1, 0))
		got := Message{Topic: sent.Topic}
		for k, v := range sent.Headers() {
			if strings.ContainsAny(k+v, "\r\n\x00") {
				t.Fatalf("header %q: %q", k, v)
			}
			if err := got.SetHeader(strings.ToUpper(k), strings.TrimSpace(v)); err != nil {
				t.Fatalf("header %s: %v", k, err)
			}
		}
		if v := mdValue; v != strings.TrimSpace(v) && !strings.HasSuffix(strings.ToLower(mdKey), "-bin") {
			return // headers lose spaces at the ends
		}
		if !reflect.DeepEqual(&got, sent) {
			t.Errorf("sent %+v\ngot  %+v", sent, &got)
		}
	})
}

// Whatever others put into headers, reading them is safe.
func FuzzSetHeader(f *testing.F) {
	f.Add("ce-id", "%")
	f.Add("ce-time", "2026-01-02T03:04:05Z")
	f.Add("ce-source", `"\`)
	f.Fuzz(func(t *testing.T, name, value string) {
		var m Message
		if err := m.SetHeader(name, value); err != nil && status.CodeOf(err) != status.InvalidArgument {
			t.Errorf("%q: %v", name, err)
		}
		if err := m.Metadata.Validate(); err != nil {
			t.Errorf("metadata from %q: %v", name, err)
		}
	})
}

type errorText string

func (e errorText) Error() string { return string(e) }

// A time is read as package time reads it, whatever was read before.
func FuzzParseTime(f *testing.F) {
	for _, text := range []string{
		"2026-11-25T19:40:59Z", "2026-11-25T19:40:59.1Z", "2026-11-25T19:40:59.123456789Z", "2026-11-25T19:40:59.1234567891Z",
		"2026-11-25T19:40:59+01:00", "2026-11-25T19:40:59.5+01:00", "2026-11-25T19:40:59,5Z", "2026-11-25T9:40:59Z", "2026-11-25T9:40:59.1Z",
		"2026-11-25T19:40:59.Z", "2026-11-25T19:40:59.1", "2026-11-25T19:40:59", "2026-11-25T19:40:59.1ZZ", "2026-11-25T19:40:59.xZ", "",
		"0000-01-01T00:00:00Z", "9999-12-31T23:59:59.999999999Z", "2026-11-25T19:40:60Z",
	} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		want, wantErr := time.Parse(time.RFC3339Nano, text)
		for range 2 { // the second has been read before
			got, err := parseTime("ce-time", text)
			if (err == nil) != (wantErr == nil) || err == nil && got != want.UTC() {
				t.Errorf("%q: got %v, %v; want %v, %v", text, got, err, want.UTC(), wantErr)
			}
		}
		for _, rest := range []string{"Z", ".25Z", "+01:00"} { // what begins the same
			if len(text) < 19 {
				break
			}
			other := text[:19] + rest
			want, wantErr := time.Parse(time.RFC3339Nano, other)
			got, err := parseTime("ce-time", other)
			if (err == nil) != (wantErr == nil) || err == nil && got != want.UTC() {
				t.Errorf("%q after %q: got %v, %v; want %v, %v", other, text, got, err, want.UTC(), wantErr)
			}
		}
	})
}

func TestFormatTime(t *testing.T) {
	zone := time.FixedZone("", 5*3600+1800)
	for _, at := range []time.Time{
		time.Date(2026, 11, 25, 19, 40, 59, 0, time.UTC),
		time.Date(2026, 11, 25, 19, 40, 59, 1, time.UTC),
		time.Date(2026, 11, 25, 19, 40, 59, 120_000_000, zone),
		time.Date(2026, 11, 25, 19, 40, 59, 999_999_999, time.UTC),
		time.Date(1, 1, 1, 0, 0, 0, 10, time.UTC),
		time.Date(9999, 12, 31, 23, 59, 59, 100, time.UTC),
		time.Date(1969, 12, 31, 23, 59, 59, 500, time.UTC),
	} {
		if got, want := formatTime(at), at.UTC().Format(time.RFC3339Nano); got != want {
			t.Errorf("got %s, want %s", got, want)
		}
	}
}

func TestPlain(t *testing.T) {
	for length := range 20 {
		text := []byte(strings.Repeat("x", length))
		if !plain(string(text)) {
			t.Errorf("%q is not plain", text)
		}
		for i := range text {
			for c := range 256 {
				text[i] = byte(c)
				if got, want := plain(string(text)), !mustEncode[c]; got != want {
					t.Fatalf("plain(%q) is %t", text, got)
				}
			}
			text[i] = '~'
		}
	}
}
