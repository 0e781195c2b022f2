package nats

import (
	"context"
	"encoding/json"
	"log/slog"
	"maps"
	"regexp"
	"slices"
	"strings"
	"time"

	natsgo "github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/micro"

	"github.com/protomicro/micro/runtime/status"
	"github.com/protomicro/micro/runtime/transport"
	"github.com/protomicro/micro/runtime/transport/internal/wire"
)

// The tools of NATS find services by a convention (ADR-32): every instance answers
// questions at subjects below $SRV, and says there which of its subjects take plain
// requests. It needs nothing of the server but messages.

// plainQueue is the queue group of plain requests, by the convention.
const plainQueue = micro.DefaultQueueGroup

// An advert is one service of a listener, as the convention shows it.
type advert struct {
	identity  micro.ServiceIdentity
	service   string // its full name
	started   time.Time
	endpoints []endpoint
}

type endpoint struct {
	transport.Endpoint
	subject string
}

// serviceName is a service's full name where a name has letters, digits, '-' and '_'
// only. Names in protobuf have no '-', so it can be undone.
func serviceName(service string) string { return strings.ReplaceAll(service, ".", "-") }

// versionPattern is that of a semantic version.
var versionPattern = regexp.MustCompile(`^(0|[1-9]\d*)\.(0|[1-9]\d*)\.(0|[1-9]\d*)` +
	`(-(0|[1-9]\d*|\d*[a-zA-Z-][0-9a-zA-Z-]*)(\.(0|[1-9]\d*|\d*[a-zA-Z-][0-9a-zA-Z-]*))*)?` +
	`(\+[0-9a-zA-Z-]+(\.[0-9a-zA-Z-]+)*)?$`)

// noVersion stands for a version that is none or is not a semantic one.
const noVersion = "0.0.0"

func semanticVersion(version string) string {
	if v := strings.TrimPrefix(version, "v"); versionPattern.MatchString(v) {
		return v
	}
	return noVersion
}

// adverts are the services of a listener, sorted by name.
func (l *listener) adverts(cfg transport.ListenConfig) []*advert {
	now := time.Now().UTC()
	var as []*advert
	for _, service := range slices.Compact(slices.Sorted(slices.Values(cfg.Services))) {
		md := map[string]string{"service": service, "address": string(l.Address())}
		if cfg.Version != "" {
			md["version"] = cfg.Version
		}
		a := &advert{
			service: service,
			started: now,
			identity: micro.ServiceIdentity{
				Name: serviceName(service), ID: l.instance, Version: semanticVersion(cfg.Version), Metadata: md,
			},
		}
		for _, e := range cfg.Endpoints {
			if e.Service == service && wire.DottedName(e.Method) && !strings.Contains(e.Method, ".") {
				a.endpoints = append(a.endpoints, endpoint{e, l.transport.cfg.methodSubject(service, e.Method)})
			}
		}
		as = append(as, a)
	}
	return as
}

// announce makes the listener known to tools, and its methods to plain requests. A
// connection whose permissions forbid that serves all others as ever.
func (l *listener) announce(ctx context.Context, cfg transport.ListenConfig) error {
	t := l.transport
	as := l.adverts(cfg)
	if len(as) == 0 {
		return nil
	}
	requests := len(l.requests)
	for _, a := range as {
		if len(a.endpoints) == 0 {
			continue
		}
		if err := l.add(&l.requests, t.cfg.methodSubject(a.service, "*"), plainQueue, l.receivePlain); err != nil {
			return err
		}
	}
	for verb, say := range map[micro.Verb]func(*advert) any{
		micro.PingVerb:  func(a *advert) any { return a.ping() },
		micro.InfoVerb:  func(a *advert) any { return a.info() },
		micro.StatsVerb: func(a *advert) any { return a.stats() },
	} {
		all := micro.APIPrefix + "." + verb.String()
		if err := l.answerAt(all, as, say); err != nil {
			return err
		}
		for _, a := range as {
			named := all + "." + a.identity.Name
			if err := l.answerAt(named, []*advert{a}, say); err != nil {
				return err
			}
			if err := l.answerAt(named+"."+a.identity.ID, []*advert{a}, say); err != nil {
				return err
			}
		}
	}
	if err := t.flush(ctx); err != nil {
		return status.Errorf(status.Unavailable, "%w", err)
	}
	if err := t.permissionFault(l.requests[requests:], l.monitors); err != nil {
		t.cfg.Logger.LogAttrs(ctx, slog.LevelWarn,
			"NATS forbids some of the subscriptions of the services API; its tools do not see or reach this instance",
			slog.String("instance", l.instance), slog.Any("error", err))
	}
	return nil
}

// answerAt answers the questions at a subject for these services. The subscription is
// in no queue group: every instance answers.
func (l *listener) answerAt(subject string, as []*advert, say func(*advert) any) error {
	return l.add(&l.monitors, subject, "", func(m *natsgo.Msg) {
		if !l.answerable(m) {
			return
		}
		for _, a := range as {
			body, err := json.Marshal(say(a))
			if err == nil {
				err = l.transport.nc.Publish(m.Reply, body)
			}
			if err != nil {
				l.transport.cfg.Logger.Warn("a question about a service could not be answered",
					"instance", l.instance, "service", a.service, "subject", m.Subject, "error", err)
			}
		}
	})
}

func (a *advert) ping() micro.Ping {
	return micro.Ping{ServiceIdentity: a.identity, Type: micro.PingResponseType}
}

func (a *advert) info() micro.Info {
	out := micro.Info{
		ServiceIdentity: a.identity,
		Type:            micro.InfoResponseType,
		Description:     a.service,
		Endpoints:       make([]micro.EndpointInfo, 0, len(a.endpoints)),
	}
	for _, e := range a.endpoints {
		md := maps.Clone(e.Metadata)
		if md == nil {
			md = map[string]string{}
		}
		out.Endpoints = append(out.Endpoints, micro.EndpointInfo{Name: e.Method, Subject: e.subject, QueueGroup: plainQueue, Metadata: md})
	}
	return out
}

func (a *advert) stats() micro.Stats {
	out := micro.Stats{
		ServiceIdentity: a.identity,
		Type:            micro.StatsResponseType,
		Started:         a.started,
		Endpoints:       make([]*micro.EndpointStats, 0, len(a.endpoints)),
	}
	for _, e := range a.endpoints {
		es := &micro.EndpointStats{Name: e.Method, Subject: e.subject, QueueGroup: plainQueue}
		if e.Figures != nil {
			f := e.Figures()
			es.NumRequests, es.NumErrors, es.LastError = int(f.Requests), int(f.Errors), f.LastError
			es.ProcessingTime = f.Time
			if f.Requests > 0 {
				es.AverageProcessingTime = f.Time / time.Duration(f.Requests)
			}
		}
		out.Endpoints = append(out.Endpoints, es)
	}
	return out
}
