package netsec

import (
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// deadAfter is how long what was sent may stay unacknowledged (RFC 5482).
const deadAfter = 30 * time.Second

// soonDead makes the system give a connection up whose other side acknowledges
// nothing; keep-alives alone say nothing while something is on its way.
func soonDead(_, _ string, c syscall.RawConn) (err error) {
	cerr := c.Control(func(fd uintptr) {
		err = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, int(deadAfter.Milliseconds()))
	})
	if cerr != nil {
		return cerr
	}
	if err == unix.EOPNOTSUPP || err == unix.ENOPROTOOPT { // a socket of files
		return nil
	}
	return err
}
