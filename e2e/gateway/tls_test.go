package gateway

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	nethttp "net/http"
	"os"
	"path/filepath"
	"testing"
	"time"

	"connectrpc.com/connect"
)

// certificate makes one that is its own authority, for 127.0.0.1 and for clients, in
// files.
func certificate(t *testing.T) (certFile, keyFile string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, IsCA: true, BasicConstraintsValid: true,
		KeyUsage:    x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	cert, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	raw, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	certFile, keyFile = filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	for file, block := range map[string]*pem.Block{
		certFile: {Type: "CERTIFICATE", Bytes: cert}, keyFile: {Type: "PRIVATE KEY", Bytes: raw},
	} {
		if err := os.WriteFile(file, pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return certFile, keyFile
}

// TestTLS is the program with a certificate, and asking clients for theirs.
func TestTLS(t *testing.T) {
	s := startServers(t)
	s.echo(t)
	cert, key := certificate(t)
	roots := x509.NewCertPool()
	if raw, err := os.ReadFile(cert); err != nil || !roots.AppendCertsFromPEM(raw) {
		t.Fatal(err)
	}
	pair, err := tls.LoadX509KeyPair(cert, key)
	if err != nil {
		t.Fatal(err)
	}
	client := func(cfg *tls.Config) *nethttp.Client {
		cfg.RootCAs = roots
		tr := &nethttp.Transport{TLSClientConfig: cfg, ForceAttemptHTTP2: true}
		t.Cleanup(tr.CloseIdleConnections)
		return &nethttp.Client{Transport: tr}
	}
	p := s.gateway(t, "-services", "*", "-tls-cert", cert, "-tls-key", key)
	if err := callEcho(within(t), client(&tls.Config{}), p.url); err != nil {
		t.Error(err)
	}
	p = s.gateway(t, "-services", "*", "-tls-cert", cert, "-tls-key", key, "-tls-client-ca", cert)
	// The server may hang up while the request is written or after: connect has two codes for that.
	if err := callEcho(within(t), client(&tls.Config{}), p.url); err == nil || connect.IsWireError(err) {
		t.Errorf("without a certificate: %v", err)
	}
	if err := callEcho(within(t), client(&tls.Config{Certificates: []tls.Certificate{pair}}), p.url); err != nil {
		t.Error(err)
	}
}
