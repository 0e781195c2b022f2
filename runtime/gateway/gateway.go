// Package gateway exposes services of a registry to clients that are not part of the
// system: it takes their calls over one transport, which is mostly that over HTTP with
// Connect, gRPC, gRPC-Web, JSON and JSON-RPC, and passes them on over another.
//
// It has no generated code of the services. Messages pass as the bytes they are; what
// it has to know of a method, which is its kind and whether it may be run twice, it
// learns from the instances themselves (package reflection), or from descriptors that
// it is given. Everything that a client does holds for what it passes on: selection,
// attempts and their budget, deadlines, cancellation.
//
// docs/gateway.md has the program of the same name and says what is to be thought of.
package gateway

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"time"

	"google.golang.org/protobuf/types/descriptorpb"

	"github.com/protomicro/micro/runtime/client"
	"github.com/protomicro/micro/runtime/health"
	"github.com/protomicro/micro/runtime/reflection"
	"github.com/protomicro/micro/runtime/server"
	"github.com/protomicro/micro/runtime/transport"
)

// Config says what a gateway listens on, what it exposes and how it passes calls on.
type Config struct {
	// Server is the side that clients see: its Transport, which is required, and its
	// limits. The gateway sets Codecs and Resolve, and adds Authenticate behind the
	// Interceptors.
	Server server.Config
	// Client is the side that services see: its Transport, which is required, its
	// Registry, and how calls are selected and sent again. The gateway sets the codec of
	// each call. Without a Registry there are the services of Files alone, and the
	// transport finds the instances by name.
	Client client.Config
	// Expose says whether a service, by its full name, is there for clients; one that is
	// not is answered like one that does not exist. It is called for each call, and never
	// blocks. Required; see [Match].
	Expose func(service string) bool
	// Files are descriptors, with all that they import, of services that do not tell
	// theirs by reflection. What they say of a service counts, and its instances are
	// not asked. Default: none.
	Files *descriptorpb.FileDescriptorSet
	// Authenticate is called before each call is passed on, the gateway's own health and
	// reflection included, and before a request's message is decoded. An error refuses
	// the call: a *status.Error reaches the client as it is, any other as a bare
	// Unauthenticated. The context that it returns takes the place of the call's; what it
	// adds there by [metadata.Append] goes to the service, in place of what the client
	// sent under the same keys. Default: none, and everybody may call.
	Authenticate func(ctx context.Context, req *Request) (context.Context, error)
	// Strip are the keys of request metadata that are not passed on, beside
	// "authorization" where there is an Authenticate, which may put it back. Default:
	// none.
	Strip []string
	// MaxTimeout bounds a unary call whatever deadline its client states. Default: none;
	// Server.Timeout holds where it states none.
	MaxTimeout time.Duration
	// NoReflection has the gateway not tell the schema of the services that it exposes.
	// Default: it does, by reflection, to whoever Authenticate lets through.
	NoReflection bool
	// DrainDelay is how long Shutdown goes on serving once the gateway's health says
	// NOT_SERVING, for load balancers to see it. Default: none.
	DrainDelay time.Duration
}

// A Gateway is one that runs, between Start and Shutdown. It is safe for concurrent
// use.
type Gateway struct {
	cfg     Config
	server  *server.Server
	client  *client.Client
	health  *health.Server
	catalog *catalog
}

