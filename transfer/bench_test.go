package transfer

import (
	"errors"
	"io"
	"net"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"

	chainfirev1 "github.com/chainfire/cfseed/proto/chainfire/v1"
)

// BenchmarkStream moves a seed over loopback: as bare TCP, with the raw codec on
// both sides, and with gRPC's own.
func BenchmarkStream(b *testing.B) {
	const size = 64 << 20
	seed := seedSpec{chunkSize: 1 << 20, sizes: []int{size}}.build(b)
	b.Run("tcp", func(b *testing.B) {
		b.SetBytes(size)
		for b.Loop() {
			if err := copyTCP(seed.files[0]); err != nil {
				b.Fatal(err)
			}
		}
	})
	src := startSource(b, nil, []*memSeed{seed})
	plain, _ := serve(b, nil, new(wire), func(g *grpc.Server) { chainfirev1.RegisterSeedServer(g, src.server) },
		grpc.MaxRecvMsgSize(MaxMessage), grpc.WriteBufferSize(connBuffer), grpc.ReadBufferSize(connBuffer))
	for _, tc := range []struct {
		name, addr string
		raw        bool
	}{{"raw", src.addr, true}, {"proto", plain, false}} {
		b.Run(tc.name, func(b *testing.B) {
			conn, err := dialTCP(b.Context(), tc.addr, dialOptions(time.Minute)...)
			if err != nil {
				b.Fatal(err)
			}
			defer func() { _ = conn.Close() }()
			c := chainfirev1.NewSeedClient(conn)
			open, err := c.OpenSeed(b.Context(), &chainfirev1.OpenSeedRequest{})
			if err != nil {
				b.Fatal(err)
			}
			req := &chainfirev1.GetSnapshotRequest{LeaseId: open.GetMeta().GetLeaseId(), ManifestRoot: open.GetMeta().GetManifestRoot(),
				Compression: "none", Ranges: []*chainfirev1.FileRange{{File: 0}}}
			opts := []grpc.CallOption{grpc.MaxCallRecvMsgSize(MaxMessage)}
			if tc.raw {
				opts = callOptions(NewCodec())
			}
			b.SetBytes(size)
			b.ReportAllocs()
			for b.Loop() {
				if err := drainStream(b, c, req, opts, tc.raw); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func drainStream(b *testing.B, c chainfirev1.SeedClient, req *chainfirev1.GetSnapshotRequest, opts []grpc.CallOption, raw bool) error {
	stream, err := c.GetSnapshot(b.Context(), proto.CloneOf(req), opts...)
	if err != nil {
		return err
	}
	for {
		f := newInFrame()
		if raw {
			err = stream.RecvMsg(f)
		} else {
			err = stream.RecvMsg(f.GetSnapshotResponse)
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		f.free()
	}
}

// copyTCP sends data over a loopback connection and reads it.
func copyTCP(data []byte) error {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	defer func() { _ = l.Close() }()
	sent := make(chan error, 1)
	go func() {
		conn, err := l.Accept()
		if err == nil {
			_, err = conn.Write(data)
			err = errors.Join(err, conn.Close())
		}
		sent <- err
	}()
	conn, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }()
	buf := make([]byte, 1<<20)
	for err == nil {
		_, err = conn.Read(buf)
	}
	if !errors.Is(err, io.EOF) {
		return err
	}
	return <-sent
}
