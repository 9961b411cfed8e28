package netsec

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"slices"
	"time"

	"github.com/chainfire/cfseed/internal/fault"
)

// MaxSelfSignedYears is the longest that a certificate made here is good.
const MaxSelfSignedYears = 100

// SelfSigned makes a certificate for servers, its own authority, and the key, as
// PEM. It names the hosts, IP addresses or DNS names, and is good from now on for
// years of 365 days (etcd's --self-signed-cert-validity).
func SelfSigned(hosts []string, now time.Time, years int) (cert, key []byte, err error) {
	const op = "make certificate"
	if years < 1 || years > MaxSelfSignedYears {
		return nil, nil, fault.Newf(fault.Usage, op, "good for %d years: want 1 to %d", years, MaxSelfSignedYears)
	}
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
	if err != nil {
		return nil, nil, fault.New(fault.Internal, op, err)
	}
	template := x509.Certificate{
		SerialNumber: serial, Subject: pkix.Name{Organization: []string{"cfseed"}},
		NotBefore: now, NotAfter: now.AddDate(0, 0, 365*years),
		KeyUsage:    x509.KeyUsageKeyEncipherment | x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}, BasicConstraintsValid: true, IsCA: true,
	}
	for _, host := range hosts {
		if ip := net.ParseIP(host); ip != nil {
			template.IPAddresses = append(template.IPAddresses, ip)
		} else {
			template.DNSNames = append(template.DNSNames, host)
		}
	}
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, fault.New(fault.Internal, op, err)
	}
	der, err := x509.CreateCertificate(rand.Reader, &template, &template, &private.PublicKey, private)
	if err != nil {
		return nil, nil, fault.New(fault.Usage, op, err) // a host that is no name
	}
	secret, err := x509.MarshalECPrivateKey(private)
	if err != nil {
		return nil, nil, fault.New(fault.Internal, op, err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}),
		pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: secret}), nil
}

// Hosts are the names and addresses in URLs, each once; a socket has none.
func Hosts(urls []string) ([]string, error) {
	var out []string
	for _, s := range urls {
		u, err := ParseURL(s)
		if err != nil {
			return nil, err
		}
		if u.Unix() {
			continue
		}
		host, _, err := net.SplitHostPort(u.Addr)
		if err != nil {
			return nil, fault.New(fault.Usage, "parse URL", err)
		}
		if host != "" && !slices.Contains(out, host) {
			out = append(out, host)
		}
	}
	return out, nil
}

// Expires tells until when the certificate in the files is good.
func (f Files) Expires() (time.Time, error) {
	pair, err := f.pair()
	if err != nil {
		return time.Time{}, err
	}
	leaf, err := x509.ParseCertificate(pair.Certificate[0])
	if err != nil {
		return time.Time{}, fault.New(fault.Usage, "read certificate", err).At(f.Cert)
	}
	return leaf.NotAfter, nil
}
