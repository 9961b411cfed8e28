package etcdapi

import (
	"context"
	"errors"
	"io"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
)

// Watches are those of one client's stream. One goroutine calls Request, one
// Next; both may still run when Close is called, once.
type Watches interface {
	// Request carries out what the client asks; answers come from Next. It may
	// wait until ctx ends.
	Request(ctx context.Context, req *pb.WatchRequest) error
	// Refuse answers a request for a watch with its end, for a reason.
	Refuse(ctx context.Context, reason string) error
	// Next waits for the next response; its header has the revision only. fragment
	// says that the client allows it to be split. Its events are not changed.
	Next(ctx context.Context) (resp *pb.WatchResponse, fragment bool, err error)
	Close()
}

type watchServer struct {
	pb.UnimplementedWatchServer
	s *Server
}

func (ws watchServer) Watch(stream pb.Watch_WatchServer) error {
	ctx, cancel := context.WithCancelCause(stream.Context())
	defer cancel(nil)
	watches := ws.s.backend.Watch()
	defer watches.Close()
	// What waits for the client can only end after the handler has returned.
	if !ws.s.streams.start(func() { cancel(ws.receive(ctx, stream, watches)) }) {
		return rpctypes.ErrGRPCStopped
	}
	limit := ws.s.opts.MaxRequestBytes + grpcOverhead
	for {
		resp, fragment, err := watches.Next(ctx)
		if err != nil {
			return endOfWatch(context.Cause(ctx))
		}
		resp.Header = ws.s.header(resp.Header)
		if !fragment {
			err = stream.Send(resp)
		} else {
			err = sendFragments(resp, limit, stream.Send)
		}
		if err != nil {
			return err
		}
	}
}

// receive carries out requests until the stream ends. A client that has said
// its last word goes on hearing.
func (ws watchServer) receive(ctx context.Context, stream pb.Watch_WatchServer, watches Watches) error {
	for {
		req, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			<-ctx.Done()
			return nil
		}
		if err == nil {
			if denied := ws.mayWatch(ctx, req.GetCreateRequest()); denied != nil {
				err = watches.Refuse(ctx, denied.Error())
			} else {
				err = watches.Request(ctx, req)
			}
		}
		if err != nil {
			return err
		}
	}
}

// mayWatch asks for the permission to read what is to be watched; r nil is another
// request.
func (ws watchServer) mayWatch(ctx context.Context, r *pb.WatchCreateRequest) error {
	if r == nil {
		return nil
	}
	c, err := ws.s.Client(ctx)
	if err != nil {
		return err
	}
	key := r.GetKey()
	if len(key) == 0 {
		key = []byte{0} // the smallest key
	}
	return ws.s.backend.Auth().MayRead(c, key, r.GetRangeEnd())
}

// endOfWatch is what a client hears of the reason why its stream has ended.
func endOfWatch(cause error) error {
	if errors.Is(cause, context.Canceled) || status.Code(cause) == codes.Canceled {
		return rpctypes.ErrGRPCWatchCanceled
	}
	return cause
}

// sendFragments sends a response in pieces smaller than limit bytes, as far as
// single events are. All but the last are marked.
func sendFragments(resp *pb.WatchResponse, limit int, send func(*pb.WatchResponse) error) error {
	events := resp.GetEvents()
	for len(events) > 1 {
		piece := &pb.WatchResponse{Header: resp.GetHeader(), WatchId: resp.GetWatchId(), Fragment: true}
		size, n := proto.Size(piece), 0
		for n < len(events) {
			one := proto.Size(&pb.WatchResponse{Events: events[n : n+1]})
			if n > 0 && size+one >= limit {
				break
			}
			size += one
			n++
		}
		piece.Events, events = events[:n], events[n:]
		if len(events) == 0 {
			piece.Fragment = false
			return send(piece)
		}
		if err := send(piece); err != nil {
			return err
		}
	}
	resp.Events = events
	return send(resp)
}
