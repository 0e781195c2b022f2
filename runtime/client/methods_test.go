package client_test

import (
	"context"
	"math"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/protomicro/micro/runtime/client"
	"github.com/protomicro/micro/runtime/rpc"
	"github.com/protomicro/micro/runtime/status"
)

func TestConfigNamesWhatIsWrong(t *testing.T) {
	method := func(key string, m client.MethodConfig) client.Config {
		return client.Config{Methods: map[string]client.MethodConfig{key: m}}
	}
	retry := func(p client.RetryPolicy) client.Config { return client.Config{Retry: p} }
	hedge := func(p client.HedgePolicy) client.Config { return method("a.B/C", client.MethodConfig{Hedge: &p}) }
	circuit := func(p client.CircuitPolicy) client.Config { return client.Config{Circuit: &p} }
	for want, cfg := range map[string]client.Config{
		`Config.Retry.MaxAttempts is -1`:                    retry(client.RetryPolicy{MaxAttempts: -1}),
		`Config.Retry.MaxAttempts is 101`:                   retry(client.RetryPolicy{MaxAttempts: 101}),
		`Config.Retry.Multiplier is 0.5`:                    retry(client.RetryPolicy{Multiplier: 0.5}),
		`Config.Retry.Multiplier is NaN`:                    retry(client.RetryPolicy{Multiplier: math.NaN()}),
		`Config.Retry.Multiplier is +Inf`:                   retry(client.RetryPolicy{Multiplier: math.Inf(1)}),
		`Config.Retry.InitialBackoff is -1s`:                retry(client.RetryPolicy{InitialBackoff: -time.Second}),
		`Config.Retry.MaxBackoff of 1ms is less`:            retry(client.RetryPolicy{InitialBackoff: time.Second, MaxBackoff: time.Millisecond}),
		`Config.Retry.MaxBackoff of -1ns is less`:           retry(client.RetryPolicy{MaxBackoff: -1}),
		`Config.Retry.PerAttemptTimeout is -1s`:             retry(client.RetryPolicy{PerAttemptTimeout: -time.Second}),
		`Config.Retry.Codes has 0`:                          retry(client.RetryPolicy{Codes: []status.Code{status.OK}}),
		`Config.Retry.Codes has 17`:                         retry(client.RetryPolicy{Codes: []status.Code{17}}),
		`Config.RetryBudget.Ratio is NaN`:                   {RetryBudget: client.RetryBudget{Ratio: math.NaN()}},
		`Config.RetryBudget.MinPerSecond is +Inf`:           {RetryBudget: client.RetryBudget{MinPerSecond: math.Inf(1)}},
		`Config.Circuit.Ratio is 1.5`:                       circuit(client.CircuitPolicy{Ratio: 1.5}),
		`Config.Circuit.MinCalls is -1`:                     circuit(client.CircuitPolicy{MinCalls: -1}),
		`Config.Circuit.Window is -1s`:                      circuit(client.CircuitPolicy{Window: -time.Second}),
		`Config.Circuit.MaxProbeDelay of 1ms is less`:       circuit(client.CircuitPolicy{MaxProbeDelay: time.Millisecond}),
		`Config.Methods["a.B/C"].Hedge.MaxAttempts is -1`:   hedge(client.HedgePolicy{MaxAttempts: -1}),
		`Config.Methods["a.B/C"].Hedge.Delay is -1s`:        hedge(client.HedgePolicy{Delay: -time.Second}),
		`Config.Methods["a.B"].Retry.MaxAttempts is -1`:     method("a.B", client.MethodConfig{Retry: &client.RetryPolicy{MaxAttempts: -1}}),
		`Config.Methods has the key "" (give "pkg.Service"`: method("", client.MethodConfig{}),
		`Config.Methods has the key "/a.B/C"`:               method("/a.B/C", client.MethodConfig{}),
		`Config.Methods has the key "a.B/"`:                 method("a.B/", client.MethodConfig{}),
		`Config.Methods has the key "a.B/C/D"`:              method("a.B/C/D", client.MethodConfig{}),
		`Config.Methods has the key "a B"`:                  method("a B", client.MethodConfig{}),
	} {
		cfg.Transport = inTurn(ok)
		if _, err := client.New(cfg); err == nil || !strings.HasPrefix(err.Error(), "client: ") || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v", want, err)
		}
	}
}

