package netsec

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"os"

	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/chainfire/cfseed/internal/fault"
)

// Files names the PEM files of one side of a listener or a client.
type Files struct {
	Cert, Key string // this side's certificate and its key; both or neither
	CA        string // whose certificates are trusted; empty = the system's
	// ClientCertAuth makes a server ask every client for a certificate that CA
	// signed.
	ClientCertAuth bool
	// MinVersion and MaxVersion bound the versions of TLS, CipherSuites what TLS 1.2
	// may choose from; zero leaves them open, but for TLS 1.2 being the least.
	MinVersion, MaxVersion uint16
	CipherSuites           []uint16
	// CRL is a file of certificates that their issuer has revoked: a server lets
	// nobody in with them. Empty = none.
	CRL string
	// Unverified makes a client accept any certificate: members that made their own
	// have nothing to verify each other by (etcd's --peer-auto-tls).
	Unverified bool
	// ServerName overrides the name that a client expects in the certificate.
	ServerName string
}

// Empty reports whether nothing says that TLS is meant.
func (f Files) Empty() bool { return f.Cert == "" && f.Key == "" && f.CA == "" && !f.Unverified }

// Server gives the configuration of a TLS listener.
func (f Files) Server() (*tls.Config, error) {
	if f.Cert == "" || f.Key == "" {
		return nil, fault.Newf(fault.Usage, "TLS", "a listener needs a certificate file and a key file")
	}
	if f.ClientCertAuth && f.CA == "" {
		return nil, fault.Newf(fault.Usage, "TLS", "client certificates are asked for, but no CA file says which are good")
	}
	if _, err := f.pair(); err != nil {
		return nil, err
	}
	cfg := &tls.Config{
		NextProtos:     []string{"h2"},
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return f.pair() },
	}
	if err := f.limit(cfg); err != nil {
		return nil, err
	}
	if f.CRL != "" {
		if _, err := f.revoked(); err != nil {
			return nil, err
		}
		cfg.VerifyConnection = f.refuseRevoked
	}
	if f.CA == "" {
		return cfg, nil
	}
	pool, err := f.pool()
	if err != nil {
		return nil, err
	}
	cfg.ClientCAs = pool
	cfg.ClientAuth = tls.VerifyClientCertIfGiven
	if f.ClientCertAuth {
		cfg.ClientAuth = tls.RequireAndVerifyClientCert
	}
	return cfg, nil
}

// Client gives the configuration of a dialer.
func (f Files) Client() (*tls.Config, error) {
	cfg := &tls.Config{NextProtos: []string{"h2"}, ServerName: f.ServerName, InsecureSkipVerify: f.Unverified}
	if err := f.limit(cfg); err != nil {
		return nil, err
	}
	if (f.Cert == "") != (f.Key == "") {
		return nil, fault.Newf(fault.Usage, "TLS", "a certificate file and a key file belong together")
	}
	if f.Cert != "" {
		if _, err := f.pair(); err != nil {
			return nil, err
		}
		cfg.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return f.pair() }
	}
	if f.CA != "" {
		pool, err := f.pool()
		if err != nil {
			return nil, err
		}
		cfg.RootCAs = pool
	}
	return cfg, nil
}

// ServerCredentials gives what a gRPC server on the URL needs: TLS where its
// scheme says so, else plain text.
func (f Files) ServerCredentials(u URL) (credentials.TransportCredentials, error) {
	if !u.TLS() {
		return insecure.NewCredentials(), nil
	}
	cfg, err := f.Server()
	if err != nil {
		return nil, err
	}
	return credentials.NewTLS(cfg), nil
}

// ClientCredentials is the dialing side of ServerCredentials.
func (f Files) ClientCredentials(u URL) (credentials.TransportCredentials, error) {
	if !u.TLS() {
		return insecure.NewCredentials(), nil
	}
	cfg, err := f.Client()
	if err != nil {
		return nil, err
	}
	return credentials.NewTLS(cfg), nil
}

func (f Files) pair() (*tls.Certificate, error) {
	c, err := tls.LoadX509KeyPair(f.Cert, f.Key)
	if err != nil {
		return nil, fault.New(classOf(err), "read certificate", err).At(f.Cert)
	}
	return &c, nil
}

func (f Files) pool() (*x509.CertPool, error) {
	pem, err := os.ReadFile(f.CA)
	if err != nil {
		return nil, fault.New(classOf(err), "read CA file", err).At(f.CA)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(pem) {
		return nil, fault.Newf(fault.Usage, "read CA file", "no certificate in it").At(f.CA)
	}
	return pool, nil
}

func classOf(err error) fault.Code {
	if errors.Is(err, os.ErrPermission) {
		return fault.Permission
	}
	return fault.Usage
}
