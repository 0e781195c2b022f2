// What the programs that TestSizes builds import. They are written by the test, and
// this file is here for go mod tidy alone.

//go:build sizes

package corpus

import (
	_ "connectrpc.com/connect"
	_ "connectrpc.com/connect/v2/connecthttp"
	_ "google.golang.org/grpc"

	_ "github.com/protomicro/micro/runtime"
	_ "github.com/protomicro/micro/runtime/registry/etcd"
	_ "github.com/protomicro/micro/runtime/transport/nats"
)
