package nats

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strconv"
	"strings"
	"time"

	natsgo "github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/protomicro/micro/runtime/status"
)

// A difference is one field of a stream or consumer that is not as it was asked for.
type difference struct{ name, have, want string }

// differences are those of the rows whose sides differ.
func differences(rows []difference) []difference {
	return slices.DeleteFunc(rows, func(d difference) bool { return d.have == d.want })
}

// sentence names all of them.
func sentence(ds []difference, other string) string {
	parts := make([]string, len(ds))
	for i, d := range ds {
		parts[i] = fmt.Sprintf("%s is %s, and %s %s", d.name, d.have, other, d.want)
	}
	return strings.Join(parts, "; ")
}

// js is what the server is asked to create.
func (s StreamConfig) js() jetstream.StreamConfig {
	discard := jetstream.DiscardOld
	if s.DiscardNew {
		discard = jetstream.DiscardNew
	}
	return jetstream.StreamConfig{
		Name: s.Name, Subjects: s.Subjects,
		MaxAge: s.MaxAge, MaxBytes: unlimited(s.MaxBytes), MaxMsgs: unlimited(s.MaxMsgs), Discard: discard,
		Replicas: s.Replicas, Storage: s.Storage, Duplicates: s.Duplicates,
	}
}

// unlimited is how the server writes that there is no bound.
func unlimited(n int64) int64 {
	if n == 0 {
		return -1
	}
	return n
}

// compare is what of a stream is not as s says.
func (s StreamConfig) compare(have jetstream.StreamConfig) []difference {
	want := s.js()
	replicas := max(have.Replicas, 1)
	return differences([]difference{
		{"subject list", fmt.Sprintf("%q", slices.Sorted(slices.Values(have.Subjects))), fmt.Sprintf("%q", want.Subjects)},
		{"max age", age(int64(have.MaxAge), short(have.MaxAge)), age(int64(want.MaxAge), short(want.MaxAge))},
		{"max bytes", bound(have.MaxBytes), bound(want.MaxBytes)},
		{"max messages", bound(have.MaxMsgs), bound(want.MaxMsgs)},
		{"discard policy", discard(have.Discard), discard(want.Discard)},
		{"replicas", strconv.Itoa(replicas), strconv.Itoa(want.Replicas)},
		{"storage", storage(have.Storage), storage(want.Storage)},
		{"duplicate window", short(have.Duplicates), short(want.Duplicates)},
		// These are not in StreamConfig: nothing else serves events.
		{"retention", retention(have.Retention), retention(jetstream.LimitsPolicy)},
		{"no-ack", strconv.FormatBool(have.NoAck), "false"},
		{"sealed", strconv.FormatBool(have.Sealed), "false"},
	})
}

func age(n int64, text string) string {
	if n <= 0 {
		return "unlimited"
	}
	return text
}

func bound(n int64) string {
	if n <= 0 {
		return "unlimited"
	}
	return strconv.FormatInt(n, 10)
}

func discard(p jetstream.DiscardPolicy) string {
	if p == jetstream.DiscardNew {
		return "new"
	}
	return "old"
}

func storage(t jetstream.StorageType) string {
	if t == jetstream.MemoryStorage {
		return "memory"
	}
	return "file"
}

func retention(p jetstream.RetentionPolicy) string {
	switch p {
	case jetstream.InterestPolicy:
		return "interest"
	case jetstream.WorkQueuePolicy:
		return "workqueue"
	}
	return "limits"
}

// ensure creates a stream that does not exist, and checks one that does.
func (b *jetStream) ensure(ctx context.Context, s StreamConfig) error {
	what := fmt.Sprintf("stream %q at %s", s.Name, b.where())
	ctx, cancel := bounded(ctx)
	defer cancel()
	stream, err := b.js.Stream(ctx, s.Name)
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		stream, err = b.js.CreateStream(ctx, s.js())
		switch {
		case err == nil:
			b.log(slog.LevelInfo, "a stream was created", slog.String("stream", s.Name), slog.Any("subjects", s.Subjects))
		case errors.Is(err, jetstream.ErrStreamNameAlreadyInUse): // another process was quicker
			stream, err = b.js.Stream(ctx, s.Name)
		}
	}
	if err != nil {
		return b.apiError(what, err)
	}
	if ds := s.compare(stream.CachedInfo().Config); len(ds) > 0 {
		return status.Errorf(status.FailedPrecondition,
			"%s: %s (state in the options what the stream is, or change it with \"nats stream edit %s\"; it was not changed)",
			what, sentence(ds, "the options state"), s.Name)
	}
	return nil
}

// stated is the stream of the configuration that has the topic.
func (b *jetStream) stated(topic string) (StreamConfig, bool) {
	for _, s := range slices.Concat(b.cfg.Streams, []StreamConfig{b.cfg.DeadLetters}) {
		for _, subject := range s.Subjects {
			if overlap(subject, topic) {
				return s, true
			}
		}
	}
	return StreamConfig{}, false
}

