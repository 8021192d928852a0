package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"github.com/roost-ci/roost/configs"
	"github.com/roost-ci/roost/internal/durable"
)

// ownCertificateLife is how long a coordinator's own certificate is good for. Agents
// know it by its key, so that its end means little: it is longer than the machine's.
const ownCertificateLife = 20 * 365 * 24 * time.Hour

// serverTLS is what the coordinator serves with, nil where only this machine can
// listen. Its own key and certificate are made at the first start.
func serverTLS(cfg configs.Coordinator) (*tls.Config, error) {
	if !cfg.Secure() {
		return nil, nil
	}
	cert, key := cfg.TLSCert, cfg.TLSKey
	if cert == "" {
		var err error
		if cert, key, err = ensureCertificate(filepath.Join(cfg.StateDir, "tls")); err != nil {
			return nil, fmt.Errorf("coordinator's certificate: %w", err)
		}
	}
	if fi, err := os.Stat(key); err == nil && fi.Mode().Perm()&0o077 != 0 && !ignoreModes {
		return nil, fmt.Errorf("key file %s can be read by others (mode %04o): chmod 600 it", key, fi.Mode().Perm())
	}
	pair, err := tls.LoadX509KeyPair(cert, key)
	if err != nil {
		return nil, fmt.Errorf("coordinator's certificate: %w", err)
	}
	return &tls.Config{MinVersion: tls.VersionTLS12, Certificates: []tls.Certificate{pair}}, nil
}

// ensureCertificate makes a key and a certificate in dir if there is none. The key
// is written first: a certificate without its key is never seen.
func ensureCertificate(dir string) (certFile, keyFile string, err error) {
	certFile, keyFile = filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	if _, err := os.Stat(certFile); !errors.Is(err, fs.ErrNotExist) {
		return certFile, keyFile, err
	}
	if err := durable.MkdirAll(dir, 0o700); err != nil {
		return "", "", err
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return "", "", err
	}
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120))
	if err != nil {
		return "", "", err
	}
	name, err := os.Hostname()
	if err != nil {
		name = "roost"
	}
	now := time.Now()
	der, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{
		SerialNumber: serial, Subject: pkix.Name{CommonName: "roost coordinator on " + name},
		NotBefore: now.Add(-24 * time.Hour), NotAfter: now.Add(ownCertificateLife), // clocks differ
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		DNSNames: []string{name, "localhost"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1), net.IPv6loopback},
		BasicConstraintsValid: true,
	}, &x509.Certificate{Subject: pkix.Name{CommonName: "roost coordinator on " + name}}, key.Public(), key)
	if err != nil {
		return "", "", err
	}
	raw, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return "", "", err
	}
	for _, f := range []struct {
		path string
		b    pem.Block
	}{{keyFile, pem.Block{Type: "PRIVATE KEY", Bytes: raw}}, {certFile, pem.Block{Type: "CERTIFICATE", Bytes: der}}} {
		err := durable.WriteFile(f.path, 0o600, func(w io.Writer) error { return pem.Encode(w, &f.b) })
		if err != nil {
			return "", "", err
		}
	}
	return certFile, keyFile, nil
}

// pinOf is how agents know a certificate: the SHA-256 of its public key, which stays
// when the certificate is renewed.
func pinOf(c *x509.Certificate) string {
	sum := sha256.Sum256(c.RawSubjectPublicKeyInfo)
	return hex.EncodeToString(sum[:])
}

// pinOfFile is the pin of the first certificate in a file.
func pinOfFile(path string) (string, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return "", err
	}
	block, _ := pem.Decode(b)
	if block == nil || block.Type != "CERTIFICATE" {
		return "", fmt.Errorf("%s does not begin with a certificate in PEM", path)
	}
	c, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return "", fmt.Errorf("%s: %w", path, err)
	}
	return pinOf(c), nil
}

// pinError says that a coordinator showed another key than the one that was pinned.
type pinError struct{ want, got string }

func (e *pinError) Error() string {
	return fmt.Sprintf("the coordinator's key has the pin %s, not %s: another machine answers, or it got a new key", e.got, e.want)
}

// coordinatorHTTP is the client for a coordinator with a pin; nil, the packages' own,
// for one without. With a pin nothing else counts: no name, no authority.
func coordinatorHTTP(pin string) *http.Client {
	if pin == "" {
		return nil
	}
	conf := &tls.Config{
		MinVersion:         tls.VersionTLS12,
		InsecureSkipVerify: true, // VerifyConnection does it, by the key alone
		VerifyConnection: func(s tls.ConnectionState) error {
			if len(s.PeerCertificates) == 0 {
				return errors.New("the coordinator has no certificate")
			}
			got := pinOf(s.PeerCertificates[0])
			if subtle.ConstantTimeCompare([]byte(got), []byte(pin)) != 1 {
				return &pinError{want: pin, got: got}
			}
			return nil
		},
	}
	return &http.Client{
		Transport: &http.Transport{
			Proxy:               nil, // an environment's proxy is for the jobs, not for us
			DialContext:         (&net.Dialer{Timeout: 10 * time.Second, KeepAlive: 15 * time.Second}).DialContext,
			TLSClientConfig:     conf,
			TLSHandshakeTimeout: 10 * time.Second,
			MaxIdleConnsPerHost: 16,
			IdleConnTimeout:     90 * time.Second,
			DisableCompression:  true,
			WriteBufferSize:     64 << 10,
			ReadBufferSize:      64 << 10,
		},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}
