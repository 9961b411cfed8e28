package etcdapi

import (
	"context"
	"fmt"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"

	"github.com/chainfire/cfseed/internal/fault"
	"github.com/chainfire/cfseed/internal/state/auth"
	"github.com/chainfire/cfseed/internal/state/envelope"
	"github.com/chainfire/cfseed/internal/state/mvcc"
)

// rangeChunkBytes is about how much of a range one streamed answer holds.
const rangeChunkBytes = 512 << 10

type kvServer struct {
	pb.UnimplementedKVServer
	s *Server
}

func (k kvServer) Range(ctx context.Context, r *pb.RangeRequest) (*pb.RangeResponse, error) {
	if err := mvcc.CheckRange(r); err != nil {
		return nil, err
	}
	if !r.GetSerializable() {
		if err := k.s.backend.ReadIndex(ctx); err != nil {
			return nil, k.s.fail(err)
		}
	}
	var resp *pb.RangeResponse
	err := k.s.reading(ctx, func(rules *auth.Rules, c envelope.Client) error { return rules.CheckRange(c, r) }, func() (err error) {
		resp, err = k.s.backend.Range(ctx, r)
		return err
	})
	if err != nil {
		return nil, k.s.fail(err)
	}
	resp.Header = k.s.header(resp.GetHeader())
	return resp, nil
}

// RangeStream answers a range in pieces: keys in each, header, count and more
// in the last.
func (k kvServer) RangeStream(r *pb.RangeRequest, out grpc.ServerStreamingServer[pb.RangeStreamResponse]) error {
	if err := mvcc.CheckRange(r); err != nil {
		return err
	}
	if err := checkStreamed(r); err != nil {
		return err
	}
	resp, err := k.Range(out.Context(), r)
	if err != nil {
		return err
	}
	kvs := resp.GetKvs()
	for len(kvs) > 0 {
		n, size := 0, 0
		for n < len(kvs) && (n == 0 || size < rangeChunkBytes) {
			size += proto.Size(kvs[n])
			n++
		}
		if n == len(kvs) {
			break
		}
		if err := out.Send(&pb.RangeStreamResponse{RangeResponse: &pb.RangeResponse{Kvs: kvs[:n]}}); err != nil {
			return err
		}
		kvs = kvs[n:]
	}
	resp.Kvs = kvs
	return out.Send(&pb.RangeStreamResponse{RangeResponse: resp})
}

func (k kvServer) Put(ctx context.Context, r *pb.PutRequest) (*pb.PutResponse, error) {
	if err := k.s.room(ctx, mvcc.PutCost(r)); err != nil {
		return nil, err
	}
	if err := mvcc.CheckPut(r); err != nil {
		return nil, err
	}
	resp, err := propose[*pb.PutResponse](ctx, k.s, envelope.Put, r)
	if err != nil {
		return nil, err
	}
	resp.Header = k.s.header(resp.GetHeader())
	return resp, nil
}

func (k kvServer) DeleteRange(ctx context.Context, r *pb.DeleteRangeRequest) (*pb.DeleteRangeResponse, error) {
	if err := mvcc.CheckDeleteRange(r); err != nil {
		return nil, err
	}
	resp, err := propose[*pb.DeleteRangeResponse](ctx, k.s, envelope.DeleteRange, r)
	if err != nil {
		return nil, err
	}
	resp.Header = k.s.header(resp.GetHeader())
	return resp, nil
}

func (k kvServer) Txn(ctx context.Context, r *pb.TxnRequest) (*pb.TxnResponse, error) {
	if err := k.s.room(ctx, mvcc.TxnCost(r)); err != nil {
		return nil, err
	}
	if err := mvcc.CheckTxn(r, k.s.opts.MaxTxnOps); err != nil {
		return nil, err
	}
	if !mvcc.IsReadOnly(r) {
		resp, err := propose[*pb.TxnResponse](ctx, k.s, envelope.Txn, r)
		if err != nil {
			return nil, err
		}
		resp.Header = k.s.header(resp.GetHeader())
		return resp, nil
	}
	if !serializable(r) {
		if err := k.s.backend.ReadIndex(ctx); err != nil {
			return nil, k.s.fail(err)
		}
	}
	var resp *pb.TxnResponse
	err := k.s.reading(ctx, func(rules *auth.Rules, c envelope.Client) error { return rules.CheckTxn(c, r, nil) }, func() (err error) {
		resp, err = k.s.backend.TxnRead(ctx, r)
		return err
	})
	if err != nil {
		return nil, k.s.fail(err)
	}
	resp.Header = k.s.header(resp.GetHeader())
	return resp, nil
}

func (k kvServer) Compact(ctx context.Context, r *pb.CompactionRequest) (*pb.CompactionResponse, error) {
	resp, err := propose[*pb.CompactionResponse](ctx, k.s, envelope.Compact, r)
	if err != nil {
		return nil, err
	}
	if p, ok := k.s.backend.(Purger); ok && r.GetPhysical() {
		if err := p.WaitPurged(ctx, r.GetRevision()); err != nil {
			return nil, k.s.fail(err)
		}
	}
	resp.Header = k.s.header(resp.GetHeader())
	return resp, nil
}

// propose replicates the request of whom ctx tells and gives the answer of its
// apply.
func propose[R proto.Message](ctx context.Context, s *Server, kind envelope.Kind, body proto.Message) (R, error) {
	var none R
	if err := checkSize(body, s.opts.MaxRequestBytes); err != nil {
		return none, err
	}
	c, err := s.Client(ctx)
	if err != nil {
		return none, err
	}
	of := &c
	if c == (envelope.Client{}) && kind != envelope.LeaseRevoke {
		of = nil // nobody's, as every plain entry is but that one
	}
	res, err := s.backend.Propose(ctx, of, kind, body)
	if err == nil {
		err = res.Err
	}
	if err != nil {
		return none, s.fail(err)
	}
	resp, ok := res.Response.(R)
	if !ok {
		return none, s.fail(fault.New(fault.Internal, "apply "+kind.String(), fmt.Errorf("answered with a %T", res.Response)))
	}
	return resp, nil
}
