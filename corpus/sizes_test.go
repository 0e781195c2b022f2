package corpus

import (
	"bytes"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"text/template"

	"github.com/bufbuild/protocompile"
	"github.com/bufbuild/protocompile/protoutil"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/pluginpb"
)

// serviceProto is one service of the programs: five unary methods and one of each kind
// that streams.
const serviceProto = `
edition = "2023";
package sizes.v1;
option go_package = "` + modulePath + `/api";

// Store%[1]d keeps things.
service Store%[1]d {
  // Create makes a thing.
  rpc Create(Request%[1]d) returns (Response%[1]d);
  // Get returns a thing.
  rpc Get(Request%[1]d) returns (Response%[1]d) {
    option idempotency_level = NO_SIDE_EFFECTS;
  }
  // Update changes a thing.
  rpc Update(Request%[1]d) returns (Response%[1]d);
  // Delete removes a thing.
  rpc Delete(Request%[1]d) returns (Response%[1]d) {
    option idempotency_level = IDEMPOTENT;
  }
  // List returns the names of all things.
  rpc List(Request%[1]d) returns (Response%[1]d);
  // Watch tells what becomes of a thing.
  rpc Watch(Request%[1]d) returns (stream Response%[1]d);
  // Upload makes many things.
  rpc Upload(stream Request%[1]d) returns (Response%[1]d);
  // Chat speaks about things.
  rpc Chat(stream Request%[1]d) returns (stream Response%[1]d);
}

// Request%[1]d is what any method takes.
message Request%[1]d {
  string name = 1;
  bytes body = 2;
}

// Response%[1]d is what any method returns.
message Response%[1]d {
  repeated string names = 1;
  bytes body = 2;
}
`

// sizesRequest asks for the code of so many services.
func sizesRequest(t testing.TB, services int) *pluginpb.CodeGeneratorRequest {
	t.Helper()
	sources := make(map[string]string)
	for i := range services {
		sources[fmt.Sprintf("sizes/v1/store%d.proto", i)] = fmt.Sprintf(serviceProto, i)
	}
	compiler := protocompile.Compiler{
		Resolver:       &protocompile.SourceResolver{Accessor: protocompile.SourceAccessorFromMap(sources)},
		SourceInfoMode: protocompile.SourceInfoStandard,
	}
	req := &pluginpb.CodeGeneratorRequest{
		FileToGenerate: slices.Sorted(maps.Keys(sources)),
		Parameter:      proto.String("module=" + modulePath),
	}
	files, err := compiler.Compile(t.Context(), req.FileToGenerate...)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		req.ProtoFile = append(req.ProtoFile, protoutil.ProtoFromFileDescriptor(f))
	}
	return req
}

