package e2e_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/server/v3/embed"
	"go.uber.org/zap"

	"github.com/protomicro/micro/e2e/internal/etcdtest"
	"github.com/protomicro/micro/runtime/registry"
	"github.com/protomicro/micro/runtime/registry/etcd"
)

// An authority signs certificates, which it keeps as files.
type authority struct {
	dir  string
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	pool *x509.CertPool
}

func newAuthority(t *testing.T) *authority {
	t.Helper()
	a := &authority{dir: t.TempDir(), pool: x509.NewCertPool()}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test authority"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	a.cert, a.key = template, newKey(t)
	a.cert = a.sign(t, "ca", template, a.key)
	a.pool.AddCert(a.cert)
	return a
}

func newKey(t *testing.T) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// sign writes the certificate and its key to files.
func (a *authority) sign(t *testing.T, name string, template *x509.Certificate, key *ecdsa.PrivateKey) *x509.Certificate {
	t.Helper()
	der, err := x509.CreateCertificate(rand.Reader, template, a.cert, &key.PublicKey, a.key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	private, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	writePEM(t, a.file(name+".crt"), "CERTIFICATE", der)
	writePEM(t, a.file(name+".key"), "EC PRIVATE KEY", private)
	return cert
}

func writePEM(t *testing.T, file, kind string, der []byte) {
	t.Helper()
	if err := os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600); err != nil {
		t.Fatal(err)
	}
}

func (a *authority) file(name string) string { return filepath.Join(a.dir, name) }

// issue makes a certificate for a server on 127.0.0.1 or a client of a name.
func (a *authority) issue(t *testing.T, name string) tls.Certificate {
	t.Helper()
	a.sign(t, name, &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: name},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		KeyUsage:    x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}, newKey(t))
	pair, err := tls.LoadX509KeyPair(a.file(name+".crt"), a.file(name+".key"))
	if err != nil {
		t.Fatal(err)
	}
	return pair
}

// overTLS has a server show a certificate, and ask for one.
func (a *authority) overTLS(t *testing.T) func(*embed.Config) {
	t.Helper()
	a.issue(t, "server")
	return func(cfg *embed.Config) {
		cfg.ClientTLSInfo.CertFile, cfg.ClientTLSInfo.KeyFile = a.file("server.crt"), a.file("server.key")
		cfg.ClientTLSInfo.TrustedCAFile, cfg.ClientTLSInfo.ClientCertAuth = a.file("ca.crt"), true
	}
}

