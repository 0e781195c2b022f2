package dep
import (
 _ "github.com/protomicro/micro/runtime/status"
 _ "github.com/nats-io/nats.go"
 _ "github.com/nats-io/nats-server/v2/server"
 _ "go.etcd.io/etcd/client/v3"
 _ "go.etcd.io/etcd/server/v3/embed"
 _ "go.uber.org/goleak"
 _ "github.com/bufbuild/protocompile"
 _ "google.golang.org/protobuf/compiler/protogen"
)
