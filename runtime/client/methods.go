package client

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/protomicro/micro/runtime/rpc"
)

// MethodConfig is what holds for one method or for all of a service, in place of what
// the [Config] says. Fields that are not set are taken from the method's service, and
// where that has none, from the Config.
type MethodConfig struct {
	// Timeout is as Config.Timeout.
	Timeout time.Duration
	// Retry is as Config.Retry, as a whole: its zero fields have their defaults.
	Retry *RetryPolicy
	// Hedge has idempotent methods hedged. Default: none is. A MaxAttempts of 1 excepts
	// a method from what is set for its service.
	Hedge *HedgePolicy
}

// A plan is what the configuration comes to for one method.
type plan struct {
	timeout time.Duration
	retry   RetryPolicy
	hedge   HedgePolicy
}

// with is p as m has it.
func (p plan) with(m MethodConfig) (*plan, error) {
	var err error
	if m.Timeout != 0 {
		p.timeout = m.Timeout
	}
	if m.Retry != nil {
		if p.retry, err = m.Retry.withDefaults(); err != nil {
			return nil, fmt.Errorf("Retry.%w", err)
		}
	}
	if m.Hedge != nil {
		if p.hedge, err = m.Hedge.withDefaults(); err != nil {
			return nil, fmt.Errorf("Hedge.%w", err)
		}
	}
	return &p, nil
}

// plans are those of all methods.
type plans struct {
	standard *plan
	named    map[string]*plan // by "pkg.Service" and "pkg.Service/Method"
}

func newPlans(timeout time.Duration, retry RetryPolicy, methods map[string]MethodConfig) (plans, error) {
	standard, err := plan{timeout: timeout, hedge: HedgePolicy{MaxAttempts: 1}}.with(MethodConfig{Retry: &retry})
	if err != nil {
		return plans{}, fmt.Errorf("client: Config.%w", err)
	}
	p := plans{standard: standard, named: make(map[string]*plan, len(methods))}
	// A service comes before its methods.
	for _, name := range slices.Sorted(maps.Keys(methods)) {
		service, method, ok := strings.Cut(name, "/")
		if !protoreflect.FullName(service).IsValid() || ok && !protoreflect.Name(method).IsValid() {
			return plans{}, fmt.Errorf(`client: Config.Methods has the key %q (give "pkg.Service" or "pkg.Service/Method")`, name)
		}
		base := p.named[service]
		if base == nil {
			base = standard
		}
		if p.named[name], err = base.with(methods[name]); err != nil {
			return plans{}, fmt.Errorf("client: Config.Methods[%q].%w", name, err)
		}
	}
	return p, nil
}

// of is the plan of a method.
func (p *plans) of(spec *rpc.Spec) *plan {
	if len(p.named) > 0 {
		if m := p.named[spec.Procedure]; m != nil {
			return m
		}
		if s := p.named[spec.Service]; s != nil {
			return s
		}
	}
	return p.standard
}
