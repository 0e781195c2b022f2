package main

import (
	"flag"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"time"

	"github.com/protomicro/micro/runtime/gateway"
	"github.com/protomicro/micro/runtime/registry/etcd"
	"github.com/protomicro/micro/runtime/server"
	"github.com/protomicro/micro/runtime/transport"
	"github.com/protomicro/micro/runtime/transport/http"
	"github.com/protomicro/micro/runtime/transport/nats"
)

// Settings are what the flags say.
type settings struct {
	listen                     string
	tlsCert, tlsKey, tlsClient string

	services    list
	descriptors string
	reflection  bool

	natsURL, natsCreds, natsCA, natsPrefix string
	natsConnections                        int

	etcd                       list
	etcdPrefix                 string
	etcdCA, etcdCert, etcdKey  string
	etcdUser, etcdPasswordFile string

	tokenFile string
	strip     list

	origins, corsHeaders, corsExpose list
	corsCredentials                  bool
	corsMaxAge                       time.Duration

	timeout, maxTimeout                  time.Duration
	maxMessage                           int
	maxConcurrent, maxQueued, maxStreams int

	drain, stop time.Duration
	debug       bool
	version     bool
}

// A list is a flag of several values with commas between them. Given again, it has more.
type list []string

func (l *list) String() string { return strings.Join(*l, ",") }

// Set implements [flag.Value].
func (l *list) Set(text string) error {
	for part := range strings.SplitSeq(text, ",") {
		if part = strings.TrimSpace(part); part != "" {
			*l = append(*l, part)
		}
	}
	return nil
}

func (s *settings) flags() *flag.FlagSet {
	f := flag.NewFlagSet(name, flag.ContinueOnError)
	f.SetOutput(io.Discard) // the error says it

	f.StringVar(&s.listen, "listen", "127.0.0.1:8080", "`address` to take calls at; \":8080\" is every interface's")
	f.StringVar(&s.tlsCert, "tls-cert", "", "`file` with the certificate chain in PEM; without one there is no TLS")
	f.StringVar(&s.tlsKey, "tls-key", "", "`file` with the key of -tls-cert in PEM")
	f.StringVar(&s.tlsClient, "tls-client-ca", "", "`file` with the CAs in PEM that clients' certificates, which are then required, are of")

	f.Var(&s.services, "services", "`patterns` of the services to expose: greet.v1.Greeter,shop.* (required)")
	f.StringVar(&s.descriptors, "descriptors", "", "`file` with a FileDescriptorSet, for services without reflection")
	f.BoolVar(&s.reflection, "reflection", true, "tell clients the schema of the exposed services")

	f.StringVar(&s.natsURL, "nats", "nats://127.0.0.1:4222", "`URLs` of NATS servers")
	f.StringVar(&s.natsCreds, "nats-creds", "", "`file` with NATS credentials")
	f.StringVar(&s.natsCA, "nats-ca", "", "`file` with the CAs in PEM that NATS servers' certificates are of")
	f.StringVar(&s.natsPrefix, "nats-prefix", nats.DefaultPrefix, "`words` that the subjects begin with")
	f.IntVar(&s.natsConnections, "nats-connections", 1, "connections to NATS, over which instances are spread")

	f.Var(&s.etcd, "etcd", "`endpoints` of etcd (default 127.0.0.1:2379)")
	f.StringVar(&s.etcdPrefix, "etcd-prefix", etcd.DefaultPrefix, "`prefix` of the registry's keys")
	f.StringVar(&s.etcdCA, "etcd-ca", "", "`file` with the CAs in PEM that etcd's certificates are of")
	f.StringVar(&s.etcdCert, "etcd-cert", "", "`file` with a client's certificate for etcd in PEM")
	f.StringVar(&s.etcdKey, "etcd-key", "", "`file` with the key of -etcd-cert in PEM")
	f.StringVar(&s.etcdUser, "etcd-user", "", "`name` to log in to etcd with")
	f.StringVar(&s.etcdPasswordFile, "etcd-password-file", "", "`file` with the password of -etcd-user")

	f.StringVar(&s.tokenFile, "token-file", "", "`file` of tokens, one a line; calls then need one as \"authorization: Bearer TOKEN\"")
	f.Var(&s.strip, "strip", "`keys` of headers that services do not get, beside authorization with -token-file")

	f.Var(&s.origins, "cors-origins", "`origins` of web pages that may make calls: https://app.example.com, https://*.example.com or *")
	f.Var(&s.corsHeaders, "cors-headers", "`keys` of headers that pages may send beside those of the protocols, or *")
	f.Var(&s.corsExpose, "cors-expose", "`keys` of headers that pages may read beside those of the protocols")
	f.BoolVar(&s.corsCredentials, "cors-credentials", false, "let pages send cookies")
	f.DurationVar(&s.corsMaxAge, "cors-max-age", gateway.DefaultCORSMaxAge, "how long browsers may go by the answer to a preflight request")

	f.DurationVar(&s.timeout, "timeout", server.DefaultTimeout, "time of a call whose client states none")
	f.DurationVar(&s.maxTimeout, "max-timeout", 0, "most time of a call that is no stream, whatever its client states (default no bound)")
	f.IntVar(&s.maxMessage, "max-message", http.DefaultMaxMessage, "largest message, in bytes")
	f.IntVar(&s.maxConcurrent, "max-concurrent", transport.DefaultMaxConcurrent, "calls at one time")
	f.IntVar(&s.maxQueued, "max-queued", transport.DefaultMaxQueued, "calls that wait for their turn; -1 is none")
	f.IntVar(&s.maxStreams, "max-streams", transport.DefaultMaxStreams, "streams at one time")

	f.DurationVar(&s.drain, "drain", time.Second, "how long to serve on after SIGTERM, with health NOT_SERVING")
	f.DurationVar(&s.stop, "stop-timeout", 30*time.Second, "how long calls may take to end after SIGTERM")
	f.BoolVar(&s.debug, "debug", false, "log more")
	f.BoolVar(&s.version, "version", false, "print the version")
	return f
}

