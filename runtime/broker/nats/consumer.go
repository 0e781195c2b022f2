package nats

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/protomicro/micro/runtime/broker"
	"github.com/protomicro/micro/runtime/status"
)

const (
	// maxTopicInName cuts topics in the names of consumers.
	maxTopicInName = 120
	// inactiveAfter is how long JetStream keeps the consumer of a subscription
	// without a group that gives no sign of life.
	inactiveAfter = 5 * time.Minute
	// pinnedGroup is the priority group of an ordered consumer; there is one.
	pinnedGroup = "ordered"
)

// consumerName is the name of a group's consumer: the group and the topic as far as
// they can be read in a name, and a hash of the topic, which keeps topics apart that
// look the same then.
func consumerName(group, topic string) string {
	sum := sha256.Sum256([]byte(topic))
	return group + "-" + topicInName(topic) + "-" + hex.EncodeToString(sum[:4])
}

// topicInName is a topic without what names cannot have.
func topicInName(topic string) string {
	name := strings.NewReplacer(".", "_", "*", "any", "%", "_").Replace(topic)
	return name[:min(len(name), maxTopicInName)]
}

// ownConsumerName is the name of a consumer that one subscription has for itself.
func ownConsumerName(topic string) string { return "_-" + topicInName(topic) + "-" + rand.Text()[:12] }

// consumerConfig is the consumer of a subscription.
func (b *jetStream) consumerConfig(cfg broker.SubscribeConfig) jetstream.ConsumerConfig {
	c := jetstream.ConsumerConfig{
		FilterSubject: cfg.Topic,
		AckPolicy:     jetstream.AckExplicitPolicy,
		AckWait:       b.cfg.AckWait,
		// Attempts are counted by the subscription, so that a message is not lost
		// when it cannot become a dead letter.
		MaxDeliver:    -1,
		MaxAckPending: cfg.MaxInFlight,
		Metadata:      map[string]string{"topic": cfg.Topic},
	}
	if cfg.Group == "" {
		c.Name = ownConsumerName(cfg.Topic)
		c.Description = "one subscription to " + cfg.Topic
		c.InactiveThreshold = inactiveAfter
	} else {
		c.Durable = consumerName(cfg.Group, cfg.Topic)
		c.Description = "group " + cfg.Group + ", topic " + cfg.Topic
		c.Metadata["group"] = cfg.Group
		if cfg.Ordered {
			c.PriorityPolicy = jetstream.PriorityPolicyPinned
			c.PriorityGroups = []string{pinnedGroup}
			c.PinnedTTL = b.cfg.AckWait
		}
	}
	switch seq, bySequence := cfg.Start.Sequence(); {
	case cfg.Start.IsFirst():
		c.DeliverPolicy = jetstream.DeliverAllPolicy
	case bySequence:
		c.DeliverPolicy, c.OptStartSeq = jetstream.DeliverByStartSequencePolicy, max(seq, 1)
	default:
		c.DeliverPolicy = jetstream.DeliverNewPolicy
		if t, byTime := cfg.Start.Time(); byTime {
			c.DeliverPolicy, c.OptStartTime = jetstream.DeliverByStartTimePolicy, &t
		}
	}
	return c
}

// startAt has a consumer begin at a sequence.
func startAt(c jetstream.ConsumerConfig, seq uint64) jetstream.ConsumerConfig {
	c.DeliverPolicy, c.OptStartSeq, c.OptStartTime = jetstream.DeliverByStartSequencePolicy, max(seq, 1), nil
	return c
}

// compareConsumer is what of a consumer is not as it was asked for. Where it starts is
// no difference, as that matters when it is created.
func compareConsumer(have, want jetstream.ConsumerConfig) []difference {
	return differences([]difference{
		{"topic", filter(have), filter(want)},
		{"ack policy", ackPolicy(have.AckPolicy), ackPolicy(want.AckPolicy)},
		{"ack wait (JetStreamConfig.AckWait)", short(have.AckWait), short(want.AckWait)},
		{"max ack pending (MaxInFlight)", bound(int64(have.MaxAckPending)), bound(int64(want.MaxAckPending))},
		{"max deliver", bound(int64(have.MaxDeliver)), bound(int64(want.MaxDeliver))},
		{"backoff", fmt.Sprint(have.BackOff), fmt.Sprint(want.BackOff)},
		{"priority policy (Ordered)", priority(have.PriorityPolicy), priority(want.PriorityPolicy)},
		{"priority groups", fmt.Sprint(have.PriorityGroups), fmt.Sprint(want.PriorityGroups)},
		{"pinned TTL (JetStreamConfig.AckWait)", short(have.PinnedTTL), short(want.PinnedTTL)},
		{"deliver subject", quoted(have.DeliverSubject), quoted(want.DeliverSubject)},
		{"inactive threshold", age(int64(have.InactiveThreshold), short(have.InactiveThreshold)), age(int64(want.InactiveThreshold), short(want.InactiveThreshold))},
		{"headers only", strconv.FormatBool(have.HeadersOnly), strconv.FormatBool(want.HeadersOnly)},
		{"replay policy", have.ReplayPolicy.String(), want.ReplayPolicy.String()},
		{"rate limit", bound(int64(have.RateLimit)), bound(int64(want.RateLimit))},
		{"max request batch", bound(int64(have.MaxRequestBatch)), bound(int64(want.MaxRequestBatch))},
		{"max request expires", age(int64(have.MaxRequestExpires), short(have.MaxRequestExpires)), age(int64(want.MaxRequestExpires), short(want.MaxRequestExpires))},
		{"max request bytes", bound(int64(have.MaxRequestMaxBytes)), bound(int64(want.MaxRequestMaxBytes))},
	})
}

func filter(c jetstream.ConsumerConfig) string {
	switch {
	case c.FilterSubject != "":
		return c.FilterSubject
	case len(c.FilterSubjects) > 0:
		return strings.Join(c.FilterSubjects, " ")
	}
	return "all of the stream"
}

func ackPolicy(p jetstream.AckPolicy) string {
	switch p {
	case jetstream.AckAllPolicy:
		return "all"
	case jetstream.AckNonePolicy:
		return "none"
	case jetstream.AckExplicitPolicy:
		return "explicit"
	}
	return "another one"
}

func priority(p jetstream.PriorityPolicy) string {
	switch p {
	case jetstream.PriorityPolicyNone:
		return "none"
	case jetstream.PriorityPolicyPinned:
		return "pinned client"
	}
	return "another one"
}

func quoted(s string) string {
	if s == "" {
		return "none"
	}
	return strconv.Quote(s)
}

// consumerMismatch is the error of a consumer that is not as it was asked for.
func (b *jetStream) consumerMismatch(what, stream, name string, ds []difference) error {
	return status.Errorf(status.FailedPrecondition,
		"%s: consumer %q of stream %q at %s: %s (change the options, or the consumer with \"nats consumer edit %s %s\"; \"nats consumer rm\" has the group start anew; it was not changed)",
		what, name, stream, b.where(), sentence(ds, "the options ask for"), stream, name)
}
