package jsonrpc

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protodesc"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/descriptorpb"

	echov1 "github.com/protomicro/micro/internal/gen/echo/v1"
	"github.com/protomicro/micro/internal/gen/echo/v1/echov1micro"
)

// envNode is the folder of the programs in Node with what they need: e2e/node, after
// "npm ci" there. The tests that run them are skipped without it. The checks set it.
const envNode = "NODE_CLIENTS"

// passed is in what Node's test runner says at the end.
var passed = regexp.MustCompile(`(?m)^# pass (\d+)$`)

// runNode runs a program in Node, all of whose tests have to pass: there are as many.
func runNode(t *testing.T, program string, tests int, env ...string) {
	t.Helper()
	dir := os.Getenv(envNode)
	if dir == "" {
		t.Skipf(`%s is not set: run "npm ci" in e2e/node, and set it to that folder`, envNode)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 4*patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, "node", "--test-reporter=tap", filepath.Join(dir, program))
	cmd.Env = append(os.Environ(), env...)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v\n%s", program, err, out)
	}
	m := passed.FindSubmatch(out)
	if m == nil || string(m[1]) != strconv.Itoa(tests) {
		t.Errorf("%s: not %d tests:\n%s", program, tests, out)
	}
}

// TestJayson has npm's client of 1.0 and 2.0.
func TestJayson(t *testing.T) {
	h, n := overHTTP(t, settings{}), overNATS(t, settings{})
	runNode(t, "jsonrpc.mjs", 22, "HTTP_URL="+h.url, "NATS_URL="+n.nats.URL(), "NATS_SUBJECT="+n.subject)
	for _, p := range []*peer{h, n} { // a notification for each version, one in a batch and one alone in another
		eventually(t, "the notifications run", func() bool { return p.Calls(echov1micro.EchoSleepProcedure) == 4 })
	}
}

// TestConnectInNode has Connect's client in Node.
func TestConnectInNode(t *testing.T) {
	p := overHTTP(t, settings{})
	descriptors := filepath.Join(t.TempDir(), "descriptors.pb")
	b, err := proto.Marshal(closure(echov1.File_echo_v1_echo_proto))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(descriptors, b, 0o600); err != nil {
		t.Fatal(err)
	}
	const transports, each, oneWay = 8, 10, 2 // two of them have no messages both ways
	runNode(t, "connect.mjs", transports*each-oneWay, "HTTP_URL="+p.url, "DESCRIPTORS="+descriptors)
	// What was given up does not run on: the server has nothing to wait for.
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	if err := p.server.Shutdown(ctx); err != nil {
		t.Errorf("shutdown: %v", err)
	}
}

// closure is a file behind those that it imports.
func closure(file protoreflect.FileDescriptor) *descriptorpb.FileDescriptorSet {
	set := &descriptorpb.FileDescriptorSet{}
	seen := make(map[string]bool)
	var add func(protoreflect.FileDescriptor)
	add = func(f protoreflect.FileDescriptor) {
		if seen[f.Path()] {
			return
		}
		seen[f.Path()] = true
		for i := range f.Imports().Len() {
			add(f.Imports().Get(i))
		}
		set.File = append(set.File, protodesc.ToFileDescriptorProto(f))
	}
	add(file)
	return set
}
