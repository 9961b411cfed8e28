//go:build e2e

package e2e

import (
	"context"
	"fmt"
	"math"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/protobuf/proto"
)

// pair is an etcd and one of ours that have been told the same.
type pair struct {
	etcd, ours *side
	tally      *tally
	smallest   *[]diffOp // the first round that failed, in the fewest steps
}

// tally counts what was asked, by kind: answered and refused.
type tally struct {
	mu     sync.Mutex
	kinds  map[string]*[2]int
	events atomic.Int64 // that watches brought, and that were compared
}

func (y *tally) count(req proto.Message, stream bool, err error) {
	y.mu.Lock()
	defer y.mu.Unlock()
	kind := string(req.ProtoReflect().Descriptor().Name())
	if stream {
		kind += ", streamed"
	}
	if y.kinds[kind] == nil {
		y.kinds[kind] = new([2]int)
	}
	if err == nil {
		y.kinds[kind][0]++
	} else {
		y.kinds[kind][1]++
	}
}

func (p pair) sides() [2]*side { return [2]*side{p.etcd, p.ours} }

// ask sends a request to both at a time.
func (p pair) ask(req proto.Message, stream bool) (etcd, ours reply) {
	var wg sync.WaitGroup
	wg.Go(func() { etcd = p.etcd.ask(proto.Clone(req), stream) })
	ours = p.ours.ask(req, stream)
	wg.Wait()
	return etcd, ours
}

var everything = []byte{0}

// align brings both sides to where a round begins, whatever the last one came
// upon: no keys, no leases, the same revision, and that one compacted. So a
// round that has failed can be run again without new servers.
func (p pair) align() (revision int64, err error) {
	var at [2]int64
	for i, s := range p.sides() {
		leases := s.ask(&pb.LeaseLeasesRequest{}, false)
		if leases.err != nil {
			return 0, fmt.Errorf("%s: %w", s.name, leases.err)
		}
		for _, l := range leases.resp.(*pb.LeaseLeasesResponse).GetLeases() {
			s.ask(&pb.LeaseRevokeRequest{ID: l.GetID()}, false)
		}
		if at[i], err = s.put("align"); err != nil {
			return 0, err
		}
	}
	most := max(at[0], at[1])
	for i, s := range p.sides() {
		for at[i] < most {
			if at[i], err = s.put("align"); err != nil {
				return 0, err
			}
		}
		d := s.ask(&pb.DeleteRangeRequest{Key: everything, RangeEnd: everything}, false)
		if d.err != nil {
			return 0, fmt.Errorf("%s: %w", s.name, d.err)
		}
		at[i] = d.resp.(*pb.DeleteRangeResponse).GetHeader().GetRevision()
		if c := s.ask(&pb.CompactionRequest{Revision: at[i]}, false); c.err != nil {
			return 0, fmt.Errorf("%s: compaction at %d: %w", s.name, at[i], c.err)
		}
	}
	if at[0] != at[1] {
		return 0, fmt.Errorf("revisions %d and %d after the same operations", at[0], at[1])
	}
	return at[0], nil
}

func (s *side) put(key string) (revision int64, err error) {
	a := s.ask(&pb.PutRequest{Key: []byte(key)}, false)
	if a.err != nil {
		return 0, fmt.Errorf("%s: %w", s.name, a.err)
	}
	return a.resp.(*pb.PutResponse).GetHeader().GetRevision(), nil
}

// round is a sequence of operations from an empty key space on.
type round struct {
	pair
	ctx       context.Context // of its watches
	revision  int64
	compacted int64
	watches   []*watchPair
	count     int
	tally     *tally
	steps     []string // what was done, for the report
}

// watchPair is a watch at both sides.
type watchPair struct {
	spec       watchSpec
	start      int64
	etcd, ours *watching
	// What must have come, and what is compared: writes for other watches may
	// have come already.
	wait, upTo int64
	compared   int // events
}

func (w *watchPair) String() string {
	return fmt.Sprintf("watch %+v from revision %d", w.spec, w.start)
}

// run carries out operations and gives the first difference, "" when there is
// none.
func (p pair) run(t testing.TB, ops []diffOp) (difference string, r *round) {
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	r = &round{pair: p, ctx: ctx, tally: p.tally}
	var err error
	if r.revision, err = p.align(); err != nil {
		return err.Error(), r
	}
	r.compacted = r.revision
	for _, op := range ops {
		if difference = r.step(op); difference != "" {
			return difference, r
		}
	}
	return r.finish(), r
}

