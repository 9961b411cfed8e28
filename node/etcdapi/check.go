package etcdapi

import (
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/protobuf/proto"

	"github.com/chainfire/cfseed/internal/state/envelope"
)

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
