package netsec

import (
	"context"
	"net"
	"net/url"
	"strings"

	"google.golang.org/grpc"

	"github.com/chainfire/cfseed/internal/fault"
)

const maxURL = 2048

// URL is a listen or advertise address.
type URL struct {
	Scheme string // http, https, unix or unixs
	Addr   string // host:port, or the path of a socket
}

// String gives the URL in the form that ParseURL reads.
func (u URL) String() string { return u.Scheme + "://" + u.Addr }

// TLS reports whether the scheme asks for TLS.
func (u URL) TLS() bool { return u.Scheme == "https" || u.Scheme == "unixs" }

// Unix reports whether the address is a socket's path.
func (u URL) Unix() bool { return u.Scheme == "unix" || u.Scheme == "unixs" }

// Unspecified reports whether the address is every interface of a machine: 0.0.0.0,
// [::] or no host at all. One listens on it; nobody can be sent there.
func (u URL) Unspecified() bool {
	host, _, err := net.SplitHostPort(u.Addr)
	if u.Unix() || err != nil {
		return false
	}
	ip := net.ParseIP(host)
	return host == "" || ip != nil && ip.IsUnspecified()
}

// Network is the network name for package net.
func (u URL) Network() string {
	if u.Unix() {
		return "unix"
	}
	return "tcp"
}

// ParseURL reads one URL. Errors are of class fault.Usage.
func ParseURL(s string) (URL, error) {
	bad := func(format string, args ...any) (URL, error) {
		return URL{}, fault.Newf(fault.Usage, "parse URL", "%q "+format, append([]any{shorten(s)}, args...)...).
			WithHint("write it as http://HOST:PORT or https://HOST:PORT")
	}
	if len(s) > maxURL {
		return bad("is longer than %d bytes", maxURL)
	}
	scheme, rest, ok := strings.Cut(strings.TrimSpace(s), "://")
	if !ok {
		return bad("has no scheme")
	}
	u := URL{Scheme: scheme, Addr: rest}
	switch scheme {
	case "unix", "unixs":
		if rest == "" || strings.ContainsAny(rest, "?#\x00") {
			return bad("names no socket")
		}
		return u, nil
	case "http", "https":
	default:
		return bad("has scheme %q, not http, https, unix or unixs", scheme)
	}
	p, err := url.Parse(scheme + "://" + rest)
	if err != nil {
		return bad("is not a URL: %w", err)
	}
	if (p.Path != "" && p.Path != "/") || p.RawQuery != "" || p.Fragment != "" || p.User != nil {
		return bad("has more than a host and a port")
	}
	host, port, err := net.SplitHostPort(p.Host)
	if err != nil || port == "" {
		return bad("has no port")
	}
	if _, err := net.LookupPort("tcp", port); err != nil {
		return bad("has no valid port")
	}
	u.Addr = net.JoinHostPort(host, port)
	return u, nil
}

// ParseURLs reads a comma-separated list; empty gives an empty list.
func ParseURLs(list string) ([]URL, error) {
	var out []URL
	for _, s := range strings.Split(list, ",") {
		if strings.TrimSpace(s) == "" {
			continue
		}
		u, err := ParseURL(s)
		if err != nil {
			return nil, err
		}
		out = append(out, u)
	}
	return out, nil
}

// Strings gives the URLs as text.
func Strings(urls []URL) []string {
	out := make([]string, 0, len(urls))
	for _, u := range urls {
		out = append(out, u.String())
	}
	return out
}

// Listen opens the address. The URL returned is the one listened on: a port 0
// is replaced by the port that the system chose.
func (u URL) Listen(ctx context.Context) (net.Listener, URL, error) {
	l, err := (&net.ListenConfig{}).Listen(ctx, u.Network(), u.Addr)
	if err != nil {
		return nil, u, fault.New(fault.InUse, "listen on "+u.String(), err).
			WithHint("another process may have the address; choose a free one or port 0")
	}
	if tcp, ok := l.Addr().(*net.TCPAddr); ok {
		host, _, err := net.SplitHostPort(u.Addr)
		if err == nil {
			_, port, err := net.SplitHostPort(tcp.String())
			if err == nil {
				u.Addr = net.JoinHostPort(host, port)
			}
		}
	}
	return l, u, nil
}

// Target is what grpc.NewClient takes for the URL. Names are resolved at each
// connection, and no proxy stands between members.
func (u URL) Target() string {
	if u.Unix() {
		return "unix:" + u.Addr
	}
	return "passthrough:///" + u.Addr
}

// Dial makes a gRPC connection to one URL, with the client side of f where the
// scheme asks for TLS; it does not wait until the connection stands. A
// host:port without a scheme is taken as http, as etcdctl does, or as https
// when f says anything.
func Dial(rawURL string, f Files, opts ...grpc.DialOption) (*grpc.ClientConn, error) {
	u, err := parseEndpoint(rawURL, f)
	if err != nil {
		return nil, err
	}
	creds, err := f.ClientCredentials(u)
	if err != nil {
		return nil, err
	}
	opts = append([]grpc.DialOption{grpc.WithTransportCredentials(creds), grpc.WithNoProxy()}, opts...)
	conn, err := grpc.NewClient(u.Target(), opts...)
	if err != nil {
		return nil, fault.New(fault.Usage, "dial "+u.String(), err)
	}
	return conn, nil
}

// CheckEndpoint refuses, as Usage, what Dial could not even read.
func CheckEndpoint(rawURL string, f Files) error {
	_, err := parseEndpoint(rawURL, f)
	return err
}

func parseEndpoint(s string, f Files) (URL, error) {
	if !strings.Contains(s, "://") {
		scheme := "http://"
		if !f.Empty() {
			scheme = "https://"
		}
		s = scheme + s
	}
	return ParseURL(s)
}

func shorten(s string) string {
	if len(s) > 80 {
		return s[:80] + "..."
	}
	return s
}