func (r *round) step(op diffOp) string {
	if op.watch != nil {
		r.note(op.String())
		return r.begin(*op.watch)
	}
	if _, compaction := op.req.(*pb.CompactionRequest); compaction {
		return r.compact(op)
	}
	return r.both(r.resolve(op.req), op.stream)
}

// compact lets watches hear all there is before: the previous value of an event
// that waits is lost to a compaction, or is not, as the moment has it.
func (r *round) compact(op diffOp) string {
	if d := r.settle(); d != "" {
		return d
	}
	req := r.resolve(op.req).(*pb.CompactionRequest)
	if d := r.both(req, false); d != "" {
		return d
	}
	if req.GetRevision() > r.compacted && req.GetRevision() <= r.revision {
		r.compacted = req.GetRevision()
	}
	return ""
}

// both sends a request and compares what comes back.
func (r *round) both(req proto.Message, stream bool) string {
	r.note(diffOp{req: req, stream: stream}.String())
	etcd, ours := r.ask(req, stream)
	r.tally.count(req, stream, ours.err)
	if d := differ(req, etcd, ours); d != "" {
		return d
	}
	if h, ok := ours.resp.(interface{ GetHeader() *pb.ResponseHeader }); ok {
		r.revision = max(r.revision, h.GetHeader().GetRevision())
	}
	return ""
}

func (r *round) note(step string) {
	r.count++
	r.steps = append(r.steps, step)
}

func (r *round) begin(spec watchSpec) string {
	w := &watchPair{spec: spec, start: r.at(spec.Start)}
	var errs [2]error
	var wg sync.WaitGroup
	wg.Go(func() { w.etcd, errs[0] = r.etcd.watch(r.ctx, spec, w.start) })
	w.ours, errs[1] = r.ours.watch(r.ctx, spec, w.start)
	wg.Wait()
	for _, err := range errs {
		if err != nil {
			return fmt.Sprintf("%s: %v", w, err)
		}
	}
	r.watches = append(r.watches, w)
	if w.start <= 0 || w.start >= r.compacted {
		return ""
	}
	for _, one := range []*watching{w.etcd, w.ours} { // it is refused, soon
		if err := one.until(math.MaxInt64); err != nil {
			return fmt.Sprintf("%s: %v", w, err)
		}
	}
	return ""
}

// settle writes to every watch's keys until it must have heard of it, waits for
// that, and compares all that was heard.
func (r *round) settle() string {
	for _, w := range r.watches {
		w.wait, w.upTo = 0, math.MaxInt64
		if w.etcd.end != "" && w.ours.end != "" {
			continue
		}
		key := w.spec.Key
		if key == "" {
			key = "\x00"
		}
		// A put and a delete are two revisions; a watch may begin in the future.
		for first := true; first || r.revision <= w.start; first = false {
			if d := r.both(&pb.PutRequest{Key: []byte(key), Value: []byte("settle")}, false); d != "" {
				return d
			}
			if !w.spec.NoPut {
				w.wait, w.upTo = r.revision, r.revision
			}
			if d := r.both(&pb.DeleteRangeRequest{Key: []byte(key)}, false); d != "" {
				return d
			}
			if !w.spec.NoDelete {
				w.wait, w.upTo = r.revision, r.revision
			}
		}
	}
	for _, w := range r.watches {
		for _, one := range []*watching{w.etcd, w.ours} {
			if err := one.until(w.wait); err != nil {
				return fmt.Sprintf("%s: %v", w, err)
			}
		}
		etcd, ours := w.etcd.heardUpTo(w.upTo), w.ours.heardUpTo(w.upTo)
		if d := differWatch(w.String(), etcd, ours); d != "" {
			return d
		}
		r.tally.events.Add(int64(len(ours.events) - w.compared))
		w.compared = len(ours.events)
	}
	return ""
}

// finish compares what the watches have heard, and what is left.
func (r *round) finish() string {
	if d := r.settle(); d != "" {
		return d
	}
	for _, req := range []proto.Message{
		&pb.RangeRequest{Key: everything, RangeEnd: everything},
		&pb.RangeRequest{Key: everything, RangeEnd: everything, Revision: r.compacted},
		&pb.LeaseLeasesRequest{},
		&pb.LeaseTimeToLiveRequest{ID: 1, Keys: true},
	} {
		if d := r.both(req, false); d != "" {
			return d
		}
	}
	return ""
}

// report shows a difference and how it came about.
func (r *round) report(difference string) string {
	return fmt.Sprintf("%s\n\nafter these operations:\n  %s", difference, strings.Join(r.steps, "\n  "))
}
