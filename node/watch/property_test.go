package watch

import (
	"errors"
	"fmt"
	"slices"
	"testing"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"google.golang.org/protobuf/proto"
	"pgregory.net/rapid"

	"github.com/chainfire/cfseed/internal/state/envelope"
)

// world is a hub over a member beside another member of its cluster, which may
// be ahead and whose state may take the place of the first one's.
type world struct {
	t        *rapid.T
	src      *source
	other    *machine
	entries  []func() // what the first member has not applied yet
	h        *Hub
	streams  []*modelStream
	fed      int64
	replaced bool

	events     []*mvccpb.Event // of the other member: everything that was ever written
	keys       map[string]*mvccpb.KeyValue
	compacted  map[int64]bool
	watchCount int
}

// modelStream is a stream and what its watches must still get.
type modelStream struct {
	s       *Stream
	watches map[int64]*modelWatch
	asked   []int64 // revisions at the progress requests that were not answered
}

type modelWatch struct {
	req      *pb.WatchCreateRequest
	start    int64 // resolved
	created  bool
	got      int // events
	header   int64
	w        *watcher
	canceled bool
	behind   bool  // was so at some time
	synced   int64 // was synced up to here
}

var watchedKeys = []string{"a", "b", "ba", "c"}

// write carries out a transaction of puts and deletes of different keys.
func (w *world) write(t *rapid.T) {
	req := &pb.TxnRequest{}
	rev := w.other.Revision() + 1
	var evs []*mvccpb.Event
	for _, k := range watchedKeys {
		switch old := w.keys[k]; rapid.IntRange(0, 5).Draw(t, "what to do with "+k) {
		case 0, 1:
			v := rapid.SampledFrom([]string{"", "x", "a longer value"}).Draw(t, "value")
			req.Success = append(req.Success, &pb.RequestOp{Request: &pb.RequestOp_RequestPut{RequestPut: &pb.PutRequest{Key: []byte(k), Value: []byte(v)}}})
			kv := &mvccpb.KeyValue{Key: []byte(k), CreateRevision: rev, ModRevision: rev, Version: 1}
			if v != "" {
				kv.Value = []byte(v)
			}
			if old != nil {
				kv.CreateRevision, kv.Version = old.CreateRevision, old.Version+1
			}
			evs = append(evs, &mvccpb.Event{Kv: kv, PrevKv: old})
			w.keys[k] = kv
		case 2:
			req.Success = append(req.Success, &pb.RequestOp{Request: &pb.RequestOp_RequestDeleteRange{RequestDeleteRange: &pb.DeleteRangeRequest{Key: []byte(k)}}})
			if old != nil {
				evs = append(evs, &mvccpb.Event{Type: mvccpb.Event_DELETE, PrevKv: old, Kv: &mvccpb.KeyValue{Key: []byte(k), ModRevision: rev}})
				delete(w.keys, k)
			}
		}
	}
	w.events = append(w.events, evs...)
	w.entry(envelope.Txn, req)
}

func (w *world) compact(t *rapid.T) {
	at := max(1, w.other.CompactRevision())
	if at == w.other.Revision() {
		return
	}
	at = rapid.Int64Range(at+1, w.other.Revision()).Draw(t, "compact at")
	w.compacted[at] = true
	w.entry(envelope.Compact, &pb.CompactionRequest{Revision: at})
}

// entry is applied by the other member now and by the first one later.
func (w *world) entry(kind envelope.Kind, body proto.Message) {
	if err := w.other.apply(w.t, kind, body); err != nil {
		w.t.Fatal(err)
	}
	if !w.replaced {
		first := w.src.now
		w.entries = append(w.entries, func() {
			if err := first.apply(w.t, kind, body); err != nil {
				w.t.Fatal(err)
			}
		})
	}
}

func (w *world) apply(t *rapid.T) {
	if len(w.entries) > 0 {
		n := rapid.IntRange(1, len(w.entries)).Draw(t, "entries")
		for _, e := range w.entries[:n] {
			e()
		}
		w.entries = w.entries[n:]
	}
}

// purge waits for the hub at the member that has watches, not at the other.
func (w *world) purge(t *rapid.T) {
	m := w.other
	if !w.replaced && rapid.Bool().Draw(t, "the first") {
		m = w.src.now
	}
	if m == w.src.now && m.CompactRevision() > w.fed+1 {
		return
	}
	if _, err := m.Purge(rapid.IntRange(1, 6).Draw(t, "rows")); err != nil {
		t.Fatal(err)
	}
}

// replace is a Raft snapshot.
func (w *world) replace(*rapid.T) {
	if !w.replaced {
		w.src.now.close(w.t)
		w.src.now, w.entries, w.replaced = w.other, nil, true
	}
}

