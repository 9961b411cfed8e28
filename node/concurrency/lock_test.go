package concurrency_test

import (
	"context"
	"encoding/hex"
	"fmt"
	"slices"
	"testing"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"pgregory.net/rapid"

	"github.com/chainfire/cfseed/proto/v3electionpb"
	"github.com/chainfire/cfseed/proto/v3lockpb"
)

func (l *local) lock(ctx context.Context, name string, lease int64) <-chan answer[*v3lockpb.LockResponse] {
	return begin(func() (*v3lockpb.LockResponse, error) {
		return l.locks.Lock(ctx, &v3lockpb.LockRequest{Name: []byte(name), Lease: lease})
	})
}

// mustLock wants the lock, under the key of the lease.
func mustLock(t *testing.T, from <-chan answer[*v3lockpb.LockResponse], key string) *v3lockpb.LockResponse {
	t.Helper()
	resp, err := get(t, from)
	if err != nil || string(resp.GetKey()) != key || resp.GetHeader().GetRevision() == 0 {
		t.Fatalf("lock: %v, %v, want %s", resp, err, key)
	}
	return resp
}

func (l *local) unlock(key string) {
	l.t.Helper()
	if _, err := l.locks.Unlock(soon(l.t), &v3lockpb.UnlockRequest{Key: []byte(key)}); err != nil {
		l.t.Fatal(err)
	}
}

func wantError(t *testing.T, err error, code codes.Code, text string) {
	t.Helper()
	if st := status.Convert(err); st.Code() != code || st.Message() != text {
		t.Errorf("got %v, want %s %q", err, code, text)
	}
}

// TestLockInOrder: those who wait get the lock in the order in which they came.
func TestLockInOrder(t *testing.T) {
	l := newLocal(t)
	l.grant(0x1a, 0x2b, 0x3c)
	mustLock(t, l.lock(soon(t), "n", 0x1a), "n/1a")
	second := l.lock(soon(t), "n", 0x2b)
	l.awaitKeys("n", 2)
	third := l.lock(soon(t), "n", 0x3c)
	l.awaitKeys("n", 3)
	mustLock(t, l.lock(soon(t), "n", 0x1a), "n/1a") // it is its already
	mustLock(t, l.lock(soon(t), "other", 0x3c), "other/3c")
	l.unlock("n/1a")
	mustLock(t, second, "n/2b")
	select {
	case a := <-third:
		t.Fatalf("two have the lock: %v", a)
	default:
	}
	l.unlock("n/2b")
	mustLock(t, third, "n/3c")
	l.unlock("n/3c")
	l.unlock("n/3c") // once more is no failure
	if got := l.keys("n"); len(got) != 0 {
		t.Errorf("left: %v", got)
	}
}

// TestLockEndsWithItsLease: the lock of one whose lease has ended is the next
// one's, and one that waits hears of the end of its own at once.
func TestLockEndsWithItsLease(t *testing.T) {
	l := newLocal(t)
	l.grant(1, 2, 3)
	mustLock(t, l.lock(soon(t), "n", 1), "n/1")
	second, third := l.lock(soon(t), "n", 2), (<-chan answer[*v3lockpb.LockResponse])(nil)
	l.awaitKeys("n", 2)
	third = l.lock(soon(t), "n", 3)
	l.awaitKeys("n", 3)
	l.revoke(2)
	_, err := get(t, second)
	wantError(t, err, codes.Unknown, "mutex: session is expired")
	l.revoke(1)
	mustLock(t, third, "n/3")
	_, err = l.locks.Lock(soon(t), &v3lockpb.LockRequest{Name: []byte("n"), Lease: 2})
	if status.Convert(err).Message() != "etcdserver: requested lease not found" {
		t.Error(err)
	}
}

// TestLockIsGivenUp: a caller who goes away takes its place with it.
func TestLockIsGivenUp(t *testing.T) {
	l := newLocal(t)
	l.grant(1, 2, 3)
	mustLock(t, l.lock(soon(t), "n", 1), "n/1")
	ctx, cancel := context.WithCancel(soon(t))
	second := l.lock(ctx, "n", 2)
	l.awaitKeys("n", 2)
	third := l.lock(soon(t), "n", 3)
	l.awaitKeys("n", 3)
	cancel()
	_, err := get(t, second)
	wantError(t, err, codes.Canceled, "context canceled")
	l.awaitKeys("n", 2)
	if got := l.keys("n"); !slices.Equal(got, []string{"n/1=", "n/3="}) {
		t.Errorf("the queue is %v", got)
	}
	l.unlock("n/1")
	mustLock(t, third, "n/3")
}

// TestLockAcrossCompactions: a compaction while one waits changes nothing.
func TestLockAcrossCompactions(t *testing.T) {
	l := newLocal(t)
	l.grant(1, 2)
	mustLock(t, l.lock(soon(t), "n", 1), "n/1")
	second := l.lock(soon(t), "n", 2)
	l.awaitKeys("n", 2)
	for range 5 {
		mustLock(t, l.lock(soon(t), "other", 1), "other/1")
		l.unlock("other/1")
		l.compact()
	}
	l.unlock("n/1")
	mustLock(t, second, "n/2")
}

