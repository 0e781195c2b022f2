// Package health answers whether a process and its services can be called, by the
// service grpc.health.v1.Health: what crosses the wire is what gRPC's own clients and
// servers speak, over whatever transport the server has.
//
// A micro.Service has one of these and keeps it up to date. Probes over HTTP are in
// package probe.
package health

import (
	"maps"
	"sync"

	healthv1 "github.com/protomicro/micro/internal/gen/health/v1"
	"github.com/protomicro/micro/runtime/server"
)

// ServiceName is the full name of the service.
const ServiceName = "grpc.health.v1.Health"

// Status says whether something can be called.
type Status int32

// The values of a [Status], as they cross the wire.
const (
	Unknown    Status = Status(healthv1.HealthCheckResponse_UNKNOWN)
	Serving    Status = Status(healthv1.HealthCheckResponse_SERVING)
	NotServing Status = Status(healthv1.HealthCheckResponse_NOT_SERVING)
	// ServiceUnknown is what a watch of a service says that has no status.
	ServiceUnknown Status = Status(healthv1.HealthCheckResponse_SERVICE_UNKNOWN)
)

// String is the name that the value has on the wire, such as NOT_SERVING.
func (s Status) String() string { return healthv1.HealthCheckResponse_ServingStatus(s).String() }

// A Server holds the status of services, by their full names, and that of the process
// as a whole, whose name is empty. It is safe for concurrent use.
type Server struct {
	mu       sync.Mutex
	statuses map[string]Status
	set      map[string]bool // by Set
	changed  chan struct{}   // closed at the next change
	closed   bool
}

// New makes a Server that knows the status of the process alone: NotServing, until that
// is set.
func New() *Server {
	return &Server{
		statuses: map[string]Status{"": NotServing},
		set:      make(map[string]bool),
		changed:  make(chan struct{}),
	}
}

// Set sets the status of a service, or of the process where service is empty. It does
// nothing after Close.
func (s *Server) Set(service string, st Status) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.set[service] = true
	s.change(service, st)
}

// SetDefault is Set where Set was never called for the same service: it is for what
// knows less than the program does.
func (s *Server) SetDefault(service string, st Status) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.set[service] {
		s.change(service, st)
	}
}

// change does what is to be done under s.mu.
func (s *Server) change(service string, st Status) {
	if old, ok := s.statuses[service]; s.closed || ok && old == st {
		return
	}
	s.statuses[service] = st
	s.notify()
}

func (s *Server) notify() {
	close(s.changed)
	s.changed = make(chan struct{})
}

// Close makes every status NotServing for good and ends the watches once they have said
// so. It comes before the shutdown of the server, which waits for them.
func (s *Server) Close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return
	}
	s.closed = true
	for service := range s.statuses {
		s.statuses[service] = NotServing
	}
	s.notify()
}

// Status is the status of a service, and false where it has none.
func (s *Server) Status(service string) (Status, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	st, ok := s.statuses[service]
	return st, ok
}

// all is every status.
func (s *Server) all() map[string]Status {
	s.mu.Lock()
	defer s.mu.Unlock()
	return maps.Clone(s.statuses)
}

// follow is what a watch of service says now, when to look again, and whether that is
// the end of it.
func (s *Server) follow(service string) (st Status, changed <-chan struct{}, closed bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	st, ok := s.statuses[service]
	if !ok {
		st = ServiceUnknown
	}
	return st, s.changed, s.closed
}

// Register adds the service to srv, at that server's own address alone (see
// [server.WithInstanceOnly]). Interceptors run around its calls as around all others.
func (s *Server) Register(srv *server.Server, opts ...server.HandlerOption) error {
	return srv.Register(ServiceName, []server.Method{
		{Spec: specCheck, Serve: s.serveCheck},
		{Spec: specList, Serve: s.serveList},
		{Spec: specWatch, Serve: s.serveWatch},
	}, append([]server.HandlerOption{server.WithInstanceOnly()}, opts...)...)
}
