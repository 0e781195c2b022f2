package broker

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/protomicro/micro/runtime/metadata"
	"github.com/protomicro/micro/runtime/status"
)

func TestCompleteFillsIn(t *testing.T) {
	m := Message{Topic: "a.b", Type: "t"}
	before := time.Now()
	if err := m.Complete(); err != nil {
		t.Fatal(err)
	}
	if len(m.ID) < 18 || m.Source != DefaultSource || m.ContentType != ContentTypeProto || m.Time.Before(before) {
		t.Errorf("got %+v", m)
	}
	other := Message{Topic: "a.b", Type: "t"}
	if err := other.Complete(); err != nil || other.ID == m.ID {
		t.Errorf("two messages have the ID %s, %v", m.ID, err)
	}
}

func TestCompleteRefuses(t *testing.T) {
	good := func() Message { return Message{Topic: "a.b", Type: "t"} }
	for name, tc := range map[string]struct {
		change func(m *Message)
		code   status.Code
		want   string
	}{
		"topic":    {func(m *Message) { m.Topic = "a.*" }, status.InvalidArgument, `the topic "a.*" has the character '*' (words are letters, digits, '-', '_' and '%')`},
		"dead":     {func(m *Message) { m.Topic = "dead.a" }, status.InvalidArgument, `event for dead.a: topics that begin with "dead." are for dead letters`},
		"no type":  {func(m *Message) { m.Type = "" }, status.InvalidArgument, "event for a.b: Type is empty (the full name of the event's message)"},
		"id":       {func(m *Message) { m.ID = "a\nb" }, status.InvalidArgument, "event for a.b: ID is not text without control characters"},
		"not UTF8": {func(m *Message) { m.Key = "\xff" }, status.InvalidArgument, "event for a.b: Key is not text without control characters"},
		"long":     {func(m *Message) { m.Source = strings.Repeat("x", 1025) }, status.InvalidArgument, "event for a.b: Source has 1025 bytes (at most 1024)"},
		"year":     {func(m *Message) { m.Time = time.Date(10000, 1, 1, 0, 0, 0, 0, time.UTC) }, status.InvalidArgument, "event for a.b: Time is in the year 10000"},
		"metadata": {func(m *Message) { m.Metadata = metadata.Pairs("a b", "") }, status.InvalidArgument,
			`event for a.b: metadata key "a b" has a character other than a-z, 0-9, '-', '_' and '.'`},
		"reserved": {func(m *Message) { m.Metadata = metadata.Pairs("Ce-Id", "") }, status.InvalidArgument,
			`event for a.b: metadata key "ce-id" is reserved for the event's attributes or for the broker`},
		"nats": {func(m *Message) { m.Metadata = metadata.Pairs("Nats-Msg-Id", "") }, status.InvalidArgument,
			`event for a.b: metadata key "nats-msg-id" is reserved for the event's attributes or for the broker`},
		"too much": {func(m *Message) { m.Metadata = metadata.Pairs("a", strings.Repeat("x", 64<<10)) }, status.ResourceExhausted,
			"event for a.b: metadata of 65537 bytes is over the limit of 65536"},
	} {
		m := good()
		tc.change(&m)
		if err := m.Complete(); status.CodeOf(err) != tc.code || status.From(err).Message() != tc.want {
			t.Errorf("%s: got %v; want %s", name, err, tc.want)
		}
	}
}

func TestGiveUp(t *testing.T) {
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	m := &Message{Topic: "orders.eu", ID: "1", Attempt: 3, Sequence: 9}
	letter := m.GiveUp("shipping", errors.New(strings.Repeat("é", 600)), now)
	if letter.Topic != "dead.shipping.orders.eu" || letter.Attempt != 0 || letter.Sequence != 0 || m.DeadLetter != nil {
		t.Errorf("got %+v of %+v", letter, m)
	}
	d := *letter.DeadLetter
	if len(d.Reason) != MaxReason || !strings.HasSuffix(d.Reason, "é") {
		t.Errorf("the reason has %d bytes", len(d.Reason))
	}
	d.Reason = ""
	if want := (DeadLetter{Topic: "orders.eu", Group: "shipping", Attempts: 3, Time: now}); d != want {
		t.Errorf("got %+v; want %+v", d, want)
	}
	// Given up once more, it is still the event of the first topic.
	letter.Attempt = 1
	again := letter.GiveUp("", errors.New("x"), now)
	if again.Topic != "dead._.orders.eu" || again.DeadLetter.Topic != "orders.eu" || again.DeadLetter.Reason != "x" {
		t.Errorf("got %+v", again)
	}
}

func TestPermanent(t *testing.T) {
	cause := errors.New("cause")
	err := fmt.Errorf("handler: %w", Permanent(cause))
	if !IsPermanent(err) || !errors.Is(err, cause) || err.Error() != "handler: cause" {
		t.Errorf("got %v", err)
	}
	if IsPermanent(cause) || IsPermanent(nil) || Permanent(nil) != nil {
		t.Error("an error that was not marked is permanent")
	}
}

// The dead letter of any message that was published can be published.
func TestLongestDeadLetter(t *testing.T) {
	m := &Message{Topic: strings.Repeat("t", maxTopic), Type: "t"}
	if err := m.Complete(); err != nil {
		t.Fatal(err)
	}
	if err := m.GiveUp(strings.Repeat("g", maxGroup), errors.New("x"), time.Now()).Complete(); err != nil {
		t.Error(err)
	}
}