// TestWaitThroughElections: a read that finds no leader is made again, and costs
// nobody its place; one that fails for another reason does.
func TestWaitThroughElections(t *testing.T) {
	detailed, err := status.Convert(rpctypes.ErrGRPCNoLeader).WithDetails(&pb.ResponseHeader{})
	if err != nil {
		t.Fatal(err)
	}
	failures := make(chan error, 4)
	l := newLocal(t)
	l.reads = func() error {
		select {
		case err := <-failures:
			return err
		default:
			return nil
		}
	}
	l.grant(1, 2)
	mustLock(t, l.lock(soon(t), "n", 1), "n/1")
	failures <- detailed.Err()
	failures <- rpctypes.ErrGRPCLeaderChanged
	second := l.lock(soon(t), "n", 2)
	l.awaitKeys("n", 2)
	failures <- rpctypes.ErrGRPCTimeout
	l.unlock("n/1")
	mustLock(t, second, "n/2")

	failures <- rpctypes.ErrGRPCStopped
	if _, err := get(t, l.lock(soon(t), "n", 1)); status.Convert(err).Message() != status.Convert(rpctypes.ErrGRPCStopped).Message() {
		t.Errorf("a member that ends: %v", err)
	}
	if got := l.keys("n"); len(got) != 1 {
		t.Errorf("the queue is %v", got)
	}
	ctx, cancel := context.WithCancel(soon(t))
	l.reads = func() error { cancel(); return rpctypes.ErrGRPCNoLeader }
	if _, err := get(t, l.lock(ctx, "n", 1)); status.Code(err) != codes.Canceled {
		t.Errorf("a caller who went while there was no leader: %v", err)
	}
}

// TestLockWithoutLease: the lock is given a lease of its own.
func TestLockWithoutLease(t *testing.T) {
	l := newLocal(t)
	mustLock(t, l.lock(soon(t), "n", 0), "n/abcde")
	all, err := l.m.Leases()
	if err != nil || len(all) != 1 || all[0].TTL != 60 {
		t.Errorf("%v, %v", all, err)
	}
	l.revoke(0xabcde)
	if got := l.keys("n"); len(got) != 0 {
		t.Errorf("left: %v", got)
	}
}

// TestLockExcludes runs random callers that unlock, go away or lose their
// leases: whoever has the lock is the first of the queue until it ends that
// itself, and everybody has it in the end.
func TestLockExcludes(t *testing.T) {
	const unlocks, goesAway, losesIt = 0, 1, 2
	l := newLocal(t)
	next := int64(0)
	rapid.Check(t, func(rt *rapid.T) {
		lives := rapid.SliceOfN(rapid.IntRange(unlocks, losesIt), 2, 6).Draw(rt, "lives")
		done := make(chan error, len(lives))
		for _, life := range lives {
			next++
			id := next
			l.grant(id)
			ctx, cancel := context.WithCancel(soon(t))
			go func() {
				defer cancel()
				resp, err := l.locks.Lock(ctx, &v3lockpb.LockRequest{Name: []byte("n"), Lease: id})
				if err == nil && l.keys("n")[0] != string(resp.GetKey())+"=" {
					err = fmt.Errorf("%s has the lock, the queue is %v", resp.GetKey(), l.keys("n"))
				}
				switch {
				case err == nil && life == unlocks:
					_, err = l.locks.Unlock(ctx, &v3lockpb.UnlockRequest{Key: resp.GetKey()})
				case err == nil || life == goesAway && status.Code(err) == codes.Canceled:
					err = l.end(id)
				}
				done <- err
			}()
			if life == goesAway {
				cancel()
			}
		}
		for range lives {
			select {
			case err := <-done:
				if err != nil {
					rt.Error(err)
				}
			case <-soon(t).Done():
				rt.Fatalf("nobody has the lock: %v", l.keys("n"))
			}
		}
		l.awaitKeys("n", 0)
	})
}

// TestDescriptors: the services name etcd's own messages, in the files by which
// etcd's module registers them.
func TestDescriptors(t *testing.T) {
	for _, file := range []protoreflect.FileDescriptor{v3lockpb.File_v3lockpb_v3lock_proto, v3electionpb.File_v3electionpb_v3election_proto} {
		for i := range file.Imports().Len() {
			if imp := file.Imports().Get(i); imp.IsPlaceholder() {
				t.Errorf("%s imports %s, which etcd's module does not register", file.Path(), imp.Path())
			}
		}
	}
	header := v3lockpb.File_v3lockpb_v3lock_proto.Messages().ByName("LockResponse").Fields().ByName("header").Message()
	if want := (&pb.ResponseHeader{}).ProtoReflect().Descriptor(); header != want {
		t.Errorf("the header is %v, want %v", header, want)
	}
}

// TestWire holds the bytes of a message of each service against etcd's numbers.
func TestWire(t *testing.T) {
	for _, c := range []struct {
		msg  proto.Message
		want string
	}{
		{&v3lockpb.LockRequest{Name: []byte("n"), Lease: 5}, "0a016e1005"},
		{&v3lockpb.LockResponse{Header: &pb.ResponseHeader{Revision: 7}, Key: []byte("k")}, "0a02180712016b"},
		{&v3lockpb.UnlockRequest{Key: []byte("k")}, "0a016b"},
		{&v3electionpb.CampaignRequest{Name: []byte("n"), Lease: 5, Value: []byte("v")}, "0a016e10051a0176"},
		{&v3electionpb.CampaignResponse{Leader: &v3electionpb.LeaderKey{Name: []byte("n"), Key: []byte("k"), Rev: 3, Lease: 5}},
			"120a0a016e12016b18032005"},
		{&v3electionpb.ProclaimRequest{Leader: &v3electionpb.LeaderKey{Rev: 3}, Value: []byte("v")}, "0a02180312" + "0176"},
		{&v3electionpb.ResignRequest{Leader: &v3electionpb.LeaderKey{Rev: 3}}, "0a021803"},
		{&v3electionpb.LeaderResponse{Kv: &mvccpb.KeyValue{Key: []byte("k")}}, "12030a016b"},
	} {
		b, err := proto.Marshal(c.msg)
		if got := hex.EncodeToString(b); err != nil || got != c.want {
			t.Errorf("%T: %s, %v, want %s", c.msg, got, err, c.want)
		}
	}
}
