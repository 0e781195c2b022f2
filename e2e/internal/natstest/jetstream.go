package natstest

import (
	"testing"

	"github.com/nats-io/nats-server/v2/server"
)

// JetStream has a server store streams in files of the test's temporary directory,
// where it finds them again when it is started once more.
func JetStream(t testing.TB) func(*server.Options) {
	dir := t.TempDir()
	return func(o *server.Options) {
		o.JetStream = true
		o.StoreDir = dir
	}
}
