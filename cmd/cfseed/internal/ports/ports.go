// Package ports finds ports of this machine for processes that are started,
// ended and started again on the addresses they had.
package ports

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"syscall"

	"github.com/chainfire/cfseed/internal/fault"
)

// The ports given are from first on and below end: below those that a system
// gives by itself (Linux: from 32768). Of those, one that a process has left may
// be taken before it is back, even by who dials it: a connection from the port
// to itself.
const (
	first = 10_000
	end   = 32_768
)

// tries is how many ports may be taken before there are none.
const tries = 200

// Free gives n URLs of the loopback at which nobody listens.
func Free(n int) (urls []string, err error) {
	const op = "find a port"
	var open []net.Listener // until all are found: each is another one
	defer func() {
		for _, l := range open {
			err = errors.Join(err, l.Close())
		}
	}()
	for range tries {
		if len(urls) == n {
			return urls, nil
		}
		l, err := net.ListenTCP("tcp", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: first + rand.IntN(end-first)})
		switch {
		case err == nil:
			open, urls = append(open, l), append(urls, fmt.Sprintf("http://%s", l.Addr()))
		case !errors.Is(err, syscall.EADDRINUSE):
			return nil, fault.New(fault.Internal, op, err)
		}
	}
	return nil, fault.Newf(fault.Internal, op, "%d of %d found in %d tries", len(urls), n, tries)
}
