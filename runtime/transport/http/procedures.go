package http

import (
	"context"
	nethttp "net/http"
	"strings"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/descriptorpb"

	"github.com/protomicro/micro/runtime/rpc"
	"github.com/protomicro/micro/runtime/status"
	"github.com/protomicro/micro/runtime/transport"
)

// A specifier is a transport.Handler that knows its methods, as that of a
// server.Server does.
type specifier interface {
	// Spec is the method of a procedure. The error, a [*status.Error], says why there is
	// none. What it returns may change from one request to the next.
	Spec(ctx context.Context, procedure string) (*rpc.Spec, error)
}

// specOf is what files say about a procedure, or nil.
func specOf(files Resolver, procedure string) *rpc.Spec {
	service, name, ok := strings.Cut(procedure, "/")
	full := protoreflect.FullName(service).Append(protoreflect.Name(name))
	if !ok || !full.IsValid() {
		return nil
	}
	d, err := files.FindDescriptorByName(full)
	if err != nil {
		return nil
	}
	m, ok := d.(protoreflect.MethodDescriptor)
	if !ok {
		return nil
	}
	spec := &rpc.Spec{Service: service, Method: name, Procedure: procedure}
	if m.IsStreamingClient() {
		spec.Kind |= rpc.ClientStream
	}
	if m.IsStreamingServer() {
		spec.Kind |= rpc.ServerStream
	}
	if o, ok := m.Options().(*descriptorpb.MethodOptions); ok {
		switch o.GetIdempotencyLevel() {
		case descriptorpb.MethodOptions_NO_SIDE_EFFECTS:
			spec.Idempotency = rpc.NoSideEffects
		case descriptorpb.MethodOptions_IDEMPOTENT:
			spec.Idempotency = rpc.Idempotent
		case descriptorpb.MethodOptions_IDEMPOTENCY_UNKNOWN:
		}
	}
	return spec
}

func (l *listener) handlerOptions(spec *rpc.Spec) []connect.HandlerOption {
	options := []connect.HandlerOption{
		connect.WithReadMaxBytes(l.transport.cfg.MaxReceive),
		connect.WithSendMaxBytes(l.transport.cfg.MaxMessage),
		connect.WithCompressMinBytes(l.transport.cfg.GzipMinSize),
	}
	for _, c := range codecs {
		options = append(options, connect.WithCodec(c))
	}
	switch spec.Idempotency {
	case rpc.NoSideEffects: // which makes it one for GET as well
		options = append(options, connect.WithIdempotency(connect.IdempotencyNoSideEffects))
	case rpc.Idempotent:
		options = append(options, connect.WithIdempotency(connect.IdempotencyIdempotent))
	case rpc.IdempotencyUnknown:
	}
	return options
}

// spec is the method of a procedure. The error says why there is none.
func (l *listener) spec(ctx context.Context, procedure string) (*rpc.Spec, error) {
	if s, ok := l.cfg.Handler.(specifier); ok {
		return s.Spec(ctx, procedure)
	}
	if h, ok := l.procedures.Load(procedure); ok {
		return h.(*procedureHandler).spec, nil
	}
	if spec := specOf(l.transport.cfg.Files, procedure); spec != nil {
		return spec, nil
	}
	return nil, status.Errorf(status.Unimplemented, "no method %.120q here", procedure)
}

// handler is what serves a method in Connect, gRPC and gRPC-Web. There are as many as
// the listener has methods; one whose method has changed is made anew.
func (l *listener) handler(spec *rpc.Spec) *procedureHandler {
	procedure := spec.Procedure
	if h, ok := l.procedures.Load(procedure); ok && h.(*procedureHandler).spec == spec {
		return h.(*procedureHandler)
	}
	options := l.handlerOptions(spec)
	x := &exchange{listener: l, procedure: procedure, kind: spec.Kind}
	h := &procedureHandler{spec: spec}
	switch spec.Kind {
	case rpc.Unary:
		h.Handler = connect.NewUnaryHandler("/"+procedure, x.unary, options...)
	case rpc.ServerStream:
		h.Handler = connect.NewServerStreamHandler("/"+procedure, x.serverStream, options...)
	case rpc.ClientStream:
		h.Handler = connect.NewClientStreamHandler("/"+procedure, x.clientStream, options...)
	case rpc.BidiStream:
		h.Handler = connect.NewBidiStreamHandler("/"+procedure, x.bidiStream, options...)
	}
	l.procedures.Store(procedure, h)
	return h
}

// A procedureHandler serves one procedure.
type procedureHandler struct {
	*connect.Handler
	spec *rpc.Spec
}

// serveProcedure is for a request of Connect, gRPC or gRPC-Web.
func (l *listener) serveProcedure(w nethttp.ResponseWriter, r *nethttp.Request) {
	procedure := strings.TrimPrefix(r.URL.Path, "/")
	spec, err := l.spec(r.Context(), procedure)
	if err != nil {
		l.serveUnknown(w, r, procedure, status.From(err))
		return
	}
	rc := nethttp.NewResponseController(w)
	if spec.Kind&rpc.ClientStream == 0 {
		if spec.Kind == rpc.Unary {
			if refusal := l.enter(); refusal != nil {
				l.writeError(w, r, status.New(refusal.Code, refusal.Message))
				return
			}
			defer l.leave()
			if u, ok := plainUnaryOf(r); ok {
				l.servePlainUnary(w, r, procedure, u)
				return
			}
		}
		_ = rc.SetReadDeadline(time.Now().Add(l.transport.cfg.ReadTimeout)) // for the one message; both kinds of connections can
	}
	ctx := transport.WithPeer(r.Context(), peerOf(r))
	l.handler(spec).ServeHTTP(w, r.WithContext(withControl(ctx, control{rc, r.ProtoMajor < 2})))
}

// serveUnknown answers for a procedure that is not here, with the reason.
func (l *listener) serveUnknown(w nethttp.ResponseWriter, r *nethttp.Request, procedure string, why *status.Error) {
	if !l.errors.IsSupported(r) || strings.Count(procedure, "/") != 1 {
		nethttp.NotFound(w, r)
		return
	}
	l.writeError(notFound{w}, r, why)
}

// A notFound has the HTTP status that Connect gives for an unknown path, in place of
// that for the error's code.
type notFound struct{ nethttp.ResponseWriter }

func (w notFound) WriteHeader(code int) {
	if code == nethttp.StatusNotImplemented {
		code = nethttp.StatusNotFound
	}
	w.ResponseWriter.WriteHeader(code)
}

func (l *listener) writeError(w nethttp.ResponseWriter, r *nethttp.Request, e *status.Error) {
	if err := l.errors.Write(w, r, toConnect(e)); err != nil {
		l.transport.cfg.Logger.Debug("an error could not be sent", "error", err)
	}
}
