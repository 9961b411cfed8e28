package node

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/grpc"

	"github.com/chainfire/cfseed/internal/datadir"
	"github.com/chainfire/cfseed/internal/fault"
	"github.com/chainfire/cfseed/internal/netsec"
	"github.com/chainfire/cfseed/internal/state/store"
	"github.com/chainfire/cfseed/raftlog"
	"github.com/chainfire/cfseed/transfer"
)

func logOptions(cfg Config, corrupt func(error), synced func(time.Duration)) raftlog.Options {
	return raftlog.Options{FS: cfg.FS, Logger: cfg.Logger, OnCorruption: corrupt, OnFsync: synced}
}

func storeOptions(cfg Config, cache *pebble.Cache, corrupt func(error)) store.Options {
	return store.Options{FS: cfg.FS, Cache: cache, MemTableBytes: cfg.MemTableBytes, Logger: cfg.Logger, OnCorruption: corrupt}
}

// createStores makes raft/ with a founding member's entries and an empty
// state-1.
func createStores(cfg Config, dir *datadir.Dir, entries []*raftpb.Entry) error {
	if err := raftlog.Bootstrap(dir.Raft(), raftlog.Options{FS: cfg.FS, Logger: cfg.Logger}, entries, 1); err != nil {
		return err
	}
	st, err := store.Open(dir.State(1), store.Options{FS: cfg.FS, Logger: cfg.Logger})
	if err != nil {
		return err
	}
	if err := errors.Join(st.Flush(), st.Close()); err != nil {
		return err
	}
	return datadir.SyncDir(cfg.FS, dir.Path())
}

// dialTransfer connects to a source or a waiting target.
func (n *node) dialTransfer(ctx context.Context, endpoint string, opts ...grpc.DialOption) (transfer.Conn, error) {
	return seedDialer(func(string) netsec.Files { return n.cfg.PeerTLS }, nil)(ctx, endpoint, opts...)
}

// dialChannel connects to a source for channels.
func (n *node) dialChannel(ctx context.Context, endpoint string, wrap func(net.Conn) net.Conn) (net.Conn, error) {
	return channelDialer(func(string) netsec.Files { return n.cfg.PeerTLS })(ctx, endpoint, wrap)
}

// seedDialer connects to who serves or takes a seed, with the certificates and as
// a user; nil: as nobody.
func seedDialer(files func(endpoint string) netsec.Files, user *netsec.Login) transfer.DialFunc {
	return func(_ context.Context, endpoint string, opts ...grpc.DialOption) (transfer.Conn, error) {
		return netsec.Dial(endpoint, files(endpoint), append(user.DialOptions(), opts...)...)
	}
}

// channelDialer connects for channels, with the certificates.
func channelDialer(files func(endpoint string) netsec.Files) transfer.DialChannelFunc {
	return func(ctx context.Context, endpoint string, wrap func(net.Conn) net.Conn) (net.Conn, error) {
		return netsec.DialApart(ctx, endpoint, files(endpoint), transfer.ChannelProtocol, wrap)
	}
}

// raftLogger gives the Raft library's words to the node's log, and turns its
// fatal ones into panics, which the replica hands on as errors.
type raftLogger struct{ l *slog.Logger }

func (r raftLogger) log(level slog.Level, msg string) {
	r.l.Log(context.Background(), level, msg, "part", "raft")
}

// mustNot is how the library says that an invariant is broken.
func (r raftLogger) mustNot(msg string) {
	r.log(slog.LevelError, msg)
	panic(fault.Newf(fault.Internal, "raft", "%s", msg))
}
