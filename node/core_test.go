package node

import (
	"testing"
	"testing/synctest"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"

	"github.com/chainfire/cfseed/internal/fault"
	"github.com/chainfire/cfseed/internal/state/envelope"
	"github.com/chainfire/cfseed/node/replica"
)

// put begins a write, whose end the channel tells.
func (r *receiver) put() <-chan error {
	done := make(chan error, 1)
	go func() {
		_, err := r.core.Propose(r.t.Context(), envelope.Put, &pb.PutRequest{Key: []byte("k")})
		done <- err
	}()
	synctest.Wait()
	return done
}

// leads lets the other member lead in a term: it sends the entry that follows the
// one of prevTerm at prev, if there is one, and all up to commit is committed.
func (r *receiver) leads(term, prev, prevTerm, commit uint64, entry ...[]byte) {
	m := &raftpb.Message{Type: raftpb.MsgApp.Enum(), From: proto.Uint64(r.other), To: proto.Uint64(r.identity.get().MemberID),
		Term: proto.Uint64(term), Index: proto.Uint64(prev), LogTerm: proto.Uint64(prevTerm), Commit: proto.Uint64(commit)}
	for _, data := range entry {
		m.Entries = append(m.Entries, &raftpb.Entry{Term: proto.Uint64(term), Index: proto.Uint64(prev + 1), Data: data})
	}
	r.core.post(func(r *replica.Replica) error { return r.Step(m) })
	synctest.Wait()
}

// forwarded gives the one proposal that the member has sent to its leader.
func (r *receiver) forwarded() (data []byte) {
	r.t.Helper()
	if n := len(r.proposed); n != 1 {
		r.t.Fatalf("%d proposals are sent, want 1", n)
	}
	return <-r.proposed
}

// waits wants a write that has not ended, and nothing sent for it.
func (r *receiver) waits(done <-chan error) {
	r.t.Helper()
	synctest.Wait()
	select {
	case err := <-done:
		r.t.Fatalf("ended: %v", err)
	default:
	}
	if n := len(r.proposed); n != 0 {
		r.t.Fatalf("%d proposals are sent", n)
	}
}

// wrote wants the write to have succeeded, and to be the only one.
func (r *receiver) wrote(done <-chan error) {
	r.t.Helper()
	if err := <-done; err != nil {
		r.t.Fatal(err)
	}
	if rev := r.state.machine().Revision(); rev != 2 {
		r.t.Errorf("revision %d after one write", rev)
	}
}

// TestWriteMeetsAnElection: what is certain not to be in the log goes to the next
// leader, once.
func TestWriteMeetsAnElection(t *testing.T) {
	t.Run("no leader", func(t *testing.T) {
		inReceiver(t, func(r *receiver) {
			done := r.put()
			r.waits(done)
			r.leads(100, 2, 1, 2)
			r.leads(100, 2, 1, 3, r.forwarded())
			r.wrote(done)
		})
	})
	t.Run("another entry in its place", func(t *testing.T) {
		inReceiver(t, func(r *receiver) {
			r.leads(100, 2, 1, 2)
			done := r.put()
			r.leads(100, 2, 1, 2, r.forwarded())
			r.waits(done)
			r.leads(101, 2, 1, 3, nil) // the next leader has not heard of it
			<-time.After(leaderPause + time.Millisecond)
			synctest.Wait()
			r.leads(101, 3, 101, 4, r.forwarded())
			r.wrote(done)
		})
	})
	t.Run("the same entry under the next leader", func(t *testing.T) {
		inReceiver(t, func(r *receiver) {
			r.leads(100, 2, 1, 2)
			done := r.put()
			r.leads(100, 2, 1, 2, r.forwarded())
			r.leads(101, 3, 100, 4, nil)
			r.wrote(done)
		})
	})
}

// TestWriteWithoutALeader: a write waits for a leader as long as some elections
// take, so that who asks has time for another member; and what may be in a log is
// not proposed again.
func TestWriteWithoutALeader(t *testing.T) {
	for name, c := range map[string]struct {
		led  bool
		want fault.Code
		took time.Duration
	}{"no leader": {false, fault.Unreachable, 3 * DefaultElection}, "a leader that is gone with it": {true, fault.Timeout, 5*time.Second + 2*DefaultElection}} {
		t.Run(name, func(t *testing.T) {
			inReceiver(t, func(r *receiver) {
				if c.led {
					r.leads(100, 2, 1, 2)
				}
				began, done := time.Now(), r.put()
				if c.led {
					r.forwarded()
					r.leads(101, 2, 1, 2)
				}
				if err := <-done; !fault.Is(err, c.want) || time.Since(began) != c.took {
					t.Errorf("%v after %s", err, time.Since(began))
				}
				if n := len(r.proposed); n != 0 {
					t.Errorf("%d proposals more are sent", n)
				}
			})
		})
	}
}
