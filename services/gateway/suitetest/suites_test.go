// Package suitetest tests the edge with suites of other projects, on loopback: h2spec (HTTP/2), the interoperability
// tests of gRPC, the conformance tests of Connect, sslyze (TLS), and kosoku (WebSocket, with the cases of Autobahn).
// They are programs: make edge-suites installs them and runs this.
package suitetest

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"bijou.dev/platform/config"
	"bijou.dev/platform/discovery"
	"bijou.dev/services/gateway"
)

// programs is where deploy/suites.sh installs the suites.
const programs = "../../../.bijou/suites"

// TestMain runs the tests, or is the server or the client that connectconformance starts, see connect_test.go.
func TestMain(m *testing.M) {
	if mode := os.Getenv(connectMode); mode != "" {
		if err := beConnect(mode); err != nil {
			slog.Error("connecting connectconformance with the edge", "error", err)
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

// suites says what is run: nothing if it is empty, "all", or else what .ci/run runs.
const suites = "BIJOU_TEST_SUITES"

// needSuites skips the test if make edge-suites does not run it.
func needSuites(t *testing.T) {
	t.Helper()
	if os.Getenv(suites) == "" {
		t.Skip("run by make edge-suites, which installs the suites")
	}
}

// program returns the path of a suite in Go.
func program(t *testing.T, name string) string {
	t.Helper()
	needSuites(t)
	path, err := filepath.Abs(filepath.Join(programs, "bin", name))
	if err == nil {
		_, err = os.Stat(path)
	}
	if err != nil {
		t.Fatalf("finding the suite %s: %v; run make edge-suites", name, err)
	}
	return path
}

// entry starts a suite in Python.
var entry = map[string]string{
	"kosoku": "from kosoku._cli import main; main()",
	"sslyze": "from sslyze.__main__ import main; main()",
}

// python returns a command that runs a suite in Python. Without pip it is not installed, and the test is skipped.
func python(t *testing.T, module string, args ...string) *exec.Cmd {
	t.Helper()
	needSuites(t)
	folder, err := filepath.Abs(filepath.Join(programs, "python"))
	if err != nil {
		t.Fatal(err)
	}
	if err := exec.Command("python3", "-m", "pip", "--version").Run(); err != nil {
		t.Skipf("there is no pip (%v), so %s is not installed and this is NOT TESTED here", err, module)
	}
	if _, err := os.Stat(filepath.Join(folder, module)); err != nil {
		t.Fatalf("finding the suite %s: %v; run make edge-suites", module, err)
	}
	c := exec.CommandContext(t.Context(), "python3", append([]string{"-c", entry[module]}, args...)...)
	c.Env = append(os.Environ(), "PYTHONPATH="+folder)
	return c
}

// edge is an edge that is running.
type edge struct {
	plain  string // address of the listener without TLS
	secure string // with TLS; empty: there is none
	cert   string // the file of the certificate
	stop   func() error
}

// startEdge starts an edge with routes as JSON, and with TLS if there is a folder of certificates.
func startEdge(routes, certs string) (*edge, error) {
	g, err := gateway.NewEdge(gateway.EdgeOptions{
		Options: gateway.Options{Certs: certs},
		// No limit of concurrency: the suites send as much as they like from one address.
		Config: config.Static(map[string]string{
			"gateway.routes": routes, "circuit.default.maxConcurrent": "1000",
		}),
		Discovery: discovery.NewStatic(nil).Directory,
	})
	if err != nil {
		return nil, err
	}
	e := &edge{cert: filepath.Join(certs, "edge.crt")}
	served := make(chan error, 2)
	n := 0
	listen := func(serve func(net.Listener) error) (string, error) {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return "", err
		}
		n++
		go func() { served <- serve(l) }()
		return l.Addr().String(), nil
	}
	e.stop = func() error {
		err := g.Close()
		for range n {
			err = errors.Join(err, <-served)
		}
		return err
	}
	if e.plain, err = listen(g.Serve); err == nil && certs != "" {
		e.secure, err = listen(g.ServeTLS)
	}
	if err != nil {
		return nil, errors.Join(err, e.stop())
	}
	return e, nil
}

// newEdge starts an edge that ends with the test.
func newEdge(t *testing.T, routes, certs string) *edge {
	t.Helper()
	e, err := startEdge(routes, certs)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := e.stop(); err != nil {
			t.Error(err)
		}
	})
	return e
}

// newOrigin starts a server for HTTP/1.1 and HTTP/2 without TLS, and returns its address.
func newOrigin(t *testing.T, h http.Handler) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	srv := &http.Server{Handler: h, Protocols: new(http.Protocols)}
	srv.Protocols.SetHTTP1(true)
	srv.Protocols.SetUnencryptedHTTP2(true)
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = srv.Serve(l) // ends with Close
	}()
	t.Cleanup(func() {
		srv.Close()
		<-done
	})
	return l.Addr().String()
}

// newKey returns a key as most certificates have it.
func newKey(t *testing.T) crypto.Signer {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// newCertificate makes a certificate for localhost as a public authority would issue it, with that of the authority
// behind it, and returns the folder. Both are in the file edge.crt.
func newCertificate(t *testing.T, key crypto.Signer) string {
	t.Helper()
	authority := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test authority"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(365 * 24 * time.Hour),
		KeyUsage: x509.KeyUsageCertSign, BasicConstraintsValid: true, IsCA: true, SubjectKeyId: []byte("test"),
	}
	leaf := &x509.Certificate{
		SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: "localhost"}, DNSNames: []string{"localhost"},
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		NotBefore:   time.Now().Add(-time.Hour), NotAfter: time.Now().Add(89 * 24 * time.Hour),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		BasicConstraintsValid: true,
	}
	rootKey := newKey(t)
	root, err := x509.CreateCertificate(rand.Reader, authority, authority, rootKey.Public(), rootKey)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.CreateCertificate(rand.Reader, leaf, authority, key.Public(), rootKey)
	if err != nil {
		t.Fatal(err)
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	chain := append(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}),
		pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: root})...)
	dir := t.TempDir()
	encoded := pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private})
	if err := writeCertificate(dir, chain, encoded); err != nil {
		t.Fatal(err)
	}
	return dir
}

// writeCertificate writes a certificate and its key into a folder as the edge reads it.
func writeCertificate(dir string, cert, key []byte) error {
	return errors.Join(os.WriteFile(filepath.Join(dir, "edge.key"), key, 0o600),
		os.WriteFile(filepath.Join(dir, "edge.crt"), cert, 0o600))
}

// run runs a command for up to 15 minutes, and returns what it wrote and how it ended.
func run(t *testing.T, c *exec.Cmd) (string, error) {
	t.Helper()
	var out bytes.Buffer
	c.Stdout, c.Stderr = &out, &out
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 15*time.Minute)
	defer cancel()
	stopped := context.AfterFunc(ctx, func() { _ = c.Process.Kill() }) // it may have ended
	defer stopped()
	err := c.Wait()
	return out.String(), err
}
