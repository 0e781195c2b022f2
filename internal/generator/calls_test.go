package generator

import (
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"google.golang.org/protobuf/compiler/protogen"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/descriptorpb"
)

const calltest = protogen.GoImportPath("github.com/protomicro/micro/internal/generator/calltest")

// TestGeneratedCalls has the go command build and vet all golden cases, each with the
// messages that protoc-gen-go makes of it, against the runtime of this tree, and runs
// a program that makes a call of every method over the transport in memory, and uses
// every topic. The cases and the program are a module in a workspace with this one.
func TestGeneratedCalls(t *testing.T) {
	if testing.Short() {
		t.Skip("runs the go command")
	}
	dir := t.TempDir()
	write := func(name, text string) {
		name = filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(name, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	root, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	goMod, err := os.ReadFile(filepath.Join(root, "go.mod"))
	if err != nil {
		t.Fatal(err)
	}
	goLine := regexp.MustCompile(`(?m)^go .*$`).FindString(string(goMod))
	write("go.work", fmt.Sprintf("%s\n\nuse .\nuse %q\n", goLine, root))
	write("go.mod", fmt.Sprintf("module %s\n\n%s\n", path.Clean(goldenPath), goLine))

	var services, topics []string // lists in the program
	methods, events := 0, 0
	for i, c := range goldenCases(t) {
		files := written(t, Generate(c.req))
		maps.Copy(files, written(t, generateMessages(t, c.req)))
		for name, text := range files {
			write(filepath.Join(c.name, name), text)
		}
		program, m, n := callingProgram(t, c, i)
		write(filepath.Join("cmd", c.name+"_calls.go"), program)
		services = append(services, fmt.Sprintf("services%d", i))
		topics = append(topics, fmt.Sprintf("topics%d", i))
		methods += m
		events += n
	}
	write("cmd/main.go", fmt.Sprintf(mainProgram, string(calltest), strings.Join(services, ", "), strings.Join(topics, ", ")))

	run := func(args ...string) string {
		cmd := exec.CommandContext(t.Context(), "go", args...)
		cmd.Dir = dir
		cmd.Env = append(os.Environ(), "GOWORK="+filepath.Join(dir, "go.work"), "GOFLAGS=")
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("go %s: %v\n%s", strings.Join(args, " "), err, out)
		}
		return strings.TrimSpace(string(out))
	}
	run("vet", "./...")
	if got, want := run("run", "./cmd"), fmt.Sprintf("%d methods, %d topics", methods, events); got != want {
		t.Errorf("%s were used, want %s", got, want)
	}
}

const mainProgram = `package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"

	%q
)

func main() {
	methods, err := calltest.Run(context.Background(), slices.Concat(%s))
	topics, err2 := calltest.RunTopics(context.Background(), slices.Concat(%s))
	if err := errors.Join(err, err2); err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	fmt.Printf("%%d methods, %%d topics\n", methods, topics)
}
`

// callingProgram is a file of a program with lists of the services and topics of a case,
// which is of this number, and how many methods and topics there are.
func callingProgram(t *testing.T, c goldenCase, number int) (text string, methods, topics int) {
	t.Helper()
	plugin, err := protogen.Options{}.New(proto.CloneOf(c.req))
	if err != nil {
		t.Fatal(err)
	}
	params, err := parseParameters(c.req.GetParameter())
	if err != nil {
		t.Fatal(err)
	}
	outputs, err := resolve(plugin, params)
	if err != nil {
		t.Fatal(err)
	}
	g := plugin.NewGeneratedFile("calls.go", "main")
	tests := func(name string) string { return g.QualifiedGoIdent(calltest.Ident(name)) }
	runtime := func(pkg, name string) string { return g.QualifiedGoIdent(imported[pkg].Ident(name)) }
	// No package has a name that ends like those of these variables.
	g.P("package main")
	n := 0
	var services, events []string
	for _, out := range outputs {
		generated := func(name string) string { return g.QualifiedGoIdent(out.importPath.Ident(name)) }
		for _, s := range out.Services {
			handler := fmt.Sprintf("handler%d_%d", number, n)
			n++
			var calls strings.Builder
			g.P("type ", handler, " struct { ", generated(s.Unimplemented), "}")
			for _, m := range s.Methods {
				methods++
				req, res := g.QualifiedGoIdent(m.source.Input.GoIdent), g.QualifiedGoIdent(m.source.Output.GoIdent)
				context := g.QualifiedGoIdent(protogen.GoImportPath("context").Ident("Context"))
				procedure := fmt.Sprintf("%q", s.FullName+"/"+m.Name)
				switch m.Kind {
				case "Unary":
					g.P("func (", handler, ") ", m.GoName, "(ctx_ ", context, ", req_ *", req, ") (*", res, ", error) {")
					g.P("return ", tests("Handle"), "[", req, ",", res, "](ctx_, ", procedure, ", req_) }")
				case "ServerStream":
					g.P("func (", handler, ") ", m.GoName, "(ctx_ ", context, ", req_ *", req, ", stream_ *", generated(m.ServerStream), ") error {")
					g.P("return ", tests("HandleServerStream"), "[", req, ",", res, "](ctx_, ", procedure, ", req_, stream_.Send) }")
				case "ClientStream":
					g.P("func (", handler, ") ", m.GoName, "(ctx_ ", context, ", stream_ *", generated(m.ServerStream), ") (*", res, ", error) {")
					g.P("return ", tests("HandleClientStream"), "[", req, ",", res, "](ctx_, ", procedure, ", stream_.Messages()) }")
				case "BidiStream":
					g.P("func (", handler, ") ", m.GoName, "(ctx_ ", context, ", stream_ *", generated(m.ServerStream), ") error {")
					g.P("return ", tests("HandleBidiStream"), "[", req, ",", res, "](ctx_, ", procedure, ", stream_.Recv, stream_.Messages(), stream_.Send) }")
				default:
					t.Fatalf("there is no kind %s", m.Kind)
				}
				fmt.Fprintf(&calls, "{Procedure: %s, Spec: %s{Service: %q, Method: %q, Procedure: %s, Kind: %s, Idempotency: %s}, Call: %s(client_.%s)},\n",
					generated(m.Procedure), runtime("rpc", "Spec"), m.source.Desc.Parent().FullName(), m.source.Desc.Name(), procedure,
					runtime("rpc", wantKind(m.source)), runtime("rpc", wantIdempotency(m.source)), tests(m.Kind), m.GoName)
			}
			register := func(h string) string {
				return fmt.Sprintf("func(s_ *%s) error { return %s(s_, %s{}) },\n", runtime("server", "Server"), generated(s.Register), h)
			}
			newClient := "client_ := " + generated(s.NewClient) + "(c_); "
			if len(s.Methods) == 0 {
				newClient = "_ = " + generated(s.NewClient) + "(c_); "
			}
			services = append(services, fmt.Sprintf("{\nName: %s, FullName: %q,\nRegister: %sUnimplemented: %sMethods: func(c_ *%s) []%s { %sreturn []%s{\n%s}},\n},\n",
				generated(s.Name), s.FullName, register(handler), register(generated(s.Unimplemented)),
				runtime("client", "Client"), tests("Method"), newClient, tests("Method"), calls.String()))
		}
		for _, v := range out.Topics {
			kind := "PlainTopic"
			if strings.Contains(v.Name, "{") {
				kind = "FilteredTopic"
				g.P("var _ = ", generated(v.source.GoIdent.GoName+"Filter"), "{}")
			}
			events = append(events, fmt.Sprintf("%s(&%s)", tests(kind), generated(v.source.GoIdent.GoName+"Topic")))
		}
	}
	g.P("var services", number, " = []", tests("Service"), "{")
	for _, s := range services {
		g.P(s)
	}
	g.P("}")
	g.P("var topics", number, " = []", tests("Topic"), "{")
	for _, event := range events {
		g.P(event, ",")
	}
	g.P("}")
	content, err := g.Content()
	if err != nil {
		t.Fatal(err)
	}
	return string(content), methods, len(events)
}

func wantKind(m *protogen.Method) string {
	switch {
	case m.Desc.IsStreamingClient() && m.Desc.IsStreamingServer():
		return "BidiStream"
	case m.Desc.IsStreamingClient():
		return "ClientStream"
	case m.Desc.IsStreamingServer():
		return "ServerStream"
	}
	return "Unary"
}

func wantIdempotency(m *protogen.Method) string {
	switch m.Desc.Options().(*descriptorpb.MethodOptions).GetIdempotencyLevel() {
	case descriptorpb.MethodOptions_NO_SIDE_EFFECTS:
		return "NoSideEffects"
	case descriptorpb.MethodOptions_IDEMPOTENT:
		return "Idempotent"
	}
	return "IdempotencyUnknown"
}
