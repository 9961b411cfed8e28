package demo

import (
	"context"
	"errors"
	"slices"
	"sync"

	"github.com/zeebo/xxh3"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"

	"github.com/chainfire/cfseed/internal/fault"
	"github.com/chainfire/cfseed/internal/fault/rpcfault"
	"github.com/chainfire/cfseed/internal/netsec"
)

// readBack reads the whole store from every member and holds it against the
// ledger.
func (r *run) readBack(ctx context.Context) error {
	r.cfg.Progress.Phase("read back")
	var bad error
	for _, p := range r.cluster.Nodes() {
		lost, err := r.lostAt(ctx, p.Name, p.Client())
		if err != nil {
			return err
		}
		r.rep.KeysChecked += len(r.acked.keys)
		for _, key := range lost {
			r.rep.KeysLost = append(r.rep.KeysLost, p.Name+": "+key)
		}
		if len(lost) > 0 {
			bad = errors.Join(bad, fault.Newf(fault.Different, "demo", "%s lacks %d of %d acknowledged keys, the first %q",
				p.Name, len(lost), len(r.acked.keys), lost[0]))
		}
	}
	if bad == nil {
		r.cfg.Say("all %d acknowledged keys are on each of %d members", len(r.acked.keys), len(r.cluster.Nodes()))
	}
	return bad
}

// readers is how many reads of one member are under way at a time.
const readers = 16

// lostAt lists acknowledged keys that one member does not have, or has with
// another value. A linearizable read comes first; all others are served by that
// member alone, from what it has applied.
func (r *run) lostAt(ctx context.Context, name, addr string) ([]string, error) {
	conn, err := netsec.Dial(addr, netsec.Files{})
	if err != nil {
		return nil, err
	}
	defer conn.Close() //nolint:errcheck // only read
	kv := pb.NewKVClient(conn)
	read := func(ctx context.Context, req *pb.RangeRequest) (*pb.RangeResponse, error) {
		ctx, cancel := context.WithTimeout(ctx, r.cfg.Patience)
		defer cancel()
		res, err := kv.Range(ctx, req, grpc.WaitForReady(true))
		return res, rpcfault.FromStatus("read back from "+name, err)
	}
	if _, err := read(ctx, &pb.RangeRequest{Key: []byte{0}, Limit: 1}); err != nil {
		return nil, err
	}
	keys := make(chan string)
	var mu sync.Mutex
	lost := []string{}
	g, gctx := errgroup.WithContext(ctx)
	g.Go(func() error {
		defer close(keys)
		for k := range r.acked.keys {
			select {
			case keys <- k:
			case <-gctx.Done():
				return gctx.Err()
			}
		}
		return nil
	})
	for range readers {
		g.Go(func() error {
			for key := range keys {
				res, err := read(gctx, &pb.RangeRequest{Key: []byte(key), Serializable: true})
				if err != nil {
					return err
				}
				if len(res.GetKvs()) == 1 && xxh3.Hash(res.GetKvs()[0].GetValue()) == r.acked.keys[key] {
					continue
				}
				mu.Lock()
				lost = append(lost, key)
				mu.Unlock()
			}
			return nil
		})
	}
	err = g.Wait()
	slices.Sort(lost)
	return lost, err
}

// loseOne deletes an acknowledged key and does not tell the ledger.
func (r *run) loseOne(ctx context.Context) error {
	var key string
	for k := range r.acked.keys {
		if key == "" || k < key {
			key = k
		}
	}
	conn, err := netsec.Dial(r.cluster.Clients()[0], netsec.Files{})
	if err != nil {
		return err
	}
	defer conn.Close() //nolint:errcheck // the one call was answered
	ctx, cancel := context.WithTimeout(ctx, r.cfg.Patience)
	defer cancel()
	_, err = pb.NewKVClient(conn).DeleteRange(ctx, &pb.DeleteRangeRequest{Key: []byte(key)})
	return rpcfault.FromStatus("demo", err)
}
