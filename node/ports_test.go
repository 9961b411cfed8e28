package node

import (
	"fmt"
	"net"
	"os"
	"runtime"
	"testing"
)

// ownHost is an address of the loopback network that this process has to itself,
// where the system has such: nobody else takes a port of it that is free for now.
func ownHost() string {
	if runtime.GOOS != "linux" {
		return "127.0.0.1"
	}
	pid := os.Getpid()
	return fmt.Sprintf("127.%d.%d.%d", 1+pid>>16&0x7f, pid>>8&0xff, pid&0xff)
}

// freeAddrs are addresses that nobody listens on.
func freeAddrs(t *testing.T, n int) (addrs []string) {
	t.Helper()
	for range n {
		l, err := net.Listen("tcp", net.JoinHostPort(ownHost(), "0"))
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close() //nolint:errcheck // a port that stays taken is seen at once
		addrs = append(addrs, l.Addr().String())
	}
	return addrs
}
