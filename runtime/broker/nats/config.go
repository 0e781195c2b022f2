// Package nats publishes and delivers events over a NATS server: with [NewCore] at
// most once, as core NATS does, or with [NewJetStream] at least once, where JetStream
// stores them.
//
// An event's topic is its subject, with no prefix: what `nats sub 'orders.>'` shows
// is what subscribers get. Attributes and metadata are in the message's headers, by
// the rules of CloudEvents; docs/protocol.md states them, and the names of JetStream's
// consumers.
//
// The connection stays the caller's to close, after the broker, and may be shared
// with other uses. It should never give up reconnecting (nats.MaxReconnects(-1)): a
// broker whose connection may do so says so in its log when it is made.
package nats

import (
	"log/slog"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/protomicro/micro/runtime/broker"
	"github.com/protomicro/micro/runtime/status"
)

// Defaults of a [CoreConfig].
const (
	DefaultMaxWaiting      = 64 << 10
	DefaultMaxWaitingBytes = 64 << 20
)

// CoreConfig has the settings of a broker over core NATS. The zero value is good.
type CoreConfig struct {
	// MaxWaiting and MaxWaitingBytes bound what one subscription holds that has been
	// received and has no place among the MaxInFlight of the subscription. Events
	// that come when it is full are dropped: SubscriptionState.Dropped counts them,
	// and the log tells when that begins and ends. Defaults: [DefaultMaxWaiting],
	// [DefaultMaxWaitingBytes].
	MaxWaiting      int
	MaxWaitingBytes int
	// Bare publishes events without headers, for high rates and for subscribers that
	// know nothing of CloudEvents: the body is all that is sent, and subscribers get
	// events without ID, Source, Type and Time. Publishing one fills in no ID and no Time.
	// Those that could not be read
	// or handled without headers have all of them all the same: events with metadata,
	// with a Key, or in another encoding than [broker.ContentTypeProto], and dead
	// letters.
	Bare bool
	// Logger gets what no caller is told: events that were dropped or given up, panics
	// of handlers. Default: [slog.Default].
	Logger *slog.Logger
}

func (cfg CoreConfig) withDefaults() (CoreConfig, error) {
	if err := positive("CoreConfig.MaxWaiting", &cfg.MaxWaiting, DefaultMaxWaiting); err != nil {
		return cfg, err
	}
	if err := positive("CoreConfig.MaxWaitingBytes", &cfg.MaxWaitingBytes, DefaultMaxWaitingBytes); err != nil {
		return cfg, err
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.Default()
	}
	return cfg, nil
}

// Defaults of a [JetStreamConfig].
const (
	DefaultMaxPending        = 4096
	DefaultPublishTimeout    = 10 * time.Second
	DefaultAckWait           = 30 * time.Second
	DefaultDuplicates        = 2 * time.Minute
	DefaultDeadLettersName   = "DEAD_LETTERS"
	DefaultDeadLettersMaxAge = 30 * 24 * time.Hour
)

// minAckWait is the least AckWait: JetStream cannot keep less.
const minAckWait = 100 * time.Millisecond

// JetStreamConfig has the settings of a broker over JetStream. The zero value is good
// where the streams are somebody else's affair.
type JetStreamConfig struct {
	// Streams must exist as they are stated here. [NewJetStream] creates those that do
	// not exist, and fails as FailedPrecondition when one exists and differs in
	// anything that a [StreamConfig] has; it never changes one. One that is deleted
	// while the broker works is created again.
	//
	// Streams that others look after need not be here: they are found by
	// their subjects.
	Streams []StreamConfig
	// DeadLetters is the stream of the messages that subscriptions give up. It is
	// created, or checked, at the first Subscribe. Defaults: the Name is
	// [DefaultDeadLettersName], Subjects are "dead.>", MaxAge is
	// [DefaultDeadLettersMaxAge].
	DeadLetters StreamConfig
	// MaxPending bounds the messages that are published and not confirmed yet: one
	// more waits for room. Default: [DefaultMaxPending].
	MaxPending int
	// PublishTimeout is how long PublishAsync, and Publish with a context that has no
	// deadline, attempt to get a message stored. Default: [DefaultPublishTimeout].
	PublishTimeout time.Duration
	// AckWait is how long JetStream waits for a sign of life of a subscriber before it
	// delivers a message to another one. It is not a bound for handlers, which may
	// take longer. All members of a group have the same. Default: [DefaultAckWait]; at
	// least 100 ms.
	AckWait time.Duration
	// Logger gets what no caller is told: streams that were created, consumers that
	// had to be created again, events given up, panics of handlers. Default:
	// [slog.Default].
	Logger *slog.Logger
}

// A StreamConfig says how a JetStream stream is to be. Zero values mean what is said
// here, also when the stream exists and is checked.
type StreamConfig struct {
	// Name is the stream's name. Required.
	Name string
	// Subjects are the topics in the stream; their last word may be '>', for any
	// further words. Required.
	Subjects []string
	// MaxAge, MaxBytes and MaxMsgs bound what is stored: what is older goes, and the
	// oldest messages go when there are too many. Default: no bound.
	MaxAge   time.Duration
	MaxBytes int64
	MaxMsgs  int64
	// DiscardNew refuses new messages, as ResourceExhausted, instead of letting the
	// oldest go when MaxBytes or MaxMsgs is reached.
	DiscardNew bool
	// Replicas is how many servers of a cluster store each message. Default: 1.
	Replicas int
	// Storage is where the messages are. Default: [jetstream.FileStorage].
	Storage jetstream.StorageType
	// Duplicates is the time within which a message that is published again with the
	// same Type, Source and ID is stored once. It is at least
	// JetStreamConfig.PublishTimeout. Default: [DefaultDuplicates], or MaxAge if
	// that is less.
	Duplicates time.Duration
}

