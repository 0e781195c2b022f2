package http

import (
	"crypto/tls"
	"crypto/x509"
	"net/http/httptest"
	"testing"
)

// certificates are those of a test server, which is 127.0.0.1 among others.
func certificates(t testing.TB) (forServer, forClient *tls.Config) {
	t.Helper()
	s := httptest.NewUnstartedServer(nil)
	s.StartTLS()
	defer s.Close()
	roots := x509.NewCertPool()
	roots.AddCert(s.Certificate())
	return &tls.Config{Certificates: s.TLS.Certificates}, &tls.Config{RootCAs: roots}
}
