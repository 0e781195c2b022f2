package broker

import (
	"reflect"
	"testing"
	"time"

	"github.com/protomicro/micro/runtime/status"
)

func TestSubscribeConfigDefaults(t *testing.T) {
	got, err := SubscribeConfig{Topic: "a.*"}.WithDefaults()
	want := SubscribeConfig{
		Topic: "a.*", Concurrency: 16, MaxInFlight: 1024, MaxAttempts: 5, Timeout: 5 * time.Minute,
		Backoff: []time.Duration{time.Second, 5 * time.Second, 30 * time.Second, 2 * time.Minute},
	}
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v, %v", got, err)
	}
	if got, err := (SubscribeConfig{Topic: "a", Concurrency: 5000}).WithDefaults(); err != nil || got.MaxInFlight != 5000 {
		t.Errorf("got %+v, %v", got, err)
	}
}

func TestSubscribeConfigRefuses(t *testing.T) {
	for want, cfg := range map[string]SubscribeConfig{
		"the topic is empty": {},
		`subscribe to a: the group "a b" is not a word of at most 64 letters, digits, '-' and '_' ("_" is reserved)`: {Topic: "a", Group: "a b"},
		`subscribe to a: the group "_" is not a word of at most 64 letters, digits, '-' and '_' ("_" is reserved)`:   {Topic: "a", Group: "_"},
		`subscribe to dead.g.a: the group "g" would get the dead letters that it makes (use another one)`:            {Topic: "dead.g.a", Group: "g"},
		"subscribe to a: Concurrency is -1":                                    {Topic: "a", Concurrency: -1},
		"subscribe to a: MaxAttempts is -1":                                    {Topic: "a", MaxAttempts: -1},
		"subscribe to a: MaxInFlight is 3, less than Concurrency, which is 16": {Topic: "a", MaxInFlight: 3},
		"subscribe to a: a Backoff of -1s is negative":                         {Topic: "a", Backoff: []time.Duration{-time.Second}},
	} {
		_, err := cfg.WithDefaults()
		if status.CodeOf(err) != status.InvalidArgument || status.From(err).Message() != want {
			t.Errorf("%+v: got %v; want %s", cfg, err, want)
		}
	}
}

func TestBackoffAfter(t *testing.T) {
	cfg := SubscribeConfig{Backoff: []time.Duration{1, 2, 3}}
	for attempt, want := range map[int]time.Duration{0: 1, 1: 1, 2: 2, 3: 3, 4: 3, 100: 3} {
		if got := cfg.BackoffAfter(attempt); got != want {
			t.Errorf("after %d: got %d; want %d", attempt, got, want)
		}
	}
	if got := (SubscribeConfig{Backoff: []time.Duration{}}).BackoffAfter(1); got != 0 {
		t.Errorf("got %v without backoff", got)
	}
}

func TestStart(t *testing.T) {
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	for _, tc := range []struct {
		start Start
		text  string
	}{{Start{}, "new"}, {FromFirst(), "the first"}, {FromSequence(7), "sequence 7"}, {FromTime(now), "2026-01-02T03:04:05Z"}} {
		seq, bySeq := tc.start.Sequence()
		at, byTime := tc.start.Time()
		n := 0
		for _, is := range []bool{tc.start.IsNew(), tc.start.IsFirst(), bySeq && seq == 7, byTime && at.Equal(now)} {
			if is {
				n++
			}
		}
		if n != 1 || tc.start.String() != tc.text {
			t.Errorf("%s: %d kinds hold", tc.start, n)
		}
	}
}
