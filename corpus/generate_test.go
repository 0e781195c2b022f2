package corpus

import (
	"flag"
	"fmt"
	"go/ast"
	"go/format"
	"go/parser"
	"go/token"
	"go/types"
	"maps"
	"path"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/descriptorpb"
	"google.golang.org/protobuf/types/pluginpb"

	"github.com/protomicro/micro/internal/generator"
)

var (
	all   = flag.Bool("all", false, "take all packages of the corpus instead of a selection")
	build = flag.Bool("build", false, "build and vet what is generated, beyond type-checking it")
)

// selection is what is taken without -all: all four kinds of methods, services with
// names that meet in one package, proto2, and messages from many other packages.
var selection = []string{
	"cloud.google.com/go/aiplatform/apiv1/aiplatformpb",
	"cloud.google.com/go/bigquery/storage/apiv1/storagepb",
	"cloud.google.com/go/dialogflow/cx/apiv3/cxpb",
	"cloud.google.com/go/firestore/apiv1/firestorepb",
	"cloud.google.com/go/iam/apiv1/iampb",
	"cloud.google.com/go/kms/apiv1/kmspb",
	"cloud.google.com/go/pubsub/v2/apiv1/pubsubpb",
	"cloud.google.com/go/spanner/apiv1/spannerpb",
	"cloud.google.com/go/speech/apiv1/speechpb",
	"github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3",
	"go.etcd.io/etcd/api/v3/etcdserverpb",
	"go.etcd.io/etcd/server/v3/etcdserver/api/v3election/v3electionpb",
	"go.etcd.io/etcd/server/v3/etcdserver/api/v3lock/v3lockpb",
	"go.opentelemetry.io/proto/otlp/collector/logs/v1",
	"go.opentelemetry.io/proto/otlp/collector/metrics/v1",
	"go.opentelemetry.io/proto/otlp/collector/trace/v1",
	"google.golang.org/genproto/googleapis/bytestream",
	"google.golang.org/genproto/googleapis/cloud/runtimeconfig/v1beta1",
	"google.golang.org/genproto/googleapis/storage/v1",
	"google.golang.org/grpc/channelz/grpc_channelz_v1",
	"google.golang.org/grpc/health/grpc_health_v1",
	"google.golang.org/grpc/interop/grpc_testing",
	"google.golang.org/grpc/reflection/grpc_reflection_v1",
}

// A protoFile is a descriptor with the Go package that has its messages.
type protoFile struct {
	*descriptorpb.FileDescriptorProto
	goPackage string
}

// loadFiles reads the .proto files that the packages carry, by their paths.
func loadFiles(t testing.TB, packages map[string]*goPackage) map[string]*protoFile {
	t.Helper()
	files := make(map[string]*protoFile)
	for _, importPath := range slices.Sorted(maps.Keys(packages)) {
		found, err := descriptors(packages[importPath])
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range found {
			// Some are in the modules of cloud.google.com/go and in genproto still.
			if files[f.GetName()] == nil {
				files[f.GetName()] = &protoFile{f, importPath}
			}
		}
	}
	// etcd compiles each of its files in the file's own directory, where others
	// import it by a longer path.
	for _, f := range files {
		for i, dep := range f.GetDependency() {
			if files[dep] == nil && files[path.Base(dep)] != nil {
				f.Dependency[i] = path.Base(dep)
			}
		}
	}
	return files
}

// request asks for code for the named files. It has what they import, and says which
// Go package each is in, as these are not always those of the go_package option.
func (c *corpus) request(t testing.TB, names ...string) *pluginpb.CodeGeneratorRequest {
	t.Helper()
	req := &pluginpb.CodeGeneratorRequest{FileToGenerate: names}
	var params []string
	added := make(map[string]bool)
	var add func(name, by string)
	add = func(name, by string) {
		if added[name] {
			return
		}
		added[name] = true
		f := c.files[name]
		if f == nil {
			t.Fatalf("%s, which %s imports, is in no package of the corpus", name, by)
		}
		for _, dep := range f.GetDependency() {
			add(dep, name)
		}
		req.ProtoFile = append(req.ProtoFile, f.FileDescriptorProto)
		params = append(params, "M"+name+"="+f.goPackage)
	}
	for _, name := range names {
		add(name, "the request")
	}
	req.Parameter = proto.String(strings.Join(params, ","))
	return req
}

// comment gives each service and method of f a comment. The descriptors that Go
// packages carry have none, where those that a compiler hands to a plugin do.
func comment(f *descriptorpb.FileDescriptorProto) {
	info := new(descriptorpb.SourceCodeInfo)
	add := func(text string, path ...int32) {
		info.Location = append(info.Location, &descriptorpb.SourceCodeInfo_Location{
			Path: path, Span: []int32{int32(len(info.Location)), 0, 1}, LeadingComments: proto.String(text),
		})
	}
	for i, s := range f.GetService() {
		add(fmt.Sprintf(" %s is a service of %s.\n\n Its methods are:\n   - what they are\n", s.GetName(), f.GetPackage()), 6, int32(i))
		for j, m := range s.GetMethod() {
			add(fmt.Sprintf(" %s takes %s and\n returns %s.\n", m.GetName(), m.GetInputType(), m.GetOutputType()), 6, int32(i), 2, int32(j))
		}
	}
	f.SourceCodeInfo = info
}