func (w *world) create(t *rapid.T) {
	if w.watchCount++; w.watchCount > 12 {
		return
	}
	s := rapid.SampledFrom(w.streams).Draw(t, "stream")
	req := &pb.WatchCreateRequest{
		Key:      []byte(rapid.SampledFrom(watchedKeys).Draw(t, "key")),
		RangeEnd: []byte(rapid.SampledFrom([]string{"", "", "\x00", "d"}).Draw(t, "end")),
		WatchId:  int64(w.watchCount), PrevKv: rapid.Bool().Draw(t, "prev"),
		StartRevision: rapid.Int64Range(0, w.src.Revision()+3).Draw(t, "start"),
	}
	for _, f := range []pb.WatchCreateRequest_FilterType{pb.WatchCreateRequest_NOPUT, pb.WatchCreateRequest_NODELETE} {
		if rapid.IntRange(0, 3).Draw(t, "filter") == 0 {
			req.Filters = append(req.Filters, f)
		}
	}
	mw := &modelWatch{req: req, start: req.StartRevision}
	if mw.start == 0 {
		mw.start = w.src.Revision() + 1
	}
	s.watches[req.WatchId] = mw
	ask(t, s.s, req)
	mw.w = s.s.watches[req.WatchId]
}

// step runs the hub while clients read and create watches.
func (w *world) step(t *rapid.T) {
	w.src.between = func() {
		switch rapid.IntRange(0, 9).Draw(t, "between") {
		case 0:
			w.create(t)
		case 1, 2, 3:
			w.read(t)
		}
		w.look(t)
	}
	defer func() { w.src.between = nil }()
	if _, err := w.h.step(t.Context()); err != nil {
		t.Fatal(err)
	}
}

func (w *world) read(t *rapid.T) {
	s := rapid.SampledFrom(w.streams).Draw(t, "stream")
	for range rapid.IntRange(1, 5).Draw(t, "responses") {
		resp := take(s.s)
		if resp == nil {
			return
		}
		if err := w.hear(s, resp); err != nil {
			t.Fatal(err)
		}
	}
}

func (w *world) progress(t *rapid.T) {
	s := rapid.SampledFrom(w.streams).Draw(t, "stream")
	s.asked = append(s.asked, w.src.Revision())
	ask(t, s.s, &pb.WatchProgressRequest{})
}

// look notes where the watches are.
func (w *world) look(*rapid.T) {
	for _, s := range w.streams {
		for _, mw := range s.watches {
			switch mw.w.place {
			case synced:
				mw.synced = max(mw.synced, w.h.pos)
			case behind, stalled:
				mw.behind = true
			}
		}
	}
}

// expected are the events of a watch, all that ever were.
func (w *world) expected(mw *modelWatch) (out []*mvccpb.Event) {
	sp := spanOf(mw.req.Key, mw.req.RangeEnd)
	for _, ev := range w.events {
		k := string(ev.Kv.Key)
		in := sp.single && k == sp.lo || !sp.single && k >= sp.lo && (sp.open || k < sp.hi)
		put := ev.Type == mvccpb.Event_PUT
		if !in || ev.Kv.ModRevision < mw.start || put && slices.Contains(mw.req.Filters, pb.WatchCreateRequest_NOPUT) ||
			!put && slices.Contains(mw.req.Filters, pb.WatchCreateRequest_NODELETE) {
			continue
		}
		out = append(out, ev)
	}
	return out
}

// hear holds one response against the model.
func (w *world) hear(s *modelStream, resp *pb.WatchResponse) error {
	rev := resp.GetHeader().GetRevision()
	if resp.WatchId == everyWatch {
		if len(s.asked) == 0 || s.asked[0] > rev {
			return fmt.Errorf("progress at %d, asked for at %d", rev, s.asked)
		}
		s.asked = s.asked[1:] // or of a later request too: they are answered together
		for id, mw := range s.watches {
			if want := w.expected(mw); mw.created && !mw.canceled && mw.got < len(want) && want[mw.got].Kv.ModRevision <= rev {
				return fmt.Errorf("progress at %d, but watch %d lacks %v", rev, id, want[mw.got])
			}
		}
		return nil
	}
	mw := s.watches[resp.WatchId]
	switch {
	case mw == nil || mw.canceled:
		return fmt.Errorf("for no watch: %v", resp)
	case resp.Created:
		if mw.created || mw.got > 0 {
			return fmt.Errorf("created late: %v", resp)
		}
		mw.created = true
		return nil
	case !mw.created:
		return fmt.Errorf("before it was created: %v", resp)
	case resp.Canceled:
		mw.canceled = true
		return w.rightlyEnded(mw, resp.CompactRevision)
	}
	want := w.expected(mw)
	if rev < mw.header {
		return fmt.Errorf("header goes back from %d: %v", mw.header, resp)
	}
	mw.header = rev
	for _, ev := range resp.Events {
		if mw.got >= len(want) {
			return fmt.Errorf("watch %v: one too many: %v", mw.req, ev)
		}
		if err := w.sameEvent(mw, ev, want[mw.got]); err != nil {
			return err
		}
		mw.got++
	}
	if n := len(resp.Events); n == 0 || resp.Events[n-1].Kv.ModRevision > rev {
		return fmt.Errorf("header and events do not fit: %v", resp)
	}
	if mw.got < len(want) && want[mw.got].Kv.ModRevision <= rev {
		return fmt.Errorf("watch %v: a revision was split, or the header is ahead: %v, missing %v", mw.req, resp, want[mw.got])
	}
	return nil
}

