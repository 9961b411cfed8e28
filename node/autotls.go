package node

import (
	"slices"
	"time"

	"github.com/chainfire/cfseed/internal/fault"
	"github.com/chainfire/cfseed/internal/netsec"
)

// autoSide is a side whose certificate this node makes.
type autoSide struct {
	name  string // of the side, and of its directory
	flag  string
	files *netsec.Files
	urls  []string
}

// autoSides are the sides with automatic TLS. Those with files of their own are
// not: the files are used, as etcd does.
func (c *Config) autoSides() []autoSide {
	var out []autoSide
	if c.AutoTLS && !given(c.ClientTLS) {
		out = append(out, autoSide{"client", "--auto-tls", &c.ClientTLS, slices.Concat(c.ListenClient, c.ListenMetrics)})
	}
	if c.PeerAutoTLS && !given(c.PeerTLS) {
		out = append(out, autoSide{"peer", "--peer-auto-tls", &c.PeerTLS, c.ListenPeer})
	}
	return out
}

// given reports whether the operator's files say who this node is.
func given(f netsec.Files) bool { return f.Cert != "" || f.Key != "" }

// checkAutoTLS refuses what would let in more than was asked for: etcd drops
// what --peer-client-cert-auth asks, and nobody signs what members make.
func (c Config) checkAutoTLS() error {
	sides := c.autoSides()
	if len(sides) > 0 && (c.SelfSignedYears < 1 || c.SelfSignedYears > netsec.MaxSelfSignedYears) {
		return fault.Newf(fault.Usage, "node", "--self-signed-cert-validity %d: want 1 to %d", c.SelfSignedYears, netsec.MaxSelfSignedYears)
	}
	for _, s := range sides {
		if s.name == "peer" && (s.files.CA != "" || s.files.ClientCertAuth || s.files.CRL != "") {
			return fault.Newf(fault.Usage, "node", "--peer-auto-tls: nobody signs the certificates that members make, "+
				"so they can not be checked").
				WithHint("leave out --peer-trusted-ca-file, --peer-client-cert-auth and --peer-crl-file, or give --peer-cert-file and --peer-key-file")
		}
	}
	return nil
}

// autoTLS gives the sides with automatic TLS the certificates that an earlier
// start made, or new ones. The lock on the data directory is held.
func (n *node) autoTLS() error {
	for auto, f := range map[string]netsec.Files{"--auto-tls": n.cfg.ClientTLS, "--peer-auto-tls": n.cfg.PeerTLS} {
		if given(f) && (auto == "--auto-tls" && n.cfg.AutoTLS || auto == "--peer-auto-tls" && n.cfg.PeerAutoTLS) {
			n.logger.Warn("automatic TLS is left out: certificate files are given", "flag", auto)
		}
	}
	for _, s := range n.cfg.autoSides() {
		if s.name == "peer" {
			s.files.Unverified = true
			n.logger.Warn("members' certificates are not verified: whoever is in between can read and change what is said", "flag", s.flag)
		}
		if !slices.ContainsFunc(s.urls, func(s string) bool { u, err := netsec.ParseURL(s); return err == nil && u.TLS() }) {
			continue
		}
		if err := n.ownCertificate(s, time.Now()); err != nil {
			return err
		}
	}
	return n.cfg.checkListens()
}

// ownCertificate names the files of a side's certificate; it is made when there
// is none. One that has expired is used on, as etcd does: who verifies it sees.
func (n *node) ownCertificate(s autoSide, now time.Time) error {
	cert, key, there, err := n.dir.Certificate(s.name)
	if err != nil {
		return err
	}
	if !there {
		hosts, err := netsec.Hosts(s.urls)
		if err != nil {
			return err
		}
		certPEM, keyPEM, err := netsec.SelfSigned(hosts, now, n.cfg.SelfSignedYears)
		if err != nil {
			return err
		}
		if err := n.dir.WriteCertificate(s.name, certPEM, keyPEM); err != nil {
			return err
		}
	}
	s.files.Cert, s.files.Key = cert, key
	expires, err := s.files.Expires()
	if err != nil {
		return err
	}
	switch {
	case !there:
		n.logger.Warn("certificate made, which nobody but this node signed", "file", cert, "expires", expires)
	case now.After(expires):
		n.logger.Warn("certificate has expired: remove it and start again to have a new one", "file", cert, "expired", expires)
	}
	return nil
}
