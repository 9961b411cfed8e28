package transfer

import (
	"crypto/tls"
	"errors"
	"io"
	"net"
	"syscall"

	"golang.org/x/sys/unix"
)

// rawConn is the socket under a connection, which the system can fill from a
// file without copying the bytes to this process.
type rawConn struct {
	raw      syscall.RawConn
	counters []*byteCounter
}

// rawOf gives the socket that carries what is written to conn as it is; nil
// where there is none, as under TLS.
func rawOf(conn net.Conn) *rawConn {
	r := &rawConn{}
	for {
		switch c := conn.(type) {
		case *net.TCPConn:
			var err error
			if r.raw, err = c.SyscallConn(); err != nil {
				return nil
			}
			return r
		case *tls.Conn:
			return nil
		case *countedConn:
			r.counters = append(r.counters, c.counter)
			conn = c.Conn
		case interface{ NetConn() net.Conn }:
			conn = c.NetConn()
		default:
			return nil
		}
	}
}

// sendFile writes head and then n bytes of a file from offset on.
func (r *rawConn) sendFile(head []byte, fd uintptr, offset int64, n int) error {
	left, end := head, offset+int64(n)
	var failed error
	err := r.raw.Write(func(socket uintptr) (done bool) {
		for {
			var k int
			switch {
			case len(left) > 0:
				k, failed = unix.SendmsgN(int(socket), left, nil, nil, unix.MSG_MORE|unix.MSG_NOSIGNAL)
				if k > 0 {
					left = left[k:]
				}
			case offset < end:
				k, failed = unix.Sendfile(int(socket), int(fd), &offset, int(end-offset))
				switch {
				case k == 0 && failed == nil:
					failed = &fileError{io.ErrUnexpectedEOF}
				case errors.Is(failed, unix.EIO):
					failed = &fileError{failed}
				}
			default:
				return true
			}
			switch {
			case errors.Is(failed, unix.EAGAIN):
				failed = nil
				return false
			case errors.Is(failed, unix.EINTR):
				failed = nil
			case failed != nil:
				return true
			}
			r.count(k)
		}
	})
	return errors.Join(err, failed)
}

// wakeAt sets SO_RCVLOWAT.
func (r *rawConn) wakeAt(n int) {
	_ = r.raw.Control(func(socket uintptr) { _ = unix.SetsockoptInt(int(socket), unix.SOL_SOCKET, unix.SO_RCVLOWAT, n) })
}

func (r *rawConn) count(n int) {
	for _, c := range r.counters {
		c.n.Add(uint64(max(n, 0)))
	}
}
