package netsec

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"os"
	"slices"
	"strings"

	"github.com/chainfire/cfseed/internal/fault"
)

// ParseTLSVersion reads a version as etcd names it, TLS1.2 or TLS1.3; empty is 0,
// which leaves it open.
func ParseTLSVersion(name string) (uint16, error) {
	switch name {
	case "":
		return 0, nil
	case "TLS1.2":
		return tls.VersionTLS12, nil
	case "TLS1.3":
		return tls.VersionTLS13, nil
	}
	return 0, fault.Newf(fault.Usage, "TLS", "version %q: want TLS1.2 or TLS1.3", name)
}

// ParseCipherSuites reads names of cipher suites, as Go and IANA write them,
// separated by commas; empty gives none, which leaves the choice to Go.
func ParseCipherSuites(list string) ([]uint16, error) {
	var out []uint16
	for name := range strings.SplitSeq(list, ",") {
		if name = strings.TrimSpace(name); name == "" {
			continue
		}
		all := append(tls.CipherSuites(), tls.InsecureCipherSuites()...)
		i := slices.IndexFunc(all, func(s *tls.CipherSuite) bool { return s.Name == name })
		if i < 0 {
			return nil, fault.Newf(fault.Usage, "TLS", "cipher suite %q is not known", name)
		}
		out = append(out, all[i].ID)
	}
	return out, nil
}

// limit puts the bounds of f on a configuration. The suites are those up to TLS
// 1.2; of TLS 1.3 all are good.
func (f Files) limit(cfg *tls.Config) error {
	cfg.MinVersion = max(f.MinVersion, tls.VersionTLS12)
	cfg.MaxVersion = f.MaxVersion
	cfg.CipherSuites = f.CipherSuites
	switch {
	case f.MaxVersion != 0 && f.MaxVersion < cfg.MinVersion:
		return fault.Newf(fault.Usage, "TLS", "the least version, %s, is above the greatest, %s", tls.VersionName(cfg.MinVersion), tls.VersionName(f.MaxVersion))
	case len(f.CipherSuites) > 0 && cfg.MinVersion >= tls.VersionTLS13:
		return fault.Newf(fault.Usage, "TLS", "cipher suites can not be chosen where only TLS 1.3 is spoken")
	}
	return nil
}

// maxCRLBytes bounds a file of revoked certificates.
const maxCRLBytes = 16 << 20

// revoked reads the list of revoked certificates, DER or PEM.
func (f Files) revoked() (*x509.RevocationList, error) {
	const op = "read revoked certificates"
	info, err := os.Stat(f.CRL)
	if err == nil && info.Size() > maxCRLBytes {
		return nil, fault.Newf(fault.Usage, op, "larger than %d bytes", maxCRLBytes).At(f.CRL)
	}
	der, err := os.ReadFile(f.CRL)
	if err != nil {
		return nil, fault.New(classOf(err), op, err).At(f.CRL)
	}
	if block, _ := pem.Decode(der); block != nil {
		der = block.Bytes
	}
	list, err := x509.ParseRevocationList(der)
	if err != nil {
		return nil, fault.New(fault.Usage, op, err).At(f.CRL)
	}
	return list, nil
}

// refuseRevoked ends a handshake whose peer shows a certificate that its issuer
// has revoked. The list is read at every handshake; one that can not be read
// lets nobody in.
func (f Files) refuseRevoked(state tls.ConnectionState) error {
	if len(state.PeerCertificates) == 0 {
		return nil
	}
	list, err := f.revoked()
	if err != nil {
		return err
	}
	for _, cert := range state.PeerCertificates {
		if !bytes.Equal(cert.RawIssuer, list.RawIssuer) {
			continue
		}
		for _, entry := range list.RevokedCertificateEntries {
			if entry.SerialNumber.Cmp(cert.SerialNumber) == 0 {
				return fault.Newf(fault.Permission, "TLS", "the certificate with serial number %x is revoked", cert.SerialNumber)
			}
		}
	}
	return nil
}