// A corpus is what there is to generate code for.
type corpus struct {
	fset      *token.FileSet
	packages  map[string]*goPackage // of messages, and what they import
	files     map[string]*protoFile
	byPackage map[string][]string // files with services, by the package of their messages

	services, methods, streams int
	origins                    map[string]int // services by the first two elements of their packages' paths
}

func loadCorpus(t testing.TB) *corpus {
	t.Helper()
	c := &corpus{fset: token.NewFileSet(), byPackage: make(map[string][]string), origins: make(map[string]int)}
	patterns := selection
	if *all {
		patterns = []string{"."}
	}
	c.packages = goList(t, append([]string{"-deps", "-tags", "corpus"}, patterns...)...)
	maps.DeleteFunc(c.packages, func(_ string, p *goPackage) bool { return p.Standard })
	if err := parse(c.fset, c.packages); err != nil {
		t.Fatal(err)
	}
	c.files = loadFiles(t, c.packages)
	for _, name := range slices.Sorted(maps.Keys(c.files)) {
		f := c.files[name]
		if len(f.GetService()) == 0 {
			continue
		}
		comment(f.FileDescriptorProto)
		c.byPackage[f.goPackage] = append(c.byPackage[f.goPackage], name)
		c.origins[strings.Join(strings.Split(f.goPackage, "/")[:2], "/")] += len(f.GetService())
		for _, s := range f.GetService() {
			c.services++
			for _, m := range s.GetMethod() {
				c.methods++
				if m.GetClientStreaming() || m.GetServerStreaming() {
					c.streams++
				}
			}
		}
	}
	return c
}

// unformatted counts the files that gofmt would write in another way.
func unformatted(t testing.TB, res *pluginpb.CodeGeneratorResponse) int {
	t.Helper()
	count := 0
	for _, out := range res.GetFile() {
		text, err := format.Source([]byte(out.GetContent()))
		if err != nil || string(text) != out.GetContent() {
			count++
			t.Errorf("%s is not as gofmt would write it (%v)", out.GetName(), err)
		}
	}
	return count
}

// TestRealProtos generates code for every service of the corpus, with one request for
// each Go package, sees that it is formatted, and type-checks it against the packages of
// the messages and of the runtime.
func TestRealProtos(t *testing.T) {
	began := time.Now()
	took := func(what string, args ...any) {
		t.Logf("%5.1f s: "+what, append([]any{time.Since(began).Seconds()}, args...)...)
		began = time.Now()
	}
	c := loadCorpus(t)
	check := newChecker(t, c.fset, c.packages,
		"../runtime/client", "../runtime/server", // what generated code needs
		"google.golang.org/grpc", "github.com/golang/protobuf/proto") // what stands beside messages
	took("%d .proto files read from %d packages", len(c.files), len(c.packages))

	generated := make(map[string][]*ast.File)
	texts := make(map[string][]byte)
	written, lines, fails := 0, 0, 0
	for _, importPath := range slices.Sorted(maps.Keys(c.byPackage)) {
		names := c.byPackage[importPath]
		req := c.request(t, names...)
		res := generator.Generate(req)
		if res.Error != nil {
			fails++
			t.Errorf("package %s is refused:\n%s", importPath, res.GetError())
			continue
		}
		if len(res.GetFile()) != len(names) {
			fails++
			t.Errorf("package %s: %d files are written for %d with services", importPath, len(res.GetFile()), len(names))
		}
		for _, out := range res.GetFile() {
			written++
			lines += strings.Count(out.GetContent(), "\n")
			texts[out.GetName()] = []byte(out.GetContent())
			f, err := parser.ParseFile(c.fset, out.GetName(), out.GetContent(), parser.SkipObjectResolution)
			if err != nil {
				fails++
				t.Errorf("package %s: %v", importPath, err)
				continue
			}
			dir := path.Dir(out.GetName())
			generated[dir] = append(generated[dir], f)
		}
		fails += unformatted(t, res)
		// Comments are all that is not formatted by the templates.
		for _, f := range req.GetProtoFile() {
			f.SourceCodeInfo = nil
		}
		fails += unformatted(t, generator.Generate(req))
	}
	took("%d files with %d lines generated: %d services in %d packages, %d methods of which %d stream",
		written, lines, c.services, len(c.byPackage), c.methods, c.streams)
	t.Logf("services of %v", c.origins)

	for _, importPath := range slices.Sorted(maps.Keys(generated)) {
		if _, err := check.check(importPath, generated[importPath], new(types.Config)); err != nil {
			fails++
			t.Errorf("package %s does not compile:\n%v", importPath, err)
		}
	}
	took("%d packages type-checked, against %d of messages", len(generated), len(check.checked))
	if *build {
		m := newModule(t, texts)
		m.run(t, "build", "./...")
		m.run(t, "vet", "./...")
		took("the same built and vetted")
	}
	t.Logf("failures: %d", fails)
	if c.services == 0 || c.streams == 0 {
		t.Error("the corpus has no services or no streams")
	}
}