// mains are the programs: each serves all services, has a client of each, and calls
// every method, so that the linker leaves nothing away.
var mains = map[string]string{
	"micro": `
import (
	micro "github.com/protomicro/micro/runtime"
	"github.com/protomicro/micro/runtime/client"
	"github.com/protomicro/micro/runtime/transport/nats"
	"MODULE/api/apimicro"
)

func main() {
	ctx := context.Background()
	t, err := nats.Dial(ctx, os.Args[1], nats.Config{})
	must(err)
	s, err := micro.New(micro.Config{Name: "sizes", Transport: t})
	must(err)
	c, err := client.New(client.Config{Transport: t})
	must(err)
{{- template "micro" .}}
	must(s.Run(ctx))
}
`,
	"micro-etcd": `
import (
	clientv3 "go.etcd.io/etcd/client/v3"

	micro "github.com/protomicro/micro/runtime"
	"github.com/protomicro/micro/runtime/client"
	"github.com/protomicro/micro/runtime/registry/etcd"
	"github.com/protomicro/micro/runtime/transport/nats"
	"MODULE/api/apimicro"
)

func main() {
	ctx := context.Background()
	t, err := nats.Dial(ctx, os.Args[1], nats.Config{})
	must(err)
	ec, err := clientv3.New(clientv3.Config{Endpoints: os.Args[2:]})
	must(err)
	r, err := etcd.New(ec, etcd.Config{})
	must(err)
	s, err := micro.New(micro.Config{Name: "sizes", Transport: t, Registry: r})
	must(err)
	c, err := client.New(client.Config{Transport: t, Registry: r})
	must(err)
{{- template "micro" .}}
	must(s.Run(ctx))
}
`,
	"grpc": `
import (
	"net"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
)

func main() {
	ctx := context.Background()
	l, err := net.Listen("tcp", os.Args[1])
	must(err)
	s := grpc.NewServer()
	c, err := grpc.NewClient(os.Args[1], grpc.WithTransportCredentials(insecure.NewCredentials()))
	must(err)
{{- range .}}
	api.RegisterStore{{.}}Server(s, api.UnimplementedStore{{.}}Server{})
	go func() {
		c := api.NewStore{{.}}Client(c)
		req := new(api.Request{{.}})
		use(c.Create(ctx, req))
		use(c.Get(ctx, req))
		use(c.Update(ctx, req))
		use(c.Delete(ctx, req))
		use(c.List(ctx, req))
		watch, err := c.Watch(ctx, req)
		must(err)
		use(watch.Recv())
		upload, err := c.Upload(ctx)
		must(err)
		must(upload.Send(req))
		use(upload.CloseAndRecv())
		chat, err := c.Chat(ctx)
		must(err)
		must(chat.Send(req))
		use(chat.Recv())
	}()
{{- end}}
	must(s.Serve(l))
}
`,
	"connect": `
import (
	"net/http"

	"connectrpc.com/connect/v2"
	"connectrpc.com/connect/v2/connecthttp"
	"MODULE/api/apiconnect"
)

func main() {
	ctx := context.Background()
	s := connect.NewServer()
	c := connect.NewClient(connecthttp.NewTransport(http.DefaultClient, os.Args[1]))
{{- range .}}
	apiconnect.RegisterStore{{.}}Handler(s, apiconnect.UnimplementedStore{{.}}Handler{})
	go func() {
		c := apiconnect.NewStore{{.}}Client(c)
		req := new(api.Request{{.}})
		use(c.Create(ctx, req))
		use(c.Get(ctx, req))
		use(c.Update(ctx, req))
		use(c.Delete(ctx, req))
		use(c.List(ctx, req))
		watch, err := c.Watch(ctx, req)
		must(err)
		use(watch.Receive())
		upload, err := c.Upload(ctx)
		must(err)
		must(upload.Send(req))
		use(upload.CloseAndReceive())
		chat, err := c.Chat(ctx)
		must(err)
		must(chat.Send(req))
		use(chat.Receive())
	}()
{{- end}}
	mux := http.NewServeMux()
	connecthttp.Mount(mux, s)
	must(http.ListenAndServe(os.Args[2], mux))
}
`,
	"connect-v1": `
import (
	"net/http"

	"connectrpc.com/connect"
	"MODULE/api/apiconnect"
)

func main() {
	ctx := context.Background()
	mux := http.NewServeMux()
{{- range .}}
	mux.Handle(apiconnect.NewStore{{.}}Handler(apiconnect.UnimplementedStore{{.}}Handler{}))
	go func() {
		c := apiconnect.NewStore{{.}}Client(http.DefaultClient, os.Args[1])
		req := new(api.Request{{.}})
		use(c.Create(ctx, connect.NewRequest(req)))
		use(c.Get(ctx, connect.NewRequest(req)))
		use(c.Update(ctx, connect.NewRequest(req)))
		use(c.Delete(ctx, connect.NewRequest(req)))
		use(c.List(ctx, connect.NewRequest(req)))
		watch, err := c.Watch(ctx, connect.NewRequest(req))
		must(err)
		watch.Receive()
		use(watch.Msg(), watch.Err())
		upload := c.Upload(ctx)
		must(upload.Send(req))
		use(upload.CloseAndReceive())
		chat := c.Chat(ctx)
		must(chat.Send(req))
		use(chat.Receive())
	}()
{{- end}}
	must(http.ListenAndServe(os.Args[2], mux))
}
`,
}

const mainHead = `package main

import (
	"context"
	"fmt"
	"os"

	"MODULE/api"
)

var _ api.Request0

func must(err error) {
	if err != nil {
		panic(err)
	}
}

func use(res any, err error) {
	must(err)
	fmt.Println(res)
}
`