func newClient(t *testing.T, cfg clientv3.Config) *clientv3.Client {
	t.Helper()
	cfg.Logger = zap.NewNop()
	c, err := clientv3.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

func TestTLS(t *testing.T) {
	t.Parallel()
	ours, others := newAuthority(t), newAuthority(t)
	server := etcdtest.Start(t, ours.overTLS(t))
	https := []string{"https://" + server.Endpoint()}
	good := &tls.Config{RootCAs: ours.pool, Certificates: []tls.Certificate{ours.issue(t, "client")}}
	r := newRegistry(t, newClient(t, clientv3.Config{Endpoints: https, TLS: good}), etcd.Config{})
	w := watch(t, r, service)
	reg := register(t, r, instance("a"))
	untilIDs(t, w, "a")
	server.Stop()
	until(t, w, "stale", func(s registry.Snapshot) bool { return s.Stale })
	server.Restart(t)
	eventually(t, "the registration stands again", func() bool { return reg.State().Registered })
	untilIDs(t, w, "a")

	for name, tc := range map[string]struct {
		endpoints []string
		tls       *tls.Config
		want      []string
	}{
		"another authority":          {https, &tls.Config{RootCAs: others.pool, Certificates: good.Certificates}, []string{"unknown authority", "RootCAs"}},
		"no client certificate":      {https, &tls.Config{RootCAs: ours.pool}, []string{"Certificates"}},
		"a stranger's certificate":   {https, &tls.Config{RootCAs: ours.pool, Certificates: []tls.Certificate{others.issue(t, "client")}}, []string{"Certificates"}},
		"no TLS, and an http:// URL": {[]string{"http://" + server.Endpoint()}, nil, []string{"https://"}},
		"no TLS, and no URL":         {[]string{server.Endpoint()}, nil, []string{"https://"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRegistry(t, newClient(t, clientv3.Config{Endpoints: tc.endpoints, TLS: tc.tls}), etcd.Config{})
			_, services := r.Services(short(t))
			_, registering := r.Register(short(t), instance("b"))
			s := next(t, watch(t, r, service))
			for call, err := range map[string]error{"Services": services, "Register": registering, "Watch": s.Err} {
				if err == nil {
					t.Errorf("%s works", call)
					continue
				}
				for _, want := range append(tc.want, tc.endpoints[0]) {
					if !strings.Contains(err.Error(), want) {
						t.Errorf("%s: %v, want %q in it", call, err, want)
					}
				}
			}
		})
	}
}

// short is for what fails only after a time.
func short(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	t.Cleanup(cancel)
	return ctx
}

const siteprefix = "/site/"

// guarded starts an etcd that lets in root, who may do all, and registrar, who may
// read and write below a prefix.
func guarded(t *testing.T, change ...func(*embed.Config)) (*etcdtest.Server, *clientv3.Client) {
	t.Helper()
	server := etcdtest.Start(t, append(change, func(cfg *embed.Config) { cfg.BcryptCost = 4 })...)
	setup, ctx := server.Client(t), within(t)
	must := func(_ any, err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(setup.UserAdd(ctx, "root", "root-secret"))
	must(setup.UserGrantRole(ctx, "root", "root"))
	must(setup.RoleAdd(ctx, "registry"))
	must(setup.RoleGrantPermission(ctx, "registry", siteprefix, clientv3.GetPrefixRangeEnd(siteprefix), clientv3.PermissionType(clientv3.PermReadWrite)))
	must(setup.UserAdd(ctx, "registrar", "secret"))
	must(setup.UserGrantRole(ctx, "registrar", "registry"))
	must(setup.AuthEnable(ctx))
	return server, newClient(t, clientv3.Config{Endpoints: []string{server.Endpoint()}, Username: "root", Password: "root-secret"})
}

func asUser(t *testing.T, server *etcdtest.Server, name, password string) *clientv3.Client {
	t.Helper()
	return newClient(t, clientv3.Config{Endpoints: []string{server.Endpoint()}, Username: name, Password: password})
}

// says checks what a registry that may not do what it should tells of it.
func says(t *testing.T, r *etcd.Registry, want ...string) {
	t.Helper()
	_, services := r.Services(short(t))
	begun := time.Now()
	_, registering := r.Register(within(t), instance("refused"))
	if d := time.Since(begun); d > 30*time.Second {
		t.Errorf("Register took %v to fail", d)
	}
	s := next(t, watch(t, r, service))
	for call, err := range map[string]error{"Services": services, "Register": registering, "Watch": s.Err} {
		if err == nil {
			t.Errorf("%s works", call)
			continue
		}
		for _, want := range want {
			if !strings.Contains(err.Error(), want) {
				t.Errorf("%s: %v, want %q in it", call, err, want)
			}
		}
	}
}

func TestPermissions(t *testing.T) {
	t.Parallel()
	server, root := guarded(t)
	cfg := etcd.Config{Prefix: siteprefix}
	r := newRegistry(t, asUser(t, server, "registrar", "secret"), cfg)
	w := watch(t, r, service)
	reg := register(t, r, instance("a"))
	untilIDs(t, w, "a")
	if names, err := r.Services(within(t)); err != nil || len(names) != 1 {
		t.Errorf("Services: %v, %v", names, err)
	}
	deregister := register(t, r, instance("b"))
	untilIDs(t, w, "a", "b")
	if err := deregister.Close(within(t)); err != nil {
		t.Error(err)
	}
	untilIDs(t, w, "a")

	t.Run("another prefix", func(t *testing.T) {
		says(t, newRegistry(t, asUser(t, server, "registrar", "secret"), etcd.Config{Prefix: "/elsewhere/"}),
			server.Endpoint(), `user "registrar"`, "/elsewhere/", "permission denied", "grant-permission")
	})
	t.Run("no user", func(t *testing.T) {
		says(t, newRegistry(t, server.Client(t), cfg), server.Endpoint(), "Username and Password")
	})
	t.Run("wrong password", func(t *testing.T) {
		_, err := clientv3.New(clientv3.Config{Endpoints: []string{server.Endpoint()}, Username: "registrar", Password: "wrong", Logger: zap.NewNop()})
		if err == nil || !strings.Contains(err.Error(), "invalid user ID or password") {
			t.Errorf("the client: %v", err)
		}
	})
	t.Run("some of the prefix", func(t *testing.T) {
		// A role that may only touch one service can register and watch that one.
		must := func(_ any, err error) {
			t.Helper()
			if err != nil {
				t.Fatal(err)
			}
		}
		one := siteprefix + "one.v1.Service/"
		must(root.RoleAdd(within(t), "one"))
		must(root.RoleGrantPermission(within(t), "one", one, clientv3.GetPrefixRangeEnd(one), clientv3.PermissionType(clientv3.PermReadWrite)))
		must(root.UserAdd(within(t), "narrow", "secret"))
		must(root.UserGrantRole(within(t), "narrow", "one"))
		r := newRegistry(t, asUser(t, server, "narrow", "secret"), cfg)
		w, err := r.Watch(within(t), "one.v1.Service")
		if err != nil {
			t.Fatal(err)
		}
		defer w.Close()
		// Several at once are one transaction; the one that is refused does no harm.
		results := make(chan error)
		for i := range 6 {
			in := instance(fmt.Sprint("i", i))
			if i != 3 {
				in.Service = "one.v1.Service"
			}
			go func() {
				_, err := r.Register(within(t), in)
				if in.Service != "one.v1.Service" && err != nil && strings.Contains(err.Error(), "permission denied") {
					err = nil
				} else if in.Service != "one.v1.Service" {
					err = fmt.Errorf("a service that is not permitted: %w", err)
				}
				results <- err
			}()
		}
		for range 6 {
			if err := <-results; err != nil {
				t.Error(err)
			}
		}
		s := untilIDs(t, w, "i0", "i1", "i2", "i4", "i5")
		if s.Stale {
			t.Errorf("snapshot: %+v", s)
		}
	})
	t.Run("password changed", func(t *testing.T) {
		// The process goes on with its token, and is told when etcd has forgotten that.
		if _, err := root.UserChangePassword(within(t), "registrar", "other"); err != nil {
			t.Fatal(err)
		}
		server.Stop()
		server.Restart(t)
		s := until(t, w, "stale", func(s registry.Snapshot) bool { return s.Stale && strings.Contains(s.Err.Error(), "Password") })
		if len(s.Instances) != 1 || !strings.Contains(s.Err.Error(), `user "registrar"`) {
			t.Errorf("snapshot: %+v", s)
		}
		if _, err := root.UserChangePassword(within(t), "registrar", "secret"); err != nil {
			t.Fatal(err)
		}
		untilIDs(t, w, "a")
		eventually(t, "the registration stands", func() bool { return reg.State().Registered })
	})
	t.Run("permission withdrawn", func(t *testing.T) {
		if _, err := root.RoleRevokePermission(within(t), "registry", siteprefix, clientv3.GetPrefixRangeEnd(siteprefix)); err != nil {
			t.Fatal(err)
		}
		server.Stop()
		server.Restart(t)
		s := until(t, w, "stale", func(s registry.Snapshot) bool { return s.Stale && strings.Contains(s.Err.Error(), "permission denied") })
		if len(s.Instances) != 1 {
			t.Errorf("snapshot: %+v", s)
		}
		if _, err := root.RoleGrantPermission(within(t), "registry", siteprefix, clientv3.GetPrefixRangeEnd(siteprefix), clientv3.PermissionType(clientv3.PermReadWrite)); err != nil {
			t.Fatal(err)
		}
		untilIDs(t, w, "a")
		eventually(t, "the registration stands", func() bool { return reg.State().Registered })
	})
}

// Tokens end: those of a fixed life, those that etcd forgets when it restarts, and
// those that nobody uses. Nobody notices.
func TestTokens(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	private := x509.MarshalPKCS1PrivateKey(key)
	public, err := x509.MarshalPKIXPublicKey(&key.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	writePEM(t, filepath.Join(dir, "jwt.key"), "RSA PRIVATE KEY", private)
	writePEM(t, filepath.Join(dir, "jwt.pub"), "PUBLIC KEY", public)
	for name, change := range map[string]func(*embed.Config){
		"simple": func(cfg *embed.Config) { cfg.AuthTokenTTL = 1 },
		"jwt": func(cfg *embed.Config) {
			cfg.AuthToken = fmt.Sprintf("jwt,pub-key=%s,priv-key=%s,sign-method=RS256,ttl=1s", filepath.Join(dir, "jwt.pub"), filepath.Join(dir, "jwt.key"))
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server, root := guarded(t, change)
			r := newRegistry(t, asUser(t, server, "registrar", "secret"), etcd.Config{Prefix: siteprefix, TTL: 3 * time.Second})
			w := watch(t, r, service)
			reg := register(t, r, instance("a"))
			untilIDs(t, w, "a")
			lease := func() int64 {
				t.Helper()
				kv := get(t, root, siteprefix+service+"/a")
				if kv == nil {
					t.Fatal("the instance is not there")
				}
				return kv.Lease
			}
			before := lease()
			begun := time.Now()
			for time.Since(begun) < 3*time.Second {
				if state := reg.State(); !state.Registered {
					t.Fatalf("after %v: %+v", time.Since(begun), state)
				}
				time.Sleep(10 * time.Millisecond)
			}
			if after := lease(); after != before {
				t.Errorf("the lease was %d and is %d", before, after)
			}
			register(t, r, instance("b"))
			s := untilIDs(t, w, "a", "b")
			if s.Stale {
				t.Errorf("snapshot: %+v", s)
			}

			// The client's own connection rests for long after a long outage, and tokens
			// come over that one.
			server.Stop()
			begun = time.Now()
			eventually(t, "it was down for long enough", func() bool { return time.Since(begun) > 6*time.Second })
			server.Restart(t)
			begun = time.Now()
			register(t, r, instance("c"))
			untilIDs(t, w, "a", "b", "c")
			eventually(t, "the registration stands", func() bool { return reg.State().Registered })
			took := time.Since(begun)
			t.Logf("after an outage of 6 s, all is well within %v", took.Round(time.Millisecond))
			// On a loaded machine it may be too late for the old lease all the same.
			if after := lease(); after != before && took < 1500*time.Millisecond {
				t.Errorf("the lease was %d and is %d: it was not renewed in time", before, after)
			}
		})
	}
}

// Two systems in one etcd do not meet, not even where one prefix is within the other.
func TestPrefixes(t *testing.T) {
	t.Parallel()
	server := etcdtest.Start(t)
	prefixes := []string{"/a", "/b/", "/a/b", "/aa"}
	var all []*etcd.Registry
	for i, prefix := range prefixes {
		r := newRegistry(t, server.Client(t), etcd.Config{Prefix: prefix})
		register(t, r, instance(fmt.Sprint("i", i)))
		all = append(all, r)
	}
	for i, r := range all {
		untilIDs(t, watch(t, r, service), fmt.Sprint("i", i))
		if names, err := r.Services(within(t)); err != nil || len(names) != 1 || names[0] != service {
			t.Errorf("Services under %s: %v, %v", prefixes[i], names, err)
		}
	}
}
