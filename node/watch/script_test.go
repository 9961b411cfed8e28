package watch

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/cockroachdb/datadriven"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"

	"github.com/chainfire/cfseed/internal/state/envelope"
)

// script is a hub whose every step a script takes.
type script struct {
	t       *testing.T
	src     *source
	h       *Hub
	streams map[string]*Stream
}

// TestScripts runs the scripts in testdata. In them,
//
//	hub queue=N round=N       begins anew, with these bounds
//	put|del k=v ...           one transaction; applied, and not yet fed
//	compact N, purge          as an entry, and of the member's disk
//	replace                   the state of another member takes the place of this one's: compacted and purged up to now
//	watch s ID key=K ...      asks in stream s; also end, rev, prev, notify, noput, nodelete
//	cancel s ID, progress s   the other requests
//	tick s                    the progress interval has passed
//	feed                      the hub does what there is to do
//	read s [N]                up to N responses that wait in the stream
//	close s                   the client goes away
func TestScripts(t *testing.T) {
	datadriven.Walk(t, "testdata/scripts", func(t *testing.T, path string) {
		s := &script{t: t}
		defer func() { s.end() }()
		datadriven.RunTest(t, path, func(t *testing.T, d *datadriven.TestData) string {
			var out strings.Builder
			for line := range strings.Lines(d.Input) {
				if words := strings.Fields(line); len(words) > 0 {
					if err := s.run(words[0], words[1:], &out); err != nil {
						fmt.Fprintf(&out, "error: %s\n", rpctypes.ErrorDesc(err))
					}
				}
			}
			return out.String()
		})
	})
}

func (s *script) end() {
	for _, st := range s.streams {
		st.Close()
	}
	if s.src != nil {
		s.src.now.close(s.t)
	}
}

func (s *script) run(cmd string, args []string, out *strings.Builder) error {
	num := func(name string) (n int64) {
		for _, a := range args {
			if v, ok := strings.CutPrefix(a, name+"="); ok {
				if _, err := fmt.Sscan(v, &n); err != nil {
					s.t.Fatal(a, err)
				}
			}
		}
		return n
	}
	switch cmd {
	case "hub":
		s.end()
		s.src, s.streams = &source{now: newMachine(s.t)}, map[string]*Stream{}
		s.h = New(s.src, Options{QueueRevisions: int(num("queue")), RoundRows: int(num("round"))})
	case "put", "del":
		return s.write(cmd, args)
	case "compact":
		var at int64
		if _, err := fmt.Sscan(args[0], &at); err != nil {
			return err
		}
		return s.src.now.apply(s.t, envelope.Compact, &pb.CompactionRequest{Revision: at})
	case "purge":
		_, err := s.src.now.Purge(1000)
		return err
	case "replace":
		return s.replace()
	case "feed":
		settle(s.t, s.h)
	default:
		return s.inStream(cmd, args, out)
	}
	return nil
}

func (s *script) write(cmd string, args []string) error {
	req := &pb.TxnRequest{}
	for _, a := range args {
		k, v, _ := strings.Cut(a, "=")
		op := &pb.RequestOp{Request: &pb.RequestOp_RequestPut{RequestPut: &pb.PutRequest{Key: []byte(k), Value: []byte(v)}}}
		if cmd == "del" {
			op.Request = &pb.RequestOp_RequestDeleteRange{RequestDeleteRange: &pb.DeleteRangeRequest{Key: []byte(k)}}
		}
		req.Success = append(req.Success, op)
	}
	return s.src.now.apply(s.t, envelope.Txn, req)
}

// replace makes a member of as many revisions, which has purged what it could.
func (s *script) replace() error {
	next := newMachine(s.t)
	for next.Revision() < s.src.Revision() {
		if err := next.apply(s.t, envelope.Put, &pb.PutRequest{Key: []byte("elsewhere")}); err != nil {
			return err
		}
	}
	for range 3 {
		if err := next.apply(s.t, envelope.Put, &pb.PutRequest{Key: []byte("a"), Value: []byte("from elsewhere")}); err != nil {
			return err
		}
	}
	if err := next.apply(s.t, envelope.Compact, &pb.CompactionRequest{Revision: next.Revision() - 1}); err != nil {
		return err
	}
	if _, err := next.Purge(1000); err != nil {
		return err
	}
	s.src.now.close(s.t)
	s.src.now = next
	return nil
}

func (s *script) inStream(cmd string, args []string, out *strings.Builder) error {
	name := args[0]
	st := s.streams[name]
	if st == nil {
		st = s.h.Open()
		s.streams[name] = st
	}
	var id int64
	if len(args) > 1 {
		if _, err := fmt.Sscan(args[1], &id); err != nil {
			return err
		}
	}
	switch cmd {
	case "watch":
		ask(s.t, st, s.createRequest(id, args[2:]))
	case "cancel":
		ask(s.t, st, &pb.WatchCancelRequest{WatchId: id})
	case "progress":
		ask(s.t, st, &pb.WatchProgressRequest{})
	case "tick":
		st.notify()
	case "close":
		st.Close()
		delete(s.streams, name)
	case "read":
		for n := int64(1); ; n++ {
			resp := take(st)
			if resp == nil {
				return nil
			}
			fmt.Fprintf(out, "%s %s\n", name, responseText(resp))
			if n == id {
				return nil
			}
		}
	default:
		return errors.New("unknown command " + cmd)
	}
	return nil
}

