//go:build !linux

package transfer

import (
	"errors"
	"net"
)

// rawConn is not used: elsewhere chunks are read and then written.
type rawConn struct{}

func rawOf(net.Conn) *rawConn { return nil }

func (*rawConn) wakeAt(int) {}

func (*rawConn) sendFile([]byte, uintptr, int64, int) error { return errors.ErrUnsupported }
