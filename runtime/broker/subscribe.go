package broker

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/protomicro/micro/runtime/status"
)

// Defaults of a [SubscribeConfig].
const (
	DefaultConcurrency = 16
	DefaultMaxInFlight = 1024
	DefaultMaxAttempts = 5
	DefaultTimeout     = 5 * time.Minute
)

// DefaultBackoff is how long a message waits after its first, second, third and any
// later failed attempt.
func DefaultBackoff() []time.Duration {
	return []time.Duration{time.Second, 5 * time.Second, 30 * time.Second, 2 * time.Minute}
}

// SubscribeConfig says which messages a subscription gets and what becomes of them.
//
// A message whose handler returns nil is settled. After another outcome it is
// delivered again, when its backoff is over and MaxAttempts is not reached, where
// the broker stores messages. It goes to the dead letter topic of its group, with
// the reason, when the attempts are used up, when the error is [Permanent], when it
// cannot be decoded, or when the broker does not deliver again. A message whose dead
// letter cannot be published stays where it is and is tried again.
type SubscribeConfig struct {
	// Topic is what to subscribe to; its words may be '*', which stands for any
	// one word. Required.
	Topic string
	// Group is the queue group. Its members share the messages of the Topic: each
	// goes to one of them. Without one, every subscription gets every message.
	// Subscriptions of one group to different Topics are apart, even where the Topics
	// overlap: each gets all that it asked for. Where the broker stores messages, it
	// also stores how far a group has come, so that a group gets what was published
	// while no member was there; what is published while a subscription without a
	// group is not there is not for it.
	Group string
	// Concurrency bounds the handlers that run at one time. Default:
	// [DefaultConcurrency].
	Concurrency int
	// MaxInFlight bounds the messages that are delivered and not settled: those in
	// handlers, those that wait for one, and those that wait for their backoff; with a
	// group, where the broker stores messages, those of all members together. It
	// is at least Concurrency. Default: [DefaultMaxInFlight].
	MaxInFlight int
	// Ordered handles the messages of one Key one after the other, in the order in
	// which they were published, those without a key too: a message that fails holds
	// back the later ones of its key until it is settled or given up. Members of
	// a group take turns: one is active, and another follows when it is gone.
	Ordered bool
	// Start is where a subscription begins. It matters to a group when it is new.
	// Default: with what is published from now on.
	Start Start
	// MaxAttempts bounds the deliveries of a message whose handler fails. Default:
	// [DefaultMaxAttempts], and 1 where the broker does not deliver again.
	MaxAttempts int
	// Backoff is how long a message waits after each failed attempt; the last value
	// holds for all further ones. Default: [DefaultBackoff].
	Backoff []time.Duration
	// Timeout bounds a handler: its context ends then. It may be longer than the
	// broker waits for an acknowledgement: a message is kept alive while its handler
	// runs. Default: [DefaultTimeout]; a negative value means no bound.
	Timeout time.Duration
}

// A Start is a place in what a broker has stored. The zero Start is after its end.
type Start struct {
	kind     startKind
	sequence uint64
	time     time.Time
}

type startKind int

const (
	startNew startKind = iota
	startFirst
	startSequence
	startTime
)

// FromFirst starts with the oldest message that is stored.
func FromFirst() Start { return Start{kind: startFirst} }

// FromSequence starts with the message of this sequence, or the next one there is.
func FromSequence(n uint64) Start { return Start{kind: startSequence, sequence: n} }

// FromTime starts with the first message that was stored at t or later.
func FromTime(t time.Time) Start { return Start{kind: startTime, time: t} }

// IsNew reports whether s starts with what is published from now on.
func (s Start) IsNew() bool { return s.kind == startNew }

// IsFirst reports whether s starts with the oldest message.
func (s Start) IsFirst() bool { return s.kind == startFirst }

// Sequence is the sequence that s starts with, if it starts with one.
func (s Start) Sequence() (uint64, bool) { return s.sequence, s.kind == startSequence }

// Time is the time that s starts with, if it starts with one.
func (s Start) Time() (time.Time, bool) { return s.time, s.kind == startTime }

func (s Start) String() string {
	switch s.kind {
	case startFirst:
		return "the first"
	case startSequence:
		return fmt.Sprintf("sequence %d", s.sequence)
	case startTime:
		return s.time.Format(time.RFC3339Nano)
	}
	return "new"
}

