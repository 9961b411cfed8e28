package etcdapi_test

import (
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/chainfire/cfseed/node/etcdapi"
)

// The pieces of a streamed range merge into the answer of Range.
func TestRangeStream(t *testing.T) {
	s := serve(t, etcdapi.Options{}, nil)
	for i := range 9 {
		if _, err := s.cli.Put(ctx(t), fmt.Sprint("k", i), strings.Repeat("v", 200<<10)); err != nil {
			t.Fatal(err)
		}
	}
	kv := pb.NewKVClient(s.conn)
	for _, req := range []*pb.RangeRequest{
		{Key: []byte("k"), RangeEnd: []byte("l")},
		{Key: []byte("k"), RangeEnd: []byte("l"), Limit: 7},
		{Key: []byte("k"), RangeEnd: []byte("l"), CountOnly: true},
		{Key: []byte("absent")},
	} {
		want, err := s.m.Range(ctx(t), req)
		if err != nil {
			t.Fatal(err)
		}
		want.Header = s.Header()
		got, pieces := streamed(t, kv, req)
		if !proto.Equal(got, want) {
			t.Errorf("%v: the pieces differ from the range", req)
		}
		if len(want.GetKvs()) > 5 && pieces < 2 {
			t.Errorf("%d keys came in %d pieces", len(want.GetKvs()), pieces)
		}
	}
	// A target without an order: etcd sorts each piece and may lose keys between
	// them, here the whole is sorted.
	unordered := &pb.RangeRequest{Key: []byte("k"), RangeEnd: []byte("l"), SortTarget: pb.RangeRequest_VALUE}
	if got, _ := streamed(t, kv, unordered); len(got.GetKvs()) != 9 || got.GetCount() != 9 {
		t.Errorf("a target without an order: %d keys of 9", len(got.GetKvs()))
	}
}

// A streamed range is refused with etcd's words where etcd does not have one.
func TestRangeStreamRefuses(t *testing.T) {
	kv := pb.NewKVClient(serve(t, etcdapi.Options{}, nil).conn)
	const orders, filters = "RangeStream does not support custom sort orders", "RangeStream does not support revision filters"
	for _, refused := range []struct {
		req  *pb.RangeRequest
		code codes.Code
		text string
	}{
		{&pb.RangeRequest{}, codes.InvalidArgument, "etcdserver: key is not provided"},
		{&pb.RangeRequest{SortOrder: pb.RangeRequest_DESCEND}, codes.InvalidArgument, "etcdserver: key is not provided"},
		{&pb.RangeRequest{Key: []byte("k"), SortOrder: 7}, codes.InvalidArgument, "etcdserver: invalid sort option"},
		{&pb.RangeRequest{Key: []byte("k"), SortOrder: pb.RangeRequest_DESCEND, MinModRevision: 1}, codes.Unimplemented, orders},
		{&pb.RangeRequest{Key: []byte("k"), SortOrder: pb.RangeRequest_ASCEND, SortTarget: pb.RangeRequest_MOD}, codes.Unimplemented, orders},
		{&pb.RangeRequest{Key: []byte("k"), MinModRevision: 1}, codes.Unimplemented, filters},
		{&pb.RangeRequest{Key: []byte("k"), MaxModRevision: 1}, codes.Unimplemented, filters},
		{&pb.RangeRequest{Key: []byte("k"), MinCreateRevision: 1}, codes.Unimplemented, filters},
		{&pb.RangeRequest{Key: []byte("k"), MaxCreateRevision: 1}, codes.Unimplemented, filters},
	} {
		stream, err := kv.RangeStream(ctx(t), refused.req)
		if err != nil {
			t.Fatal(err)
		}
		_, err = stream.Recv()
		if st := status.Convert(err); st.Code() != refused.code || st.Message() != refused.text {
			t.Errorf("%v: %v", refused.req, err)
		}
	}
}

// streamed is a streamed range put together, and how many pieces it had.
func streamed(t *testing.T, kv pb.KVClient, req *pb.RangeRequest) (all *pb.RangeResponse, pieces int) {
	t.Helper()
	stream, err := kv.RangeStream(ctx(t), req)
	if err != nil {
		t.Fatal(err)
	}
	all = &pb.RangeResponse{}
	for ; ; pieces++ {
		part, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return all, pieces
		}
		if err != nil {
			t.Fatal(err)
		}
		proto.Merge(all, part.GetRangeResponse())
	}
}
