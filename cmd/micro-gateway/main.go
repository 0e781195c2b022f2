// Micro-gateway exposes services that are registered in etcd and reached over NATS to
// clients of Connect, gRPC, gRPC-Web and JSON over HTTP. It has no generated code of
// them. docs/gateway.md is the guide to it.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"

	"github.com/protomicro/micro/internal/version"
)

const name = "micro-gateway"

// errUsage is in the tree of an error in the arguments.
var errUsage = errors.New("run " + name + " -help for the flags")

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	stop()
	if err != nil {
		fmt.Fprintf(os.Stderr, "%s: %v\n", name, err)
		if errors.Is(err, errUsage) {
			os.Exit(2)
		}
		os.Exit(1)
	}
}

// run is the program, until ctx ends.
func run(ctx context.Context, args []string, out, errOut io.Writer) error {
	s, err := parse(args)
	switch {
	case errors.Is(err, flag.ErrHelp):
		_, err := io.WriteString(out, usage())
		return err
	case err != nil:
		return fmt.Errorf("%w (%w)", err, errUsage)
	case s.version:
		_, err := fmt.Fprintln(out, name, version.Installed())
		return err
	}
	return s.serve(ctx, errOut)
}
