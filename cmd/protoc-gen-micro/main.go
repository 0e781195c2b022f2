// Protoc-gen-micro is a plugin for protobuf compilers: it generates typed clients
// and handlers for the services of .proto files, and typed topics for the messages
// that are events. Compilers run it; see internal/generator for what it generates.
package main

import (
	"fmt"
	"io"
	"os"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/pluginpb"

	"github.com/protomicro/micro/internal/generator"
	"github.com/protomicro/micro/internal/version"
)

const usage = `protoc-gen-micro is a plugin for protobuf compilers, which run it:

  protoc --go_out=. --micro_out=. greet/v1/greet.proto
  buf generate

Its only flag is --version.
`

func main() {
	if err := run(os.Args[1:], os.Stdin, os.Stdout); err != nil {
		fmt.Fprintf(os.Stderr, "protoc-gen-micro: %v\n", err)
		os.Exit(1)
	}
}

func run(args []string, in io.Reader, out io.Writer) error {
	switch {
	case len(args) == 1 && (args[0] == "--version" || args[0] == "-version"):
		_, err := fmt.Fprintln(out, "protoc-gen-micro", version.Installed())
		return err
	case len(args) == 1 && (args[0] == "--help" || args[0] == "-help" || args[0] == "-h"):
		_, err := io.WriteString(out, usage)
		return err
	case len(args) > 0:
		return fmt.Errorf("unknown argument %q (compilers run it without any; options go into --micro_opt of protoc or opt of buf.gen.yaml)", args[0])
	}
	raw, err := io.ReadAll(in)
	if err != nil {
		return fmt.Errorf("read the request: %w", err)
	}
	req := new(pluginpb.CodeGeneratorRequest)
	if err := proto.Unmarshal(raw, req); err != nil {
		return fmt.Errorf("standard input is not a request of a protobuf compiler: %w", err)
	}
	if len(req.GetFileToGenerate()) == 0 {
		return fmt.Errorf("the request names no file to generate (run protoc or buf, which run this plugin)")
	}
	raw, err = proto.Marshal(generator.Generate(req))
	if err != nil {
		return fmt.Errorf("write the response: %w", err)
	}
	if _, err := out.Write(raw); err != nil {
		return fmt.Errorf("write the response: %w", err)
	}
	return nil
}
