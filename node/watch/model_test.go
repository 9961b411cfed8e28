package watch

import (
	"testing"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
)

// TestModelNotices: what TestWatchesAgainstModel relies on says so when a watch
// goes wrong.
func TestModelNotices(t *testing.T) {
	put := func(key, value string, rev int64) *mvccpb.Event {
		return &mvccpb.Event{Kv: &mvccpb.KeyValue{Key: []byte(key), Value: []byte(value), CreateRevision: rev, ModRevision: rev, Version: 1}}
	}
	a, b, c := put("a", "1", 2), put("b", "2", 2), put("c", "3", 3)
	other := put("a", "other", 2)
	prev := put("c", "3", 3)
	prev.PrevKv = a.Kv
	response := func(rev int64, evs ...*mvccpb.Event) *pb.WatchResponse {
		return &pb.WatchResponse{WatchId: 1, Header: &pb.ResponseHeader{Revision: rev}, Events: evs}
	}
	created := &pb.WatchResponse{WatchId: 1, Created: true}
	progress := func(rev int64) *pb.WatchResponse {
		return &pb.WatchResponse{WatchId: everyWatch, Header: &pb.ResponseHeader{Revision: rev}}
	}
	ended := func(at int64) *pb.WatchResponse {
		return &pb.WatchResponse{WatchId: 1, Canceled: true, CompactRevision: at}
	}
	for _, tc := range []struct {
		name  string
		heard []*pb.WatchResponse
		wrong bool // the last one is
	}{
		{"each revision", []*pb.WatchResponse{created, response(2, a, b), response(3, c)}, false},
		{"together", []*pb.WatchResponse{created, response(3, a, b, c), progress(3)}, false},
		{"ended as compacted", []*pb.WatchResponse{created, response(2, a, b), ended(4)}, false},
		{"not created", []*pb.WatchResponse{response(2, a, b)}, true},
		{"created twice", []*pb.WatchResponse{created, created}, true},
		{"of no watch", []*pb.WatchResponse{{WatchId: 2, Header: &pb.ResponseHeader{}}}, true},
		{"again", []*pb.WatchResponse{created, response(2, a, b), response(3, b, c)}, true},
		{"one missing", []*pb.WatchResponse{created, response(3, a, c)}, true},
		{"out of order", []*pb.WatchResponse{created, response(3, a, c, b)}, true},
		{"split", []*pb.WatchResponse{created, response(2, a)}, true},
		{"another value", []*pb.WatchResponse{created, response(2, other, b)}, true},
		{"a previous value that is wrong", []*pb.WatchResponse{created, response(3, a, b, prev)}, true},
		{"one too many", []*pb.WatchResponse{created, response(3, a, b, c), response(4, put("a", "x", 4))}, true},
		{"a header that is behind", []*pb.WatchResponse{created, response(2, a, b, c)}, true},
		{"a header that is ahead", []*pb.WatchResponse{created, response(3, a, b)}, true},
		{"a header that goes back", []*pb.WatchResponse{created, response(3, a, b, c), response(2)}, true},
		{"progress too early", []*pb.WatchResponse{created, response(2, a, b), progress(3)}, true},
		{"ended and not compacted", []*pb.WatchResponse{created, response(2, a, b), ended(3)}, true},
		{"ended before it got what it had", []*pb.WatchResponse{created, ended(4)}, true},
		{"after its end", []*pb.WatchResponse{created, response(2, a, b), ended(4), response(3, c)}, true},
	} {
		t.Run(tc.name, func(t *testing.T) {
			w := &world{events: []*mvccpb.Event{a, b, c}, compacted: map[int64]bool{4: true}}
			mw := &modelWatch{req: &pb.WatchCreateRequest{Key: []byte("a"), RangeEnd: []byte("z"), PrevKv: true}, start: 2,
				w: &watcher{next: 3}, behind: true}
			s := &modelStream{watches: map[int64]*modelWatch{1: mw}, asked: []int64{1, 1}}
			for i, resp := range tc.heard {
				err := w.hear(s, resp)
				if last := i == len(tc.heard)-1; (err != nil) != (tc.wrong && last) {
					t.Errorf("response %d, %v: %v", i, resp, err)
				}
			}
		})
	}
}