// parse reads the arguments and checks what needs nothing else.
func parse(args []string) (*settings, error) {
	var s settings
	f := s.flags()
	if err := f.Parse(args); err != nil {
		return nil, err
	}
	if s.version {
		return &s, nil
	}
	if f.NArg() > 0 {
		return nil, fmt.Errorf("unknown argument %q", f.Arg(0))
	}
	if len(s.etcd) == 0 {
		s.etcd = list{"127.0.0.1:2379"}
	}
	for _, pair := range []struct{ a, b, nameA, nameB string }{
		{s.tlsCert, s.tlsKey, "-tls-cert", "-tls-key"},
		{s.etcdCert, s.etcdKey, "-etcd-cert", "-etcd-key"},
		{s.etcdUser, s.etcdPasswordFile, "-etcd-user", "-etcd-password-file"},
	} {
		if (pair.a == "") != (pair.b == "") {
			return nil, fmt.Errorf("%s and %s need each other", pair.nameA, pair.nameB)
		}
	}
	switch {
	case len(s.services) == 0:
		return nil, fmt.Errorf("-services is missing: name what to expose, such as -services 'greet.v1.*'")
	case s.tlsClient != "" && s.tlsCert == "":
		return nil, fmt.Errorf("-tls-client-ca needs -tls-cert and -tls-key")
	case len(s.origins) == 0 && (s.corsCredentials || len(s.corsHeaders)+len(s.corsExpose) > 0):
		return nil, fmt.Errorf("-cors-credentials, -cors-headers and -cors-expose need -cors-origins")
	case s.drain < 0 || s.stop <= s.drain:
		return nil, fmt.Errorf("-stop-timeout is %v, which leaves calls nothing after the -drain of %v", s.stop, s.drain)
	}
	return &s, nil
}

// level is what is logged.
func (s *settings) level() slog.Level {
	if s.debug {
		return slog.LevelDebug
	}
	return slog.LevelInfo
}

// usage is the help.
func usage() string {
	var b strings.Builder
	b.WriteString(`micro-gateway exposes services that are registered in etcd and reached over NATS to
clients of Connect, gRPC, gRPC-Web and JSON over HTTP/1.1 and HTTP/2.

  micro-gateway -services 'greet.v1.*' -nats nats://127.0.0.1:4222 -etcd 127.0.0.1:2379
  curl -d '{"name":"Ada"}' -H 'content-type: application/json' http://127.0.0.1:8080/greet.v1.Greeter/Hello

Services tell it their methods by reflection (package runtime/reflection), or -descriptors
does. Flags that take several values take them with commas between.

Flags:
`)
	f := new(settings).flags()
	f.SetOutput(&b)
	f.PrintDefaults()
	return b.String()
}
