package netsec

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"time"
)

// Apart gives the connections that speak a protocol of their own, TLS done: by
// ALPN, or without TLS by the protocol's name and a newline, which come first.
// Names differ in their first four bytes, from each other and from a method of
// HTTP. It is called before the address is served.
func (s *Split) Apart(protocol string) net.Listener {
	l := apart{Split: s, conns: make(chan net.Conn)}
	s.apart[protocol] = l.conns
	if s.conf != nil {
		s.conf.NextProtos = append(s.conf.NextProtos, protocol)
	}
	return l
}

// WithoutHTTP is for an address that has no HTTP/1.1: it is refused.
func (s *Split) WithoutHTTP() {
	s.away = nil
	if s.conf != nil {
		s.conf.NextProtos = slices.DeleteFunc(s.conf.NextProtos, func(p string) bool { return p == "http/1.1" })
	}
}

// apart is the listener of one protocol.
type apart struct {
	*Split
	conns chan net.Conn
}

// Accept gives the next connection of the protocol.
func (l apart) Accept() (net.Conn, error) { return l.accept(l.conns) }

// Close does nothing: the address is closed as a whole.
func (apart) Close() error { return nil }

var errProtocol = errors.New("the connection is of no protocol that is served here")

// told says which server a plain connection is for that has not begun as gRPC
// does; where a protocol of its own has begun it reads the rest of its name.
func (s *Split) told(g *guest) (chan net.Conn, error) {
	for protocol, to := range s.apart {
		name := protocol + "\n"
		if string(g.head) != name[:len(preface)] {
			continue
		}
		rest := make([]byte, len(name)-len(preface))
		if _, err := io.ReadFull(g.Conn, rest); err != nil {
			return nil, err
		}
		if string(rest) != name[len(preface):] {
			return nil, errProtocol
		}
		g.head = nil
		return to, nil
	}
	return s.away, nil
}

// DialApart connects to a URL for a protocol of its own: see Split.Apart. wrap is
// put around the socket, below TLS. A peer that does not answer is noticed by the
// system within half a minute.
func DialApart(ctx context.Context, rawURL string, f Files, protocol string, wrap func(net.Conn) net.Conn) (net.Conn, error) {
	u, err := parseEndpoint(rawURL, f)
	if err != nil {
		return nil, err
	}
	d := net.Dialer{KeepAliveConfig: net.KeepAliveConfig{Enable: true, Idle: 10 * time.Second, Interval: 5 * time.Second, Count: 4}, Control: soonDead}
	conn, err := d.DialContext(ctx, u.Network(), u.Addr)
	if err != nil {
		return nil, err
	}
	conn = wrap(conn)
	if !u.TLS() {
		_, err = conn.Write([]byte(protocol + "\n"))
	} else {
		conn, err = f.secureApart(ctx, conn, u, protocol)
	}
	if err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	return conn, nil
}

func (f Files) secureApart(ctx context.Context, conn net.Conn, u URL, protocol string) (net.Conn, error) {
	conf, err := f.Client()
	if err != nil {
		return conn, err
	}
	conf.NextProtos = []string{protocol}
	if conf.ServerName == "" {
		if conf.ServerName, _, err = net.SplitHostPort(u.Addr); err != nil {
			conf.ServerName = u.Addr // a socket's path
		}
	}
	secure := tls.Client(conn, conf)
	if err := secure.HandshakeContext(ctx); err != nil {
		return secure, err
	}
	if got := secure.ConnectionState().NegotiatedProtocol; got != protocol {
		return secure, fmt.Errorf("the server speaks %q, not %q", got, protocol)
	}
	return secure, nil
}
