package ports

import (
	"net"
	"net/url"
	"strconv"
	"testing"
)

// TestFree: ports are each another one, free, and not of those that the system
// gives by itself; one that is taken is not given.
func TestFree(t *testing.T) {
	taken := map[int]bool{}
	for range 20 {
		urls, err := Free(10)
		if err != nil || len(urls) != 10 {
			t.Fatal(urls, err)
		}
		for _, raw := range urls {
			u, err := url.Parse(raw)
			if err != nil {
				t.Fatal(err)
			}
			port, err := strconv.Atoi(u.Port())
			if err != nil || port < first || port >= end || taken[port] || u.Hostname() != "127.0.0.1" || u.Scheme != "http" {
				t.Fatalf("%s, %v", raw, err)
			}
			taken[port] = true
			l, err := net.Listen("tcp", u.Host)
			if err != nil {
				t.Fatal(err)
			}
			defer l.Close() //nolint:errcheck // at the end of the test
		}
	}
	if urls, err := Free(tries + 1); err == nil {
		t.Errorf("%d ports in %d tries", len(urls), tries)
	}
}
