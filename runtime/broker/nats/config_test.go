package nats

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/protomicro/micro/runtime/status"
)

func TestJetStreamConfigDefaults(t *testing.T) {
	cfg, err := JetStreamConfig{Streams: []StreamConfig{
		{Name: "A", Subjects: []string{"b.>", "a.>"}},
		{Name: "B", Subjects: []string{"c"}, MaxAge: time.Minute},
	}}.withDefaults()
	if err != nil {
		t.Fatal(err)
	}
	if cfg.MaxPending != 4096 || cfg.PublishTimeout != 10*time.Second || cfg.AckWait != 30*time.Second || cfg.Logger == nil {
		t.Errorf("got %+v", cfg)
	}
	if d := cfg.DeadLetters; d.Name != "DEAD_LETTERS" || !slices.Equal(d.Subjects, []string{"dead.>"}) || d.MaxAge != 30*24*time.Hour || d.Replicas != 1 {
		t.Errorf("dead letters: %+v", d)
	}
	if a := cfg.Streams[0]; !slices.Equal(a.Subjects, []string{"a.>", "b.>"}) || a.Duplicates != 2*time.Minute || a.Replicas != 1 {
		t.Errorf("A: %+v", a)
	}
	if b := cfg.Streams[1]; b.Duplicates != time.Minute {
		t.Errorf("B: %+v", b)
	}
}

func TestConfigRefusals(t *testing.T) {
	one := func(s StreamConfig) JetStreamConfig { return JetStreamConfig{Streams: []StreamConfig{s}} }
	for want, cfg := range map[string]JetStreamConfig{
		"JetStreamConfig.MaxPending is -1":                                              {MaxPending: -1},
		"JetStreamConfig.MaxPending is 2000000 (at most 1048576)":                       {MaxPending: 2_000_000},
		"JetStreamConfig.PublishTimeout is -1s":                                         {PublishTimeout: -time.Second},
		"JetStreamConfig.AckWait is 1ms (at least 100ms)":                               {AckWait: time.Millisecond},
		`JetStreamConfig.Streams: the name "" is not one of a stream`:                   one(StreamConfig{Subjects: []string{"a"}}),
		`JetStreamConfig.Streams: the name "a.b" is not one of a stream`:                one(StreamConfig{Name: "a.b", Subjects: []string{"a"}}),
		`JetStreamConfig.Streams: stream "A" has no Subjects`:                           one(StreamConfig{Name: "A"}),
		`JetStreamConfig.Streams: MaxAge of stream "A" is negative (0 means`:            one(StreamConfig{Name: "A", Subjects: []string{"a"}, MaxAge: -1}),
		`JetStreamConfig.Streams: Duplicates of stream "A" is 1s, less than`:            one(StreamConfig{Name: "A", Subjects: []string{"a"}, Duplicates: time.Second}),
		`JetStreamConfig.Streams: the subject ">" of stream "A" has dead letters`:       one(StreamConfig{Name: "A", Subjects: []string{">"}}),
		`JetStreamConfig.Streams: the subject "*.x" of stream "A" has dead letters`:     one(StreamConfig{Name: "A", Subjects: []string{"*.x"}}),
		`JetStreamConfig.DeadLetters.Subjects are ["gone.>"], without "dead.>"`:         {DeadLetters: StreamConfig{Subjects: []string{"gone.>"}}},
		`JetStreamConfig.DeadLetters: MaxMsgs of stream "DEAD_LETTERS" is negative (0 `: {DeadLetters: StreamConfig{MaxMsgs: -1}},
	} {
		_, err := cfg.withDefaults()
		if status.CodeOf(err) != status.InvalidArgument || !strings.Contains(err.Error(), "nats: "+want) {
			t.Errorf("got %v\nwant %s", err, want)
		}
	}
	for want, cfg := range map[string]CoreConfig{
		"CoreConfig.MaxWaiting is -1":      {MaxWaiting: -1},
		"CoreConfig.MaxWaitingBytes is -2": {MaxWaitingBytes: -2},
	} {
		_, err := cfg.withDefaults()
		if status.CodeOf(err) != status.InvalidArgument || !strings.Contains(err.Error(), "nats: "+want) {
			t.Errorf("got %v\nwant %s", err, want)
		}
	}
	if _, err := NewCore(nil, CoreConfig{}); status.CodeOf(err) != status.InvalidArgument {
		t.Errorf("without a connection: %v", err)
	}
	if _, err := NewJetStream(t.Context(), nil, JetStreamConfig{}); status.CodeOf(err) != status.InvalidArgument {
		t.Errorf("without a connection: %v", err)
	}
}

func TestOverlap(t *testing.T) {
	for _, c := range []struct {
		a, b string
		want bool
	}{
		{"a", "a", true}, {"a", "b", false}, {"a.b", "a", false}, {"a.*", "a.b", true}, {"a.*", "*.b", true}, {"a.*", "a", false},
		{"a.>", "a.b.c", true}, {"a.>", "a", false}, {">", "a", true}, {"*.x", "dead.>", true}, {"dead", "dead.>", false}, {"a.*.c", "a.>", true},
		{"a.*.c", "a.b.*", true}, {"a.*.c", "a.b.d", false},
	} {
		if overlap(c.a, c.b) != c.want || overlap(c.b, c.a) != c.want {
			t.Errorf("%q and %q: want %t", c.a, c.b, c.want)
		}
	}
}

func TestShort(t *testing.T) {
	for d, want := range map[time.Duration]string{
		0: "0s", 30 * time.Second: "30s", time.Minute: "1m", 90 * time.Minute: "1h30m", 24 * time.Hour: "24h", time.Hour + time.Second: "1h0m1s",
		10 * time.Minute: "10m", 100 * time.Millisecond: "100ms", 10 * time.Hour: "10h",
	} {
		if got := short(d); got != want {
			t.Errorf("%v: got %q; want %q", d, got, want)
		}
	}
}

// Every field of a StreamConfig is compared.
func TestCompareStreams(t *testing.T) {
	base, err := StreamConfig{Name: "A", Subjects: []string{"a.>"}}.withDefaults("", time.Second)
	if err != nil {
		t.Fatal(err)
	}
	if ds := base.compare(base.js()); len(ds) > 0 {
		t.Errorf("with itself: %v", ds)
	}
	for want, change := range map[string]func(*StreamConfig){
		"subject list":     func(s *StreamConfig) { s.Subjects = []string{"b"} },
		"max age":          func(s *StreamConfig) { s.MaxAge = time.Hour },
		"max bytes":        func(s *StreamConfig) { s.MaxBytes = 1 },
		"max messages":     func(s *StreamConfig) { s.MaxMsgs = 1 },
		"discard policy":   func(s *StreamConfig) { s.DiscardNew = true },
		"replicas":         func(s *StreamConfig) { s.Replicas = 3 },
		"storage":          func(s *StreamConfig) { s.Storage = jetstream.MemoryStorage },
		"duplicate window": func(s *StreamConfig) { s.Duplicates = time.Hour },
	} {
		other := base
		change(&other)
		if ds := base.compare(other.js()); len(ds) != 1 || ds[0].name != want {
			t.Errorf("%s: %v", want, ds)
		}
	}
}

func TestOlder(t *testing.T) {
	for version, want := range map[string]bool{
		"2.10.29": true, "2.11.0": false, "2.11.0-beta.1": false, "2.15.2": false, "3.0.0": false, "1.99.1": true, "": false, "dev": false,
	} {
		if got := older(version, 2, 11); got != want {
			t.Errorf("%q: got %t", version, got)
		}
	}
}
