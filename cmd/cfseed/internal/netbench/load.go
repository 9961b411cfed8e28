package netbench

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"github.com/chainfire/cfseed/internal/fault"
	"github.com/chainfire/cfseed/internal/netsec"
)

const (
	valueBytes = 64 << 10 // of one value
	batchPuts  = 8        // of one transaction
)

// load puts values that do not compress, those numbered from to to, into the
// member at client.
func load(ctx context.Context, client string, from, to int) error {
	conn, err := netsec.Dial(client, netsec.Files{})
	if err != nil {
		return err
	}
	defer conn.Close() //nolint:errcheck // every transaction was answered
	kv := pb.NewKVClient(conn)
	for from < to {
		req := new(pb.TxnRequest)
		for range min(batchPuts, to-from) {
			req.Success = append(req.Success, &pb.RequestOp{Request: &pb.RequestOp_RequestPut{
				RequestPut: &pb.PutRequest{Key: fmt.Appendf(nil, "net/%09d", from), Value: value(from)}}})
			from++
		}
		if _, err := kv.Txn(ctx, req); err != nil {
			return fault.New(fault.Internal, "load", err)
		}
	}
	return nil
}

func value(number int) []byte {
	var seed [32]byte
	copy(seed[:], fmt.Sprintf("net %d", number))
	out := make([]byte, valueBytes)
	_, _ = rand.NewChaCha8(seed).Read(out) // never fails
	return out
}

// freeAddress finds a port of the loopback that nobody listens on.
func freeAddress() (string, error) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", fault.New(fault.Internal, "find a free port", err)
	}
	return ln.Addr().String(), ln.Close()
}