// WithDefaults is cfg with its zero values replaced, or an error that names the
// field at fault. It is for implementations of [Broker]. A broker that does not
// deliver again sets MaxAttempts to 1 before, where it is 0, and refuses more.
func (cfg SubscribeConfig) WithDefaults() (SubscribeConfig, error) {
	if err := checkTopic(cfg.Topic, true); err != nil {
		return cfg, err
	}
	if cfg.Group != "" && !validGroup(cfg.Group) {
		return cfg, cfg.invalid("the group %.80q is not a word of at most %d letters, digits, '-' and '_' (\"_\" is reserved)", cfg.Group, maxGroup)
	}
	if cfg.Group != "" && strings.HasPrefix(cfg.Topic, DeadLetterTopic(cfg.Group, "")) {
		return cfg, cfg.invalid("the group %q would get the dead letters that it makes (use another one)", cfg.Group)
	}
	for _, n := range []struct {
		name     string
		value    *int
		fallback int
	}{
		{"Concurrency", &cfg.Concurrency, DefaultConcurrency},
		{"MaxInFlight", &cfg.MaxInFlight, max(DefaultMaxInFlight, cfg.Concurrency)},
		{"MaxAttempts", &cfg.MaxAttempts, DefaultMaxAttempts},
	} {
		switch {
		case *n.value == 0:
			*n.value = n.fallback
		case *n.value < 0:
			return cfg, cfg.invalid("%s is %d", n.name, *n.value)
		}
	}
	if cfg.MaxInFlight < cfg.Concurrency {
		return cfg, cfg.invalid("MaxInFlight is %d, less than Concurrency, which is %d", cfg.MaxInFlight, cfg.Concurrency)
	}
	if cfg.Backoff == nil {
		cfg.Backoff = DefaultBackoff()
	}
	for _, d := range cfg.Backoff {
		if d < 0 {
			return cfg, cfg.invalid("a Backoff of %v is negative", d)
		}
	}
	cfg.Backoff = slices.Clone(cfg.Backoff)
	if cfg.Timeout == 0 {
		cfg.Timeout = DefaultTimeout
	}
	return cfg, nil
}

func (cfg SubscribeConfig) invalid(format string, args ...any) error {
	return status.Errorf(status.InvalidArgument, "subscribe to %s: %s", cfg.Topic, fmt.Sprintf(format, args...))
}

// BackoffAfter is how long a message waits whose attempt, counted from 1, failed.
func (cfg SubscribeConfig) BackoffAfter(attempt int) time.Duration {
	if len(cfg.Backoff) == 0 {
		return 0
	}
	return cfg.Backoff[min(max(attempt, 1), len(cfg.Backoff))-1]
}

// A SubscribeOption sets something of one subscription.
type SubscribeOption func(*SubscribeConfig)

// WithGroup sets [SubscribeConfig.Group].
func WithGroup(name string) SubscribeOption {
	return func(cfg *SubscribeConfig) { cfg.Group = name }
}

// WithConcurrency sets [SubscribeConfig.Concurrency].
func WithConcurrency(n int) SubscribeOption {
	return func(cfg *SubscribeConfig) { cfg.Concurrency = n }
}

// WithMaxInFlight sets [SubscribeConfig.MaxInFlight].
func WithMaxInFlight(n int) SubscribeOption {
	return func(cfg *SubscribeConfig) { cfg.MaxInFlight = n }
}

// WithOrderedKeys sets [SubscribeConfig.Ordered].
func WithOrderedKeys() SubscribeOption {
	return func(cfg *SubscribeConfig) { cfg.Ordered = true }
}

// WithStart sets [SubscribeConfig.Start].
func WithStart(s Start) SubscribeOption {
	return func(cfg *SubscribeConfig) { cfg.Start = s }
}

// WithRetry sets [SubscribeConfig.MaxAttempts] and, where it is given,
// [SubscribeConfig.Backoff].
func WithRetry(maxAttempts int, backoff ...time.Duration) SubscribeOption {
	return func(cfg *SubscribeConfig) {
		cfg.MaxAttempts = maxAttempts
		if len(backoff) > 0 {
			cfg.Backoff = backoff
		}
	}
}

// WithTimeout sets [SubscribeConfig.Timeout].
func WithTimeout(d time.Duration) SubscribeOption {
	return func(cfg *SubscribeConfig) { cfg.Timeout = d }
}

// WithDeadLetters subscribes to what the group gave up of the topic, instead of to
// the topic: the handler gets the events as they were published, and Message.DeadLetter
// says why they were given up. group is empty for a subscription without one. Where the
// subscription has a group of its own, it is another one.
func WithDeadLetters(group string) SubscribeOption {
	return func(cfg *SubscribeConfig) { cfg.Topic = DeadLetterTopic(group, cfg.Topic) }
}
