package etcdapi

import (
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/chainfire/cfseed/internal/state/envelope"
)

// checkStreamed refuses what etcd does not answer in pieces, with its words.
func checkStreamed(r *pb.RangeRequest) error {
	order, target := r.GetSortOrder(), r.GetSortTarget()
	switch {
	case order == pb.RangeRequest_DESCEND, order == pb.RangeRequest_ASCEND && target != pb.RangeRequest_KEY:
		return status.Error(codes.Unimplemented, "RangeStream does not support custom sort orders")
	case r.GetMinModRevision() != 0, r.GetMaxModRevision() != 0, r.GetMinCreateRevision() != 0, r.GetMaxCreateRevision() != 0:
		return status.Error(codes.Unimplemented, "RangeStream does not support revision filters")
	}
	return nil
}

// checkSize holds a proposal against the limit on requests.
func checkSize(body proto.Message, limit int) error {
	if envelope.HeaderSize+proto.Size(body) > limit {
		return rpctypes.ErrGRPCRequestTooLarge
	}
	return nil
}

// serializable reports whether every range of a read-only transaction allows a
// local read; without a range nothing says so.
func serializable(r *pb.TxnRequest) bool {
	ranges, all := readKinds(r)
	return ranges > 0 && all
}

// readKinds counts a transaction's ranges, nested ones too, and says whether
// all of them are serializable.
func readKinds(r *pb.TxnRequest) (ranges int, all bool) {
	all = true
	for _, branch := range [][]*pb.RequestOp{r.GetSuccess(), r.GetFailure()} {
		for _, op := range branch {
			n, ok := 1, op.GetRequestRange().GetSerializable()
			if t := op.GetRequestTxn(); t != nil {
				n, ok = readKinds(t)
			}
			ranges, all = ranges+n, all && ok
		}
	}
	return ranges, all
}
