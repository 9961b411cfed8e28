package join

import (
	"context"
	"sync"
	"time"

	"google.golang.org/grpc"

	chainfirev1 "github.com/chainfire/cfseed/proto/chainfire/v1"
	"github.com/chainfire/cfseed/transfer"
)

// look is what is known at one moment of a seed under way.
type look struct {
	at      time.Time
	done    uint64 // bytes of the seed that are there
	total   uint64
	wire    uint64 // bytes that crossed the wire for them
	applied uint64 // index at the member asked
	used    uint64 // bytes of the log since the lease's hold
	room    uint64 // of the lease; 0 = it has none to tell of
	behind  uint64 // entries after the seed's position
}

// foresee says from two looks how the seed will end; nil when they tell nothing
// yet. All rates are those between the two looks.
//
// The seed is there when what is missing has been fetched. By then the log must
// not have used up the lease, or the entries after the seed are dropped; and
// they must come faster than they are written, or the newcomer stays behind.
func foresee(from, to look) *chainfirev1.Forecast {
	span := to.at.Sub(from.at).Seconds()
	if span <= 0 || to.done <= from.done || to.used < from.used || to.applied < from.applied || to.room == 0 {
		return nil
	}
	fetched := float64(to.done-from.done) / span
	line := float64(to.wire-from.wire) / span
	if line <= 0 { // all of it was there
		return nil
	}
	written := float64(to.used-from.used) / span
	left := float64(to.total - min(to.done, to.total))
	f := &chainfirev1.Forecast{Seconds: left / fetched, WrittenBytesPerSecond: written, FetchedBytesPerSecond: line}
	f.EntriesBehind = to.behind + uint64(float64(to.applied-from.applied)/span*f.Seconds)
	used := float64(to.used) + written*f.Seconds
	f.Converges = used <= float64(to.room) && written < line
	if f.Converges {
		return f
	}
	f.NeededBytesPerSecond = written
	if spare := float64(to.room) - float64(to.used); spare > 0 && written > 0 {
		f.NeededBytesPerSecond = max(written, left*line/fetched/(spare/written))
	}
	if used > float64(to.room) {
		f.LeaseBytesNeeded = uint64(used)
	}
	return f
}

// How often a forecast is made, how soon the first, and over how long at most.
const (
	forecastFirst = 250 * time.Millisecond
	forecastEvery = time.Second
	forecastOver  = 15 // looks
)

// forecaster makes forecasts while a seed is fetched.
type forecaster struct {
	n *Newcomer

	mu    sync.Mutex
	meta  transfer.Meta // of the seed; a lease of 0 while none is open
	moved transfer.Progress
}

func (f *forecaster) opened(ev transfer.Event) {
	if ev.Kind == transfer.EventOpened {
		f.mu.Lock()
		f.meta = ev.Meta
		f.mu.Unlock()
	}
}

func (f *forecaster) progress(p transfer.Progress) {
	f.mu.Lock()
	f.moved = p
	f.mu.Unlock()
	if f.n.cfg.Moved != nil {
		f.n.cfg.Moved(p)
	}
}

// start makes forecasts until the returned function is called, which waits for
// their end.
func (f *forecaster) start(ctx context.Context) (stop func()) {
	if f.n.cfg.Foreseen == nil {
		return func() {}
	}
	ctx, cancel := context.WithCancel(ctx)
	members := newClient(f.n.cfg.Dial, f.n.cluster.endpoints) // the other client belongs to another goroutine
	var done sync.WaitGroup
	done.Go(func() {
		defer members.Close() //nolint:errcheck // an idle connection
		f.run(ctx, members)
	})
	return func() { cancel(); done.Wait() }
}

func (f *forecaster) run(ctx context.Context, members *client) {
	var looks []look
	var root [32]byte
	for pause := forecastFirst; sleep(ctx, pause) == nil; {
		f.mu.Lock()
		meta, moved := f.meta, f.moved
		f.mu.Unlock()
		if meta.LeaseID == 0 {
			continue
		}
		if meta.Root != root { // another seed is another story
			looks, root = nil, meta.Root
		}
		now, ok := f.look(ctx, members, meta, moved)
		if !ok {
			continue
		}
		if len(looks) > 0 {
			if forecast := foresee(looks[0], now); forecast != nil {
				f.n.cfg.Foreseen(forecast)
				pause = forecastEvery
			}
		}
		if looks = append(looks, now); len(looks) > forecastOver {
			looks = looks[1:]
		}
	}
}

// look asks a member how far the cluster is.
func (f *forecaster) look(ctx context.Context, members *client, meta transfer.Meta, moved transfer.Progress) (look, bool) {
	var res *chainfirev1.GetTailResponse
	req := &chainfirev1.GetTailRequest{ClusterId: meta.Cluster.ID, GenesisNonce: meta.Cluster.Genesis.Bytes(),
		LeaseId: meta.LeaseID, After: PositionOf(meta.Position)}
	err := members.call(ctx, "forecast", f.n.cfg.IdleTimeout, func(ctx context.Context, c *grpc.ClientConn) (err error) {
		res, err = chainfirev1.NewSeedClient(c).GetTail(ctx, req)
		return err
	})
	if err != nil {
		return look{}, false // the transfer tells what is wrong
	}
	applied := res.GetApplied().GetIndex()
	return look{at: f.n.cfg.Now(), done: moved.BytesDone, total: moved.BytesTotal, wire: moved.BytesWire, applied: applied,
		used: res.GetLeaseBytes(), room: res.GetLeaseCapBytes(), behind: applied - min(applied, meta.Position.Index)}, true
}
