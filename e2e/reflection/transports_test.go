package reflection

import (
	"crypto/tls"
	"crypto/x509"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protodesc"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/dynamicpb"

	"github.com/protomicro/micro/e2e/internal/natstest"
	"github.com/protomicro/micro/internal/echotest"
	echov1 "github.com/protomicro/micro/internal/gen/echo/v1"
	"github.com/protomicro/micro/runtime/client"
	"github.com/protomicro/micro/runtime/codec/jsonrpc"
	"github.com/protomicro/micro/runtime/reflection"
	"github.com/protomicro/micro/runtime/rpc"
	"github.com/protomicro/micro/runtime/server"
	"github.com/protomicro/micro/runtime/status"
	"github.com/protomicro/micro/runtime/transport"
	"github.com/protomicro/micro/runtime/transport/http"
	"github.com/protomicro/micro/runtime/transport/nats"
)

func overNATS(t *testing.T, ns *natstest.Server) transport.Transport {
	t.Helper()
	tr, err := nats.New(ns.Connect(t), nats.Config{Logger: echotest.Quiet()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = tr.Close() }) // the error is always nil
	return tr
}

func overHTTP(t *testing.T, cfg http.Config) transport.Transport {
	t.Helper()
	cfg.Logger = echotest.Quiet()
	tr, err := http.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := tr.Close(); err != nil {
			t.Error(err)
		}
	})
	return tr
}

// certificates are for servers on 127.0.0.1, and for their clients.
func certificates(t *testing.T) (forServer, forClient *tls.Config, cert *x509.Certificate) {
	t.Helper()
	s := httptest.NewUnstartedServer(nil) // which has a certificate for 127.0.0.1
	s.StartTLS()
	t.Cleanup(s.Close)
	roots := x509.NewCertPool()
	roots.AddCert(s.Certificate())
	return &tls.Config{Certificates: s.TLS.Certificates}, &tls.Config{RootCAs: roots}, s.Certificate()
}

// A client that has no generated code learns the schema and calls by it.
func TestTransports(t *testing.T) {
	notLinked(t)
	ns := natstest.Start(t)
	forServer, forClient, _ := certificates(t)
	for name, open := range map[string]func(t *testing.T) transport.Transport{
		"NATS": func(t *testing.T) transport.Transport { return overNATS(t, ns) },
		"HTTP": func(t *testing.T) transport.Transport { return overHTTP(t, http.Config{}) },
		"HTTPS": func(t *testing.T) transport.Transport {
			return overHTTP(t, http.Config{ServerTLS: forServer, ClientTLS: forClient})
		},
	} {
		t.Run(name, func(t *testing.T) {
			s := serve(t, open(t))
			c := echotest.Dial(t, client.Config{Transport: open(t)})
			for _, opts := range [][]client.CallOption{nil, {client.WithCodec(jsonrpc.New())}} {
				opts = append(opts, client.WithAddress(s.Address()))
				names, err := reflection.ListServices(within(t), c, opts...)
				if err != nil || !slices.Equal(names, services) {
					t.Fatalf("list %q, %v", names, err)
				}
				set, err := reflection.Fetch(within(t), c, names, opts...)
				if err != nil {
					t.Fatal(err)
				}
				files, err := protodesc.NewFiles(set)
				if err != nil {
					t.Fatal(err)
				}
				d, err := files.FindDescriptorByName("echo.v1.Echo.Echo")
				if err != nil {
					t.Fatal(err)
				}
				m := d.(protoreflect.MethodDescriptor)
				req, res := dynamicpb.NewMessage(m.Input()), dynamicpb.NewMessage(m.Output())
				req.Set(m.Input().Fields().ByName("text"), protoreflect.ValueOfString("hello"))
				spec := &rpc.Spec{Service: "echo.v1.Echo", Method: "Echo", Procedure: "echo.v1.Echo/Echo"}
				if err := c.Call(within(t), spec, req, res, opts...); err != nil {
					t.Fatal(err)
				}
				if got := res.Get(m.Output().Fields().ByName("text")).String(); got != "hello" {
					t.Errorf("got %q", got)
				}
				local := protodesc.ToFileDescriptorProto(echov1.File_echo_v1_echo_proto)
				if got := protodesc.ToFileDescriptorProto(m.ParentFile()); !proto.Equal(got, local) {
					t.Errorf("the file is %v, want %v", got, local)
				}
			}
			if _, err := reflection.Fetch(within(t), c, []string{"echo.v1.Nobody"}, client.WithAddress(s.Address())); status.CodeOf(err) != status.NotFound {
				t.Errorf("an unknown symbol: %v", err)
			}

			without, _ := echotest.Serve(t, server.Config{Transport: open(t), Logger: echotest.Quiet()})
			_, err := reflection.ListServices(within(t), c, client.WithAddress(without.Address()))
			if status.CodeOf(err) != status.Unimplemented || !strings.Contains(err.Error(), "reflection.Register") {
				t.Errorf("a server without reflection: %v", err)
			}
		})
	}
}
