package node

import (
	"fmt"
	"slices"
	"testing"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// TestWatchAcrossARaftSnapshot: watches of a follower whose state is replaced
// (S8) see what the entries it never applied have written, each once and in
// order; those whose next revision is compacted end.
func TestWatchAcrossARaftSnapshot(t *testing.T) {
	for _, compact := range []int64{0, 20} {
		t.Run(fmt.Sprintf("compacted at %d", compact), func(t *testing.T) {
			rest, away, c := behind(t) // before=1 at revision 2, big0 to big39 after it
			if compact > 0 {
				if _, err := c.Compact(within(t), compact, clientv3.WithCompactPhysical()); err != nil {
					t.Fatal(err)
				}
			}
			away.open() // no snapshot comes before the watches are there
			stream := away.watches.Open()
			defer stream.Close()
			for i, start := range []int64{0, 30} {
				req := &pb.WatchCreateRequest{WatchId: int64(i + 1), Key: []byte("big"), RangeEnd: []byte("bih"), StartRevision: start}
				if err := stream.Request(within(t), &pb.WatchRequest{RequestUnion: &pb.WatchRequest_CreateRequest{CreateRequest: req}}); err != nil {
					t.Fatal(err)
				}
			}
			away.begin()
			got := map[int64][]int64{}
			ended := int64(0)
			for late := false; ; {
				resp, _, err := stream.Next(within(t))
				if err != nil {
					t.Fatalf("%v after %v", err, got)
				}
				if resp.Created && resp.GetHeader().GetRevision() > 2 {
					t.Fatalf("this test shows nothing: %v", resp)
				}
				ended += resp.CompactRevision
				for _, ev := range resp.Events {
					got[resp.WatchId] = append(got[resp.WatchId], ev.Kv.ModRevision)
					late = late || ev.Kv.ModRevision == 42
				}
				if late && (ended > 0 || len(got[1]) == 40 && len(got[2]) == 13) {
					break
				}
			}
			var all []int64
			for rev := int64(3); rev <= 42; rev++ {
				all = append(all, rev)
			}
			if ended != compact || compact > 0 && len(got[1]) > 0 || compact == 0 && !slices.Equal(got[1], all) || !slices.Equal(got[2], all[27:]) {
				t.Errorf("ended as compacted at %d, got %v", ended, got)
			}
			away.caughtUp(rest[0], c)
		})
	}
}