func (cfg JetStreamConfig) withDefaults() (JetStreamConfig, error) {
	if err := positive("JetStreamConfig.MaxPending", &cfg.MaxPending, DefaultMaxPending); err != nil {
		return cfg, err
	}
	if err := positive("JetStreamConfig.PublishTimeout", &cfg.PublishTimeout, DefaultPublishTimeout); err != nil {
		return cfg, err
	}
	if err := positive("JetStreamConfig.AckWait", &cfg.AckWait, DefaultAckWait); err != nil {
		return cfg, err
	}
	if cfg.AckWait < minAckWait {
		return cfg, status.Errorf(status.InvalidArgument, "nats: JetStreamConfig.AckWait is %v (at least %v)", cfg.AckWait, minAckWait)
	}
	if cfg.MaxPending > maxSlots {
		return cfg, status.Errorf(status.InvalidArgument, "nats: JetStreamConfig.MaxPending is %d (at most %d)", cfg.MaxPending, maxSlots)
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.Default()
	}
	d := &cfg.DeadLetters
	if d.Name == "" {
		d.Name = DefaultDeadLettersName
	}
	if d.Subjects == nil {
		d.Subjects = []string{deadLetterSubjects}
	}
	if d.MaxAge == 0 {
		d.MaxAge = DefaultDeadLettersMaxAge
	}
	if !slices.Contains(d.Subjects, deadLetterSubjects) {
		return cfg, status.Errorf(status.InvalidArgument,
			"nats: JetStreamConfig.DeadLetters.Subjects are %q, without %q", d.Subjects, deadLetterSubjects)
	}
	var err error
	if *d, err = d.withDefaults("DeadLetters", cfg.PublishTimeout); err != nil {
		return cfg, err
	}
	cfg.Streams = slices.Clone(cfg.Streams)
	for i, s := range cfg.Streams {
		if cfg.Streams[i], err = s.withDefaults("Streams", cfg.PublishTimeout); err != nil {
			return cfg, err
		}
		for _, subject := range s.Subjects {
			if overlap(subject, deadLetterSubjects) {
				return cfg, status.Errorf(status.InvalidArgument,
					"nats: JetStreamConfig.Streams: the subject %q of stream %q has dead letters in it, which have a stream of their own (JetStreamConfig.DeadLetters)",
					subject, s.Name)
			}
		}
	}
	return cfg, nil
}

// deadLetterSubjects are all topics of dead letters.
const deadLetterSubjects = broker.DeadLetterPrefix + ">"

func (s StreamConfig) withDefaults(field string, publishTimeout time.Duration) (StreamConfig, error) {
	field = "nats: JetStreamConfig." + field
	if s.Name == "" || len(s.Name) > maxStreamName || strings.ContainsFunc(s.Name, notInName) {
		return s, status.Errorf(status.InvalidArgument,
			"%s: the name %.80q is not one of a stream (at most %d letters, digits, '-' and '_')", field, s.Name, maxStreamName)
	}
	if len(s.Subjects) == 0 {
		return s, status.Errorf(status.InvalidArgument, "%s: stream %q has no Subjects", field, s.Name)
	}
	for _, n := range []struct {
		name     string
		negative bool
	}{
		{"MaxAge", s.MaxAge < 0}, {"MaxBytes", s.MaxBytes < 0}, {"MaxMsgs", s.MaxMsgs < 0},
		{"Replicas", s.Replicas < 0}, {"Duplicates", s.Duplicates < 0},
	} {
		if n.negative {
			return s, status.Errorf(status.InvalidArgument, "%s: %s of stream %q is negative (0 means the default)", field, n.name, s.Name)
		}
	}
	s.Subjects = slices.Sorted(slices.Values(s.Subjects))
	if s.Replicas == 0 {
		s.Replicas = 1
	}
	if s.Duplicates == 0 {
		s.Duplicates = DefaultDuplicates
		if s.MaxAge > 0 {
			s.Duplicates = min(s.Duplicates, s.MaxAge)
		}
	}
	if s.Duplicates < publishTimeout {
		return s, status.Errorf(status.InvalidArgument,
			"%s: Duplicates of stream %q is %s, less than PublishTimeout, which is %s: a message that is sent again could be stored twice",
			field, s.Name, short(s.Duplicates), short(publishTimeout))
	}
	return s, nil
}

// maxStreamName bounds the names of streams, as the server does.
const maxStreamName = 255

func notInName(r rune) bool {
	return !('a' <= r && r <= 'z' || 'A' <= r && r <= 'Z' || '0' <= r && r <= '9' || r == '-' || r == '_')
}

// positive gives a setting its default.
func positive[N int | time.Duration](name string, value *N, fallback N) error {
	switch {
	case *value == 0:
		*value = fallback
	case *value < 0:
		return status.Errorf(status.InvalidArgument, "nats: %s is %v", name, *value)
	}
	return nil
}

// overlap reports whether there are topics for which both subjects stand.
func overlap(a, b string) bool {
	for {
		wordA, restA, moreA := strings.Cut(a, ".")
		wordB, restB, moreB := strings.Cut(b, ".")
		switch {
		case wordA == ">" || wordB == ">":
			return true
		case wordA != wordB && wordA != "*" && wordB != "*", moreA != moreB:
			return false
		case !moreA:
			return true
		}
		a, b = restA, restB
	}
}

// short is a duration without the zeros that String ends with.
func short(d time.Duration) string {
	s := d.String()
	if strings.HasSuffix(s, "m0s") {
		s = s[:len(s)-2]
	}
	if strings.HasSuffix(s, "h0m") {
		s = s[:len(s)-2]
	}
	return s
}
