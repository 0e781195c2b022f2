package services

import (
	"bytes"
	"context"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/nats-io/nats.go/micro"

	"github.com/protomicro/micro/e2e/internal/natstest"
	"github.com/protomicro/micro/runtime/server"
)

// envCLI names the nats command to test with. Without it, the test builds the pinned
// one, and is skipped where that cannot be had. The checks set it.
const envCLI = "NATS_CLI"

var buildCLI = sync.OnceValues(func() (string, error) {
	module, err := filepath.Abs("../../tools/natscli")
	if err != nil {
		return "", err
	}
	path := filepath.Join(module, "..", "..", ".bin", "nats")
	cmd := exec.Command("go", "build", "-o", path, "github.com/nats-io/natscli/nats")
	cmd.Dir, cmd.Env = module, append(os.Environ(), "GOWORK=off")
	if out, err := cmd.CombinedOutput(); err != nil {
		return string(out), err
	}
	return path, nil
})

// A cli is the nats command, with a server to talk to.
type cli struct{ path, url, home string }

func newCLI(t *testing.T, ns *natstest.Server) cli {
	t.Helper()
	path := os.Getenv(envCLI)
	if path == "" {
		var err error
		if path, err = buildCLI(); err != nil {
			t.Skipf("the nats command cannot be built: %v\n%s", err, path)
		}
	}
	return cli{path, ns.URL(), t.TempDir()}
}

// run runs the command, which has to succeed, and is its output.
func (c cli) run(t *testing.T, args ...string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, c.path, append([]string{"--server", c.url, "--timeout", "3s"}, args...)...)
	cmd.Env = append(os.Environ(), "HOME="+c.home, "XDG_CONFIG_HOME="+c.home, "NO_COLOR=1")
	var out, failures bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &failures
	if err := cmd.Run(); err != nil {
		t.Fatalf("nats %s: %v\n%s%s", strings.Join(args, " "), err, out.String(), failures.String())
	}
	return out.String() + failures.String()
}

func wantText(t *testing.T, what, text string, parts ...string) {
	t.Helper()
	for _, p := range parts {
		if !strings.Contains(text, p) {
			t.Errorf("%s does not have %q:\n%s", what, p, text)
		}
	}
}

// TestCLI uses the real nats command, which holds what it gets against the schemas of
// NATS: what does not fit is an error, or is missing.
func TestCLI(t *testing.T) {
	ns := natstest.Start(t)
	nats := newCLI(t, ns)
	serve(t, ns, server.Config{ID: "one", Version: "1.2.3"})
	serve(t, ns, server.Config{ID: "two", Version: "1.2.3"})

	wantText(t, "ls", nats.run(t, "micro", "ls"), "echo-v1-Echo", "echo-v1-Stream", "echo-v1-Admin", "1.2.3", "one", "two")
	wantText(t, "ls of one service", nats.run(t, "micro", "ls", "echo-v1-Echo"), "one", "two")
	wantText(t, "ping", nats.run(t, "micro", "ping"),
		"echo-v1-Echo one", "echo-v1-Echo two", "echo-v1-Admin one", "echo-v1-Stream two")
	wantText(t, "ping of one service", nats.run(t, "micro", "ping", "echo-v1-Echo"), "echo-v1-Echo one", "echo-v1-Echo two")

	wantText(t, "req", nats.run(t, "req", "micro.m.echo.v1.Echo.Echo", `{"text":"hi"}`), `"text":"hi"`)
	wantText(t, "req with a header", nats.run(t, "req", "-H", "trace-id:4bf9", "micro.m.echo.v1.Echo.Echo", `{}`), "Echo-Trace-Id: 4bf9")
	wantText(t, "req that fails", nats.run(t, "req", "micro.m.echo.v1.Echo.Fail", `{"code":5,"message":"no order 17"}`),
		"Nats-Service-Error-Code: 404", "Nats-Service-Error: not_found: no order 17", `"code":"not_found"`)
	wantText(t, "micro req", nats.run(t, "micro", "req", "echo-v1-Echo", "Echo", `{"text":"hello"}`), `"text":"hello"`)

	wantText(t, "info", nats.run(t, "micro", "info", "echo-v1-Echo", "one"),
		"echo-v1-Echo (one)", "1.2.3", "echo.v1.Echo", "micro.m.echo.v1.Echo.Sleep", `"q"`, "unary", "nats:micro.i.one")
	var info struct {
		Info  micro.Info
		Stats micro.Stats
	}
	parse(t, nats.run(t, "micro", "info", "--json", "echo-v1-Echo", "two"), &info)
	if info.Info.ID != "two" || len(info.Info.Endpoints) != 4 || len(info.Stats.Endpoints) != 4 {
		t.Errorf("info in JSON: %+v", info)
	}

	wantText(t, "stats", nats.run(t, "micro", "stats", "echo-v1-Echo"), "one", "two", "Sleep", "Fail")
	var stats []micro.Stats
	parse(t, nats.run(t, "micro", "stats", "--json", "echo-v1-Echo"), &stats)
	counts := make(map[string][2]int)
	for _, s := range stats {
		for _, e := range s.Endpoints {
			c := counts[e.Name]
			counts[e.Name] = [2]int{c[0] + e.NumRequests, c[1] + e.NumErrors}
		}
	}
	if len(stats) != 2 || counts["Echo"] != [2]int{3, 0} || counts["Fail"] != [2]int{1, 1} || counts["Sleep"] != [2]int{0, 0} {
		t.Errorf("requests and errors %v of %d instances", counts, len(stats))
	}
}

func parse(t *testing.T, text string, v any) {
	t.Helper()
	if err := json.Unmarshal([]byte(text), v); err != nil {
		t.Fatalf("%v: %s", err, text)
	}
}