// recreateAfter is how long a stream of the configuration is gone before it is created
// again. Whoever has deleted it may be about to make it anew; and the server says that a
// stream is gone before it has deleted the files, which one that is created in between
// would share.
const recreateAfter = 2 * time.Second

// An absence is the time for which a stream is not there.
type absence struct{ first, last time.Time }

// gone notes that a stream is not there, and reports for how long that has been so.
// Nobody notes when it is there again: what was seen long before says nothing.
func (b *jetStream) gone(stream string) time.Duration {
	b.mu.Lock()
	defer b.mu.Unlock()
	now := time.Now()
	a, ok := b.absent[stream]
	if !ok || now.Sub(a.last) > 2*maxReopenPause {
		a.first = now
	}
	a.last = now
	b.absent[stream] = a
	return now.Sub(a.first)
}

// errGone is in the tree of the error that a stream is gone and will be created.
var errGone = errors.New("the stream is gone")

// streamOf finds the stream that has the topic. One that the configuration states and
// that is gone is created, after some time. Its error is NotFound when there is none.
func (b *jetStream) streamOf(ctx context.Context, what, topic string) (string, error) {
	ctx, cancel := bounded(ctx)
	defer cancel()
	names, err := b.streamNames(ctx, topic)
	if err == nil && len(names) == 0 {
		s, ok := b.stated(topic)
		if !ok {
			name, subject := topicAdvice(topic)
			return "", status.Errorf(status.NotFound,
				"%s: no stream at %s has this topic (add {Name: %q, Subjects: []string{%q}} to JetStreamConfig.Streams)",
				what, b.where(), name, subject)
		}
		if since := b.gone(s.Name); since < recreateAfter {
			return "", status.Errorf(status.Unavailable, "%s: stream %q at %s is gone, and is created again in %s",
				what, s.Name, b.where(), short((recreateAfter - since).Round(100*time.Millisecond))).WithCause(errGone)
		}
		if err := b.ensure(ctx, s); err != nil {
			return "", status.Errorf(status.CodeOf(err), "%s: %w", what, err)
		}
		names, err = b.streamNames(ctx, topic)
	}
	switch {
	case err != nil:
		return "", b.apiError(what, err)
	case len(names) == 0:
		return "", status.Errorf(status.NotFound, "%s: no stream at %s has this topic", what, b.where())
	case len(names) > 1:
		return "", status.Errorf(status.FailedPrecondition,
			"%s: several streams at %s have events of this topic: %s (a subscription reads one stream: put them into one, or make a subscription for each part)",
			what, b.where(), strings.Join(names, ", "))
	}
	return names[0], nil
}

func (b *jetStream) streamNames(ctx context.Context, topic string) ([]string, error) {
	var names []string
	l := b.js.StreamNames(ctx, jetstream.WithStreamListSubject(topic))
	for name := range l.Name() {
		names = append(names, name)
	}
	if err := l.Err(); err != nil && !errors.Is(err, jetstream.ErrEndOfData) {
		return nil, err
	}
	slices.Sort(names)
	return names, nil
}

// apiError is what the failure of a request to JetStream comes to.
func (b *jetStream) apiError(what string, err error) error {
	api, isAPI := errors.AsType[*jetstream.APIError](err)
	code := status.Unavailable
	text := err.Error()
	switch {
	case errors.Is(err, natsgo.ErrConnectionClosed), !b.connected.Load():
		return b.unconnected(what).WithCause(err)
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, context.Canceled):
		// A request that is forbidden has no answer.
		if e := b.nc.LastError(); errors.Is(e, natsgo.ErrPermissionViolation) && strings.Contains(e.Error(), apiPrefix) {
			return status.Errorf(status.PermissionDenied, "%s: NATS at %s does not permit a request to JetStream to this user: %w", what, b.where(), e)
		}
		return status.Errorf(status.CodeOf(err), "%s: no answer from JetStream at %s: %w", what, b.where(), err)
	case errors.Is(err, jetstream.ErrJetStreamNotEnabled), errors.Is(err, jetstream.ErrJetStreamNotEnabledForAccount),
		errors.Is(err, natsgo.ErrNoResponders):
		return status.Errorf(status.FailedPrecondition,
			"%s: the NATS server at %s has no JetStream for this account (start it with \"nats-server -js\")", what, b.where()).WithCause(err)
	case isAPI:
		text = api.Description
		switch {
		case api.Code == 404:
			code = status.NotFound
		case api.ErrorCode == codeInsufficientResources, api.ErrorCode == codeStorageExceeded:
			code = status.ResourceExhausted
		case api.Code < 500:
			code = status.FailedPrecondition
		}
	}
	return status.Errorf(code, "%s: JetStream at %s: %s", what, b.where(), text).WithCause(err)
}