// New makes a gateway. It takes no calls before [Gateway.Start]; [Gateway.Shutdown]
// frees what it has in any case. An error names the field of cfg that is at fault.
func New(cfg Config) (*Gateway, error) {
	switch {
	case cfg.Server.Transport == nil:
		return nil, errors.New("gateway: Config.Server.Transport is nil (give it what clients are to come by, such as http.New)")
	case cfg.Client.Transport == nil:
		return nil, errors.New("gateway: Config.Client.Transport is nil (give it what services are reached by, such as nats.New)")
	case cfg.Expose == nil:
		return nil, errors.New("gateway: Config.Expose is nil (say which services are exposed, such as by gateway.Match)")
	case cfg.Client.Registry == nil && cfg.Files == nil:
		return nil, errors.New("gateway: neither Config.Client.Registry nor Config.Files says which services there are")
	case cfg.Server.Resolve != nil || cfg.Server.Codecs != nil:
		return nil, errors.New("gateway: Config.Server has a Resolve or Codecs, which are the gateway's to set")
	case cfg.MaxTimeout < 0:
		return nil, fmt.Errorf("gateway: Config.MaxTimeout is %v", cfg.MaxTimeout)
	case cfg.DrainDelay < 0:
		return nil, fmt.Errorf("gateway: Config.DrainDelay is %v", cfg.DrainDelay)
	}
	if cfg.Server.Logger == nil {
		cfg.Server.Logger = slog.Default()
	}
	if cfg.Authenticate != nil {
		cfg.Strip = append([]string{"authorization"}, cfg.Strip...)
	}
	fixed, err := describedBy(cfg.Files)
	if err != nil {
		return nil, fmt.Errorf("gateway: Config.Files: %w", err)
	}
	g := &Gateway{cfg: cfg, health: health.New()}
	if g.client, err = client.New(cfg.Client); err != nil {
		return nil, fmt.Errorf("gateway: %w", err)
	}
	f := &forwarder{client: g.client, strip: lowered(cfg.Strip), maxTimeout: cfg.MaxTimeout, logger: cfg.Server.Logger}
	g.catalog = newCatalog(catalogConfig{
		registry: cfg.Client.Registry,
		schemes:  schemes(&cfg.Client),
		expose:   cfg.Expose,
		fixed:    fixed,
		fetch:    g.fetch,
		serve:    f.serve,
		logger:   cfg.Server.Logger,
	})
	if err := g.newServer(); err != nil {
		g.free()
		return nil, err
	}
	return g, nil
}

// schemes are those of the addresses that a client can call.
func schemes(cfg *client.Config) []string {
	all := []string{cfg.Transport.Scheme()}
	for _, t := range cfg.Fallbacks {
		all = append(all, t.Scheme())
	}
	return all
}

func (g *Gateway) newServer() error {
	sc := g.cfg.Server
	sc.Codecs = codecs
	sc.Resolve = g.catalog.method
	sc.Interceptors = slices.Clone(sc.Interceptors)
	if g.cfg.Authenticate != nil {
		sc.Interceptors = append(sc.Interceptors, authenticated(g.cfg.Authenticate))
	}
	var err error
	if g.server, err = server.New(sc); err != nil {
		return fmt.Errorf("gateway: %w", err)
	}
	if err := g.health.Register(g.server); err != nil {
		return fmt.Errorf("gateway: %w", err)
	}
	if g.cfg.NoReflection {
		return nil
	}
	if err := reflection.Register(g.server, reflection.Config{Files: resolver{g.catalog}, Services: g.services}); err != nil {
		return fmt.Errorf("gateway: %w", err)
	}
	return nil
}

// services are those that clients can call, with the gateway's own.
func (g *Gateway) services() []string {
	ctx, cancel := context.WithTimeout(context.Background(), askTimeout)
	defer cancel()
	return append(g.catalog.exposed(ctx), g.server.Registered()...)
}

// fetch asks one instance of a service for its descriptors.
func (g *Gateway) fetch(ctx context.Context, service string, addr transport.Address) (*descriptorpb.FileDescriptorSet, error) {
	return reflection.Fetch(ctx, g.client, []string{service}, client.WithAddress(addr))
}

// Start listens, and returns once calls that others send reach the gateway. ctx bounds
// the setting up only. A gateway starts once.
func (g *Gateway) Start(ctx context.Context) error {
	if err := g.server.Start(ctx); err != nil {
		return fmt.Errorf("gateway: %w", err)
	}
	g.health.SetDefault("", health.Serving)
	return nil
}

// Address is where the gateway listens, empty before Start.
func (g *Gateway) Address() transport.Address { return g.server.Address() }

// Shutdown says by health that the gateway is about to stop, waits for Config.DrainDelay,
// stops taking calls, waits for those that it has, and frees what it holds of services.
// When ctx ends first, the calls that still run are cancelled and ctx's error is
// returned. The transports and the registry stay open.
func (g *Gateway) Shutdown(ctx context.Context) error {
	g.health.Close()
	if g.cfg.DrainDelay > 0 && g.Address() != "" {
		timer := time.NewTimer(g.cfg.DrainDelay)
		defer timer.Stop()
		select {
		case <-timer.C:
		case <-ctx.Done():
		}
	}
	err := g.server.Shutdown(ctx)
	g.free()
	if err != nil {
		return fmt.Errorf("gateway: %w", err)
	}
	return nil
}

// free ends what is not the server's. Doing so again does nothing.
func (g *Gateway) free() {
	g.catalog.close()
	_ = g.client.Close() // has no error to tell
}

// lowered is a set of keys of metadata.
func lowered(keys []string) map[string]bool {
	set := make(map[string]bool, len(keys))
	for _, k := range keys {
		set[strings.ToLower(k)] = true
	}
	return set
}
