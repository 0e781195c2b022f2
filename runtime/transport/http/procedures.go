package http

import (
	nethttp "net/http"
	"strings"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/descriptorpb"

	"github.com/protomicro/micro/runtime/rpc"
	"github.com/protomicro/micro/runtime/status"
)

// A specifier is a transport.Handler that knows its methods, as that of a
// server.Server does.
type specifier interface {
	// Spec is the method of a procedure, or nil.
	Spec(procedure string) *rpc.Spec
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

// handler is what serves a procedure in Connect, gRPC and gRPC-Web, or nil. There are as
// many as the listener has methods.
func (l *listener) handler(procedure string) *procedureHandler {
	if h, ok := l.procedures.Load(procedure); ok {
		return h.(*procedureHandler)
	}
	var spec *rpc.Spec
	if s, ok := l.cfg.Handler.(specifier); ok {
		spec = s.Spec(procedure)
	} else {
		spec = specOf(l.transport.cfg.Files, procedure)
	}
	if spec == nil {
		return nil
	}
	options := l.handlerOptions(spec)
	x := &exchange{listener: l, procedure: procedure, kind: spec.Kind}
	h := &procedureHandler{kind: spec.Kind}
	switch spec.Kind {
	case rpc.Unary:
		h.Handler = connect.NewUnaryHandler("/"+procedure, x.unary, options...)
	case rpc.ServerStream:
		h.Handler = connect.NewServerStreamHandler("/"+procedure, x.serverStream, options...)
	case rpc.ClientStream:
		h.Handler = connect.NewClientStreamHandler("/"+procedure, x.clientStream, options...)
	case rpc.BidiStream:
		h.Handler = connect.NewBidiStreamHandler("/"+procedure, x.bidiStream, options...)
	default:
		return nil
	}
	kept, _ := l.procedures.LoadOrStore(procedure, h)
	return kept.(*procedureHandler)
}

// A procedureHandler serves one procedure.
type procedureHandler struct {
	*connect.Handler
	kind rpc.Kind
}

// serveProcedure is for a request of Connect, gRPC or gRPC-Web.
func (l *listener) serveProcedure(w nethttp.ResponseWriter, r *nethttp.Request) {
	procedure := strings.TrimPrefix(r.URL.Path, "/")
	h := l.handler(procedure)
	if h == nil {
		l.serveUnknown(w, r, procedure)
		return
	}
	rc := nethttp.NewResponseController(w)
	if h.kind&rpc.ClientStream == 0 {
		if h.kind == rpc.Unary {
			if refusal := l.enter(); refusal != nil {
				l.writeError(w, r, status.New(refusal.Code, refusal.Message))
				return
			}
			defer l.leave()
		}
		_ = rc.SetReadDeadline(time.Now().Add(l.transport.cfg.ReadTimeout)) // for the one message; both kinds of connections can
	}
	h.ServeHTTP(w, r.WithContext(withControl(r.Context(), control{rc, r.ProtoMajor < 2})))
}

// serveUnknown answers for a procedure that is not here.
func (l *listener) serveUnknown(w nethttp.ResponseWriter, r *nethttp.Request, procedure string) {
	if !l.errors.IsSupported(r) || strings.Count(procedure, "/") != 1 {
		nethttp.NotFound(w, r)
		return
	}
	l.writeError(notFound{w}, r, status.Errorf(status.Unimplemented, "no method %.120q here", procedure))
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
