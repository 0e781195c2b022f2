// Package corpus is where protoc-gen-micro meets other people's .proto files: those
// of Google's APIs, etcd, gRPC, OpenTelemetry and Envoy, as public Go modules carry
// them. It holds tests and benchmarks only; docs/generated-code.md has their results
// and how to run them.
package corpus
