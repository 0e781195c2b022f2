package etcd

import (
	"encoding/json"
	"fmt"
	"strings"

	"go.etcd.io/etcd/api/v3/mvccpb"

	"github.com/protomicro/micro/runtime/registry"
)

const (
	recordVersion = 1
	// maxValue bounds what is read: what JSON can make of the largest instance.
	maxValue = 8 * registry.MaxInstanceSize
)

// A record is an instance's value; service and ID are in the key. New members are
// ignored by old readers; a change that those must not read takes another version.
type record struct {
	V         int               `json:"v"`
	Version   string            `json:"version,omitempty"`
	Metadata  map[string]string `json:"metadata,omitempty"`
	Addresses []string          `json:"addresses"`
}

func (r *Registry) servicePrefix(service string) string { return r.prefix + service + "/" }

func (r *Registry) key(in registry.Instance) string { return r.servicePrefix(in.Service) + in.ID }

func encode(in registry.Instance) (string, error) {
	value, err := json.Marshal(record{recordVersion, in.Version, in.Metadata, in.Addresses})
	return string(value), err
}

// decode reads an instance, or says why there is none.
func (r *Registry) decode(kv *mvccpb.KeyValue) (registry.Instance, error) {
	service, id, ok := strings.Cut(strings.TrimPrefix(string(kv.Key), r.prefix), "/")
	if !ok {
		return registry.Instance{}, fmt.Errorf("the key has no ID")
	}
	if len(kv.Value) > maxValue {
		return registry.Instance{}, fmt.Errorf("%d bytes are over the limit of %d", len(kv.Value), maxValue)
	}
	var rec record
	if err := json.Unmarshal(kv.Value, &rec); err != nil {
		return registry.Instance{}, err
	}
	if rec.V != recordVersion {
		return registry.Instance{}, fmt.Errorf("version %d of the record is not known, only %d", rec.V, recordVersion)
	}
	in := registry.Instance{Service: service, ID: id, Version: rec.Version, Metadata: rec.Metadata, Addresses: rec.Addresses}
	return in, in.Check()
}