func TestOptionNamesWhatIsWrong(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := inTurn(ok)
		c := s.dial(t, client.Config{}, "a")
		for want, opt := range map[string]client.CallOption{
			"Retry.MaxAttempts is 1000": client.WithRetry(client.RetryPolicy{MaxAttempts: 1000}),
			"Hedge.Delay is -1ns":       client.WithHedge(client.HedgePolicy{Delay: -1}),
		} {
			if _, err := send(t.Context(), c, get, opt); status.CodeOf(err) != status.InvalidArgument || !strings.Contains(err.Error(), want) {
				t.Errorf("%s: got %v", want, err)
			}
		}
		if n := len(s.seen()); n != 0 {
			t.Errorf("%d attempts", n)
		}
	})
}

// What is set for a method counts for more than what is set for its service, and that
// for more than what is set for all.
func TestMethodConfig(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := each(hang)
		c := s.dial(t, client.Config{
			Timeout: 10 * time.Second,
			Retry:   client.RetryPolicy{MaxAttempts: 2, PerAttemptTimeout: time.Second},
			Methods: map[string]client.MethodConfig{
				"test.S":     {Timeout: 20 * time.Second, Retry: &client.RetryPolicy{MaxAttempts: 3, PerAttemptTimeout: 2 * time.Second}},
				"test.S/Put": {Retry: &client.RetryPolicy{MaxAttempts: 1}},
				"test.S/Add": {Timeout: -1},
				"test.U/Get": {Timeout: 3 * time.Second},
			},
		}, "a", "b", "c", "d")
		named := func(service, method string) *rpc.Spec {
			return &rpc.Spec{Service: service, Method: method, Procedure: service + "/" + method, Idempotency: rpc.NoSideEffects}
		}
		within := func(ctx context.Context, spec *rpc.Spec, opts ...client.CallOption) time.Duration {
			began := time.Now()
			if _, err := send(ctx, c, spec, opts...); status.CodeOf(err) != status.DeadlineExceeded {
				t.Errorf("%s: %v", spec.Procedure, err)
			}
			return time.Since(began).Truncate(time.Second)
		}
		if d := within(t.Context(), get); d != 6*time.Second {
			t.Errorf("three attempts of 2 s took %v", d)
		}
		if d := within(t.Context(), put); d != 20*time.Second {
			t.Errorf("one attempt within 20 s took %v", d)
		}
		if d := within(t.Context(), named("test.S", "Pick"), client.WithRetry(client.RetryPolicy{MaxAttempts: 1})); d != 20*time.Second {
			t.Errorf("one attempt, by option, within 20 s took %v", d)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
		defer cancel()
		if d := within(ctx, add); d != time.Hour {
			t.Errorf("one attempt without a bound of the client's took %v", d)
		}
		if d := within(t.Context(), get, client.WithTimeout(time.Second)); d != time.Second {
			t.Errorf("a call within 1 s took %v", d)
		}
	})
}

// A method's hedging can be switched off within its service.
func TestMethodHedge(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := each(in(9*time.Second, ok))
		c := s.dial(t, client.Config{Methods: map[string]client.MethodConfig{
			"test.S":     {Hedge: &client.HedgePolicy{Delay: time.Second}},
			"test.S/Put": {Hedge: &client.HedgePolicy{MaxAttempts: 1}},
		}}, "a", "b")
		for n, spec := range map[int]*rpc.Spec{2: get, 1: put} {
			before := len(s.seen())
			if _, err := send(t.Context(), c, spec); err != nil {
				t.Error(err)
			}
			if got := len(s.seen()) - before; got != n {
				t.Errorf("%s was sent %d times", spec.Procedure, got)
			}
		}
	})
}