func (w *world) sameEvent(mw *modelWatch, ev, want *mvccpb.Event) error {
	want = proto.CloneOf(want)
	// What was before the compact revision itself may be gone.
	if !mw.req.PrevKv || ev.PrevKv == nil && w.compacted[ev.Kv.ModRevision] {
		want.PrevKv = nil
	}
	if !proto.Equal(ev, want) {
		return fmt.Errorf("watch %v: got %v, want %v", mw.req, ev, want)
	}
	return nil
}

// rightlyEnded: only a watch that is behind ends, and only when what it wants
// next is compacted.
func (w *world) rightlyEnded(mw *modelWatch, compacted int64) error {
	want := w.expected(mw)
	gone := max(mw.w.next, mw.start, mw.synced+1) < compacted && w.compacted[compacted] && (mw.behind || w.replaced)
	if mw.got < len(want) && want[mw.got].Kv.ModRevision < mw.w.next {
		return fmt.Errorf("watch %v ended before it got %v", mw.req, want[mw.got])
	}
	if !gone {
		return fmt.Errorf("watch %v at %d, start %d, synced up to %d, behind %t, ended as compacted at %d", mw.req, mw.w.next, mw.start, mw.synced, mw.behind, compacted)
	}
	return nil
}

func newWorld(t *rapid.T) *world {
	w := &world{t: t, src: &source{now: newMachine(t)}, other: newMachine(t), keys: map[string]*mvccpb.KeyValue{}, compacted: map[int64]bool{}}
	w.h = New(w.src, Options{
		QueueRevisions: rapid.IntRange(1, 4).Draw(t, "queue"), QueueBytes: rapid.SampledFrom([]int{300, 10_000}).Draw(t, "queue bytes"),
		TotalBytes: rapid.SampledFrom([]int{500, 100_000}).Draw(t, "total bytes"),
		RoundRows:  rapid.IntRange(1, 6).Draw(t, "round"), RoundBytes: rapid.SampledFrom([]int{1, 1000}).Draw(t, "round bytes"),
		Fed: func(rev int64) { w.fed = rev },
	})
	for range 3 {
		w.streams = append(w.streams, &modelStream{s: w.h.Open(), watches: map[int64]*modelWatch{}})
	}
	return w
}

// finish lets everybody catch up and wants all that is left.
func (w *world) finish() error {
	for _, e := range w.entries {
		e()
	}
	w.entries = nil
	for read := true; read; {
		settle(w.t, w.h)
		w.look(w.t)
		read = false
		for _, s := range w.streams {
			for resp := take(s.s); resp != nil; resp = take(s.s) {
				read = true
				if err := w.hear(s, resp); err != nil {
					return err
				}
			}
		}
	}
	for _, s := range w.streams {
		for _, mw := range s.watches {
			if want := w.expected(mw); !mw.canceled && mw.got != len(want) {
				return fmt.Errorf("watch %v has %d of %d", mw.req, mw.got, len(want))
			}
		}
		s.s.Close()
	}
	if n := w.h.queued.Load(); n != 0 {
		return fmt.Errorf("%d bytes are said to wait in closed streams", n)
	}
	if w.h.synced.n+w.h.behindIndex.n+len(w.h.behind)+len(w.h.asking) > 0 {
		return errors.New("the hub remembers closed streams")
	}
	return nil
}

func (w *world) close() {
	if !w.replaced {
		w.src.now.close(w.t)
	}
	w.other.close(w.t)
}

// TestWatchesAgainstModel: whatever its start and filters, however slowly it is
// read, a watch sees the events of the model, in order, each once and no
// revision split, across compactions, purges and a state that is replaced; or it
// ends because what it wants next is compacted.
func TestWatchesAgainstModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := newWorld(t)
		defer w.close()
		t.Repeat(map[string]func(*rapid.T){
			"write": w.write, "write again": w.write, "compact": w.compact, "apply": w.apply, "apply again": w.apply, "purge": w.purge,
			"replace": w.replace, "create": w.create, "create another": w.create, "step": w.step, "step again": w.step, "read": w.read,
			"progress": w.progress, "": w.look,
		})
		if err := w.finish(); err != nil {
			t.Fatal(err)
		}
	})
}