const microCalls = `
{{- range .}}
	must(apimicro.RegisterStore{{.}}Handler(s.Server(), apimicro.UnimplementedStore{{.}}Handler{}))
	go func() {
		c := apimicro.NewStore{{.}}Client(c)
		req := new(api.Request{{.}})
		use(c.Create(ctx, req))
		use(c.Get(ctx, req))
		use(c.Update(ctx, req))
		use(c.Delete(ctx, req))
		use(c.List(ctx, req))
		watch, err := c.Watch(ctx, req)
		must(err)
		use(watch.Recv())
		upload, err := c.Upload(ctx)
		must(err)
		must(upload.Send(req))
		use(upload.CloseAndRecv())
		chat, err := c.Chat(ctx)
		must(err)
		must(chat.Send(req))
		use(chat.Recv())
	}()
{{- end}}`

// mainText is the program of that name for so many services.
func mainText(t testing.TB, name string, services int) []byte {
	t.Helper()
	// Go wants imports before all else.
	imports, declarations, _ := strings.Cut(mainHead, "\nvar ")
	text := strings.ReplaceAll(imports+mains[name]+"\nvar "+declarations, "MODULE", modulePath)
	tmpl, err := template.New("main").Parse(text)
	if err == nil {
		_, err = tmpl.New("micro").Parse(microCalls)
	}
	if err != nil {
		t.Fatal(err)
	}
	var numbers []int
	for i := range services {
		numbers = append(numbers, i)
	}
	var b bytes.Buffer
	if err := tmpl.ExecuteTemplate(&b, "main", numbers); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// buildSize builds a program of main and what plugins wrote for it, and returns its
// size.
func buildSize(t testing.TB, main []byte, responses ...*pluginpb.CodeGeneratorResponse) int64 {
	t.Helper()
	files := map[string][]byte{"main.go": main}
	for _, res := range responses {
		for _, f := range res.GetFile() {
			files[f.GetName()] = []byte(f.GetContent())
		}
	}
	program := filepath.Join(t.TempDir(), "program")
	newModule(t, files).run(t, "build", "-trimpath", "-ldflags=-s -w", "-o", program)
	info, err := os.Stat(program)
	if err != nil {
		t.Fatal(err)
	}
	return info.Size()
}

// countLines counts the lines of a plugin's files, and those that are neither blank
// nor a comment.
func countLines(res *pluginpb.CodeGeneratorResponse) (lines, code int) {
	for _, f := range res.GetFile() {
		for line := range strings.Lines(f.GetContent()) {
			lines++
			if line = strings.TrimSpace(line); line != "" && !strings.HasPrefix(line, "//") {
				code++
			}
		}
	}
	return lines, code
}

// TestSizes reports how much code each plugin writes for a service and how large the
// programs are that it becomes part of.
func TestSizes(t *testing.T) {
	if !*all {
		t.Skip("it builds ten programs; with -all it does")
	}
	const services = 50
	programs := buildPlugins(t, append(plugins, messages))

	published := loadCorpus(t)
	var names []string
	for _, importPath := range slices.Sorted(maps.Keys(published.byPackage)) {
		names = append(names, published.byPackage[importPath]...)
	}
	realRequest := published.request(t, names...)
	many, one := sizesRequest(t, services), sizesRequest(t, 1)

	t.Logf("lines for each of %d services with 8 methods (without comments), and of the corpus's %d with %.1f methods",
		services, published.services, float64(published.methods)/float64(published.services))
	for _, p := range plugins {
		lines, code := countLines(generate(t, programs[p.name], many))
		realLines, realCode := countLines(generate(t, programs[p.name], realRequest))
		t.Logf("%-10s %4d (%4d)   %4d (%4d)", p.name, lines/services, code/services, realLines/published.services, realCode/published.services)
	}

	t.Logf("stripped program with 1 and with %d services, and the part of a service in it", services)
	manyMessages, oneMessages := generate(t, programs[messages.name], many), generate(t, programs[messages.name], one)
	for _, name := range slices.Sorted(maps.Keys(mains)) {
		plugin, _, _ := strings.Cut(name, "-etcd")
		small := buildSize(t, mainText(t, name, 1), oneMessages, generate(t, programs[plugin], one))
		large := buildSize(t, mainText(t, name, services), manyMessages, generate(t, programs[plugin], many))
		t.Logf("%-10s %6.2f MB  %6.2f MB  %5.1f kB", name, float64(small)/1e6, float64(large)/1e6, float64(large-small)/1e3/(services-1))
	}
}
