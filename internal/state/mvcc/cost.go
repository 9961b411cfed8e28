package mvcc

import pb "go.etcd.io/etcd/api/v3/etcdserverpb"

// putOverhead is what a put is reckoned to take beside key and value, in bytes:
// etcd's figure (server/storage, quota).
const putOverhead = 256

// PutCost estimates how much a put adds to a store, in bytes.
func PutCost(r *pb.PutRequest) int { return putOverhead + len(r.GetKey()) + len(r.GetValue()) }

// TxnCost estimates how much a transaction adds to a store, in bytes: the
// dearer of its branches. It is 0 when the transaction can not put.
func TxnCost(r *pb.TxnRequest) int {
	branch := func(ops []*pb.RequestOp) (cost int) {
		for _, op := range ops {
			if p := op.GetRequestPut(); p != nil {
				cost += PutCost(p)
			} else if t := op.GetRequestTxn(); t != nil {
				cost += TxnCost(t)
			}
		}
		return cost
	}
	return max(branch(r.GetSuccess()), branch(r.GetFailure()))
}