func (s *script) createRequest(id int64, args []string) *pb.WatchCreateRequest {
	r := &pb.WatchCreateRequest{WatchId: id}
	for _, a := range args {
		k, v, _ := strings.Cut(a, "=")
		switch k {
		case "key":
			r.Key = []byte(v)
		case "end":
			r.RangeEnd = []byte(strings.ReplaceAll(v, `\0`, "\x00"))
		case "rev":
			if _, err := fmt.Sscan(v, &r.StartRevision); err != nil {
				s.t.Fatal(a, err)
			}
		case "prev":
			r.PrevKv = true
		case "notify":
			r.ProgressNotify = true
		case "noput":
			r.Filters = append(r.Filters, pb.WatchCreateRequest_NOPUT)
		case "nodelete":
			r.Filters = append(r.Filters, pb.WatchCreateRequest_NODELETE)
		default:
			s.t.Fatal(a)
		}
	}
	return r
}

func responseText(r *pb.WatchResponse) string {
	text := fmt.Sprintf("watch %d at %d:", r.WatchId, r.GetHeader().GetRevision())
	switch {
	case r.Created && r.Canceled:
		return text + " refused: " + r.CancelReason
	case r.Created:
		return text + " created"
	case r.CompactRevision != 0:
		return fmt.Sprintf("%s ended, compacted at %d", text, r.CompactRevision)
	case r.Canceled:
		return text + " cancelled"
	case len(r.Events) == 0:
		return text + " progress"
	}
	for _, ev := range r.Events {
		text += fmt.Sprintf(" %s %s=%s@%d", ev.GetType(), ev.Kv.Key, ev.Kv.Value, ev.Kv.ModRevision)
		if ev.Type == mvccpb.Event_DELETE {
			text = strings.Replace(text, string(ev.Kv.Key)+"=@", string(ev.Kv.Key)+"@", 1)
		}
		if ev.PrevKv != nil {
			text += fmt.Sprintf(" (was %s@%d)", ev.PrevKv.Value, ev.PrevKv.ModRevision)
		}
	}
	return text
}

// TestSlowWatchHoldsUpNobody: a watch that nobody reads has no more in memory
// than the bounds say, others are told at once, and it gets everything later.
func TestSlowWatchHoldsUpNobody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMachine(t)
		defer m.close(t)
		h := New(m, Options{QueueRevisions: 4})
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error)
		go func() { ended <- h.Run(ctx) }()
		slow, quick := h.Open(), h.Open()
		ask(t, slow, &pb.WatchCreateRequest{Key: []byte("k")})
		ask(t, quick, &pb.WatchCreateRequest{Key: []byte("k")})
		hear := func(s *Stream) []*mvccpb.Event {
			resp, _, err := s.Next(ctx)
			if err != nil {
				t.Fatal(err)
			}
			return resp.Events
		}
		hear(quick) // created
		const n = 100
		for i := range n {
			if err := m.apply(t, envelope.Put, &pb.PutRequest{Key: []byte("k"), Value: []byte("v")}); err != nil {
				t.Fatal(err)
			}
			h.Applied()
			if evs := hear(quick); len(evs) != 1 || evs[0].Kv.Version != int64(i+1) {
				t.Fatalf("write %d: %v", i, evs)
			}
			synctest.Wait()
			if len(slow.queue) > 1+4 {
				t.Fatalf("%d responses wait for who does not read", len(slow.queue))
			}
		}
		hear(slow) // created
		for got := 0; got < n; {
			for _, ev := range hear(slow) {
				if got++; ev.Kv.Version != int64(got) {
					t.Fatalf("event %d: %v", got, ev)
				}
			}
		}
		slow.Close()
		quick.Close()
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
}

// TestRequestsWait: who asks and does not read is not remembered without bound.
func TestRequestsWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMachine(t)
		defer m.close(t)
		s := New(m, Options{}).Open()
		defer s.Close()
		asked := make(chan struct{}, 1000)
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error)
		go func() {
			for {
				if err := s.Request(ctx, &pb.WatchRequest{RequestUnion: &pb.WatchRequest_CreateRequest{
					CreateRequest: &pb.WatchCreateRequest{Key: []byte("k")}}}); err != nil {
					ended <- err
					return
				}
				asked <- struct{}{}
			}
		}()
		synctest.Wait()
		if n := len(asked); n != maxControls {
			t.Errorf("%d requests did not wait, want %d", n, maxControls)
		}
		for range 5 {
			if _, _, err := s.Next(ctx); err != nil {
				t.Fatal(err)
			}
		}
		synctest.Wait()
		if n := len(asked); n != maxControls+5 {
			t.Errorf("%d requests did not wait after 5 answers were read", n)
		}
		cancel()
		if err := <-ended; !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
	})
}
