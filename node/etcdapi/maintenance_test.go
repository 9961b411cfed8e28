package etcdapi_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/chainfire/cfseed/internal/fault"
	"github.com/chainfire/cfseed/internal/state/envelope"
	"github.com/chainfire/cfseed/internal/state/mvcc"
	"github.com/chainfire/cfseed/node/etcdapi"
	entryv1 "github.com/chainfire/cfseed/proto/chainfire/entry/v1"
)

// upkeep is what a local answers about its maintenance.
type upkeep struct {
	room    atomic.Int64 // a put that costs more does not fit; 0 = all fit
	defrags atomic.Int64
	moved   atomic.Uint64

	closedPictures atomic.Int64
	brokenPicture  error
	pictureEnded   chan struct{}
}

func (l *local) Alarms() []*pb.AlarmMember { return l.m.Alarms() }

func (l *local) Fits(cost int) bool { return l.room.Load() == 0 || int64(cost) <= l.room.Load() }

func (l *local) Hash(context.Context) (uint32, int64, error) { return 7, l.m.Revision(), l.failure() }

func (l *local) HashKV(ctx context.Context, revision int64) (mvcc.Hash, error) {
	if err := l.failure(); err != nil {
		return mvcc.Hash{}, err
	}
	return l.m.HashAt(ctx, revision)
}

func (l *local) Defragment(context.Context) error {
	l.defrags.Add(1)
	return l.failure()
}

func (l *local) MoveLeader(_ context.Context, to uint64) error {
	l.moved.Store(to)
	return l.failure()
}

// picture is a snapshot of some bytes and a hash.
type picture struct {
	text   string
	closed *atomic.Int64
	fail   error
	ended  chan struct{} // closed by Close, where there is one
}

func (p picture) Size() int64 { return int64(len(p.text)) + 32 }
func (p picture) Close() error {
	p.closed.Add(1)
	if p.ended != nil {
		close(p.ended)
	}
	return nil
}

func (p picture) Write(_ context.Context, w io.Writer) error {
	_, err := io.WriteString(w, p.text+strings.Repeat("#", 32))
	return errors.Join(err, p.fail)
}

func (l *local) OpenSnapshot(context.Context) (etcdapi.Snapshot, error) {
	return picture{strings.Repeat("x", 700<<10), &l.closedPictures, l.brokenPicture, l.pictureEnded}, l.failure()
}

func (s *server) endpoint() string { return s.conn.Target()[len("passthrough:///"):] }

func TestMaintenance(t *testing.T) {
	s := serve(t, etcdapi.Options{}, nil)
	st, err := s.cli.Status(ctx(t), s.endpoint())
	if err != nil {
		t.Fatal(err)
	}
	if st.Version != "3.7.0" || st.DbSize != 4096 || st.DbSizeInUse != 1024 || st.DbSizeQuota != 1<<30 || st.Leader != selfID ||
		st.RaftIndex != 11 || st.RaftTerm != 2 || st.RaftAppliedIndex != 10 || st.IsLearner || len(st.Errors) != 1 ||
		st.Header.GetRevision() != s.m.Revision() || st.DowngradeInfo == nil || st.DowngradeInfo.GetEnabled() || st.StorageVersion != "" {
		t.Errorf("%v", st)
	}
	s.must(envelope.Alarm, &pb.AlarmRequest{Action: pb.AlarmRequest_ACTIVATE, MemberID: 5, Alarm: pb.AlarmType_CORRUPT})
	s.leader.Store(0)
	st, err = s.cli.Status(ctx(t), s.endpoint())
	if err != nil || fmt.Sprint(st.Errors) != "[etcdserver: no leader e memberID:5 alarm:CORRUPT]" {
		t.Errorf("without a leader: %v, %v", st, err)
	}
	s.leader.Store(selfID)
	if _, err := s.cli.Defragment(ctx(t), s.endpoint()); err != nil || s.defrags.Load() != 1 {
		t.Errorf("%d, %v", s.defrags.Load(), err)
	}
	c := pb.NewMaintenanceClient(s.conn)
	if h, err := c.Hash(ctx(t), &pb.HashRequest{}); err != nil || h.GetHash() != 7 || h.GetHeader().GetRevision() != s.m.Revision() {
		t.Errorf("%v, %v", h, err)
	}
	s.fail(fault.Newf(fault.Interrupted, "status", "stopping"))
	for name, call := range map[string]func() error{
		"status": func() error { _, err := c.Status(ctx(t), &pb.StatusRequest{}); return err },
		"hash":   func() error { _, err := c.Hash(ctx(t), &pb.HashRequest{}); return err },
		"hashkv": func() error { _, err := c.HashKV(ctx(t), &pb.HashKVRequest{}); return err },
		"defrag": func() error { _, err := c.Defragment(ctx(t), &pb.DefragmentRequest{}); return err },
		"list":   func() error { _, err := c.Alarm(ctx(t), &pb.AlarmRequest{}); return err },
		"raise": func() error {
			_, err := c.Alarm(ctx(t), &pb.AlarmRequest{Action: pb.AlarmRequest_ACTIVATE, Alarm: pb.AlarmType_NOSPACE})
			return err
		},
		"move": func() error { _, err := c.MoveLeader(ctx(t), &pb.MoveLeaderRequest{TargetID: selfID}); return err },
	} {
		if err := call(); !errors.Is(rpctypes.Error(err), rpctypes.ErrStopped) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestDowngrade: what is not supported says so.
func TestDowngrade(t *testing.T) {
	s := serve(t, etcdapi.Options{}, nil)
	c := pb.NewMaintenanceClient(s.conn)
	for action, want := range map[pb.DowngradeRequest_DowngradeAction]error{
		pb.DowngradeRequest_VALIDATE: nil, pb.DowngradeRequest_ENABLE: nil, pb.DowngradeRequest_CANCEL: rpctypes.ErrGRPCNoInflightDowngrade,
	} {
		_, err := c.Downgrade(ctx(t), &pb.DowngradeRequest{Action: action, Version: "3.6.0"})
		if want != nil && !errors.Is(err, want) || want == nil && (status.Code(err) != codes.Unimplemented || !strings.Contains(err.Error(), "downgrade is not supported")) {
			t.Errorf("%s: %v", action, err)
		}
	}
}

// TestSnapshot: the stream says what is left before the hash, and gives what it
// was made of back.
func TestSnapshot(t *testing.T) {
	s := serve(t, etcdapi.Options{}, nil)
	receive := func() (text string, left []uint64, err error) {
		stream, err := pb.NewMaintenanceClient(s.conn).Snapshot(ctx(t), &pb.SnapshotRequest{})
		for err == nil {
			var m *pb.SnapshotResponse
			if m, err = stream.Recv(); err == nil {
				text += string(m.GetBlob())
				left = append(left, m.GetRemainingBytes())
				if m.GetVersion() != "cfseed-archive-1" {
					t.Errorf("version %q", m.GetVersion())
				}
			}
		}
		return text, left, err
	}
	text, left, err := receive()
	if !errors.Is(err, io.EOF) || text != strings.Repeat("x", 700<<10)+strings.Repeat("#", 32) || s.closedPictures.Load() != 1 {
		t.Errorf("%d bytes, %v, closed %d times", len(text), err, s.closedPictures.Load())
	}
	if fmt.Sprint(left) != "[454656 192512 0]" {
		t.Errorf("left %v", left)
	}
	s.brokenPicture = fault.Newf(fault.Corrupt, "read chunk", "damaged")
	if _, _, err := receive(); !errors.Is(rpctypes.Error(err), rpctypes.ErrCorrupt) || s.closedPictures.Load() != 2 {
		t.Errorf("%v, closed %d times", err, s.closedPictures.Load())
	}
}

// TestSnapshotNobodyTakes: a client that takes nothing does not hold a snapshot for
// ever, and hears why it has ended.
func TestSnapshotNobodyTakes(t *testing.T) {
	s := serve(t, etcdapi.Options{SnapshotIdle: 100 * time.Millisecond}, nil)
	s.pictureEnded = make(chan struct{})
	stream, err := pb.NewMaintenanceClient(s.conn).Snapshot(ctx(t), &pb.SnapshotRequest{})
	if err != nil {
		t.Fatal(err)
	}
	select { // nothing is received meanwhile
	case <-s.pictureEnded:
	case <-stream.Context().Done():
		t.Fatal("a snapshot that nobody takes goes on")
	}
	got := 0
	for err == nil {
		var m *pb.SnapshotResponse
		m, err = stream.Recv()
		got += len(m.GetBlob())
	}
	if rpctypes.ErrorDesc(err) != rpctypes.ErrorDesc(rpctypes.ErrGRPCTimeout) || got >= 700<<10 {
		t.Errorf("%d bytes, %v", got, err)
	}
}

func TestAlarm(t *testing.T) {
	s := serve(t, etcdapi.Options{}, nil)
	c := pb.NewMaintenanceClient(s.conn)
	raise := func(action pb.AlarmRequest_AlarmAction, id uint64, kind pb.AlarmType) int {
		t.Helper()
		resp, err := c.Alarm(ctx(t), &pb.AlarmRequest{Action: action, MemberID: id, Alarm: kind})
		if err != nil || resp.GetHeader().GetMemberId() != selfID || resp.GetHeader().GetRevision() != s.m.Revision() {
			t.Fatalf("%v, %v", resp, err)
		}
		return len(resp.GetAlarms())
	}
	if n := raise(pb.AlarmRequest_ACTIVATE, 3, pb.AlarmType_NOSPACE); n != 1 {
		t.Errorf("raised %d", n)
	}
	if n := raise(pb.AlarmRequest_ACTIVATE, 4, pb.AlarmType_CORRUPT); n != 1 {
		t.Errorf("raised %d", n)
	}
	before, reads := s.proposals.Load(), s.reads.Load()
	for kind, want := range map[pb.AlarmType]int{pb.AlarmType_NONE: 2, pb.AlarmType_NOSPACE: 1, pb.AlarmType_CORRUPT: 1} {
		if n := raise(pb.AlarmRequest_GET, 0, kind); n != want {
			t.Errorf("%s: %d stand, want %d", kind, n, want)
		}
	}
	if s.proposals.Load() != before || s.reads.Load() != reads+3 {
		t.Errorf("a list made %d entries and %d read indexes", s.proposals.Load()-before, s.reads.Load()-reads)
	}
	gone, err := s.cli.AlarmDisarm(ctx(t), &clientv3.AlarmMember{})
	if err != nil || len(gone.Alarms) != 2 || len(s.m.Alarms()) != 0 {
		t.Errorf("%v, %v", gone, err)
	}
	if n := raise(pb.AlarmRequest_DEACTIVATE, 3, pb.AlarmType_NOSPACE); n != 0 {
		t.Errorf("disarmed %d", n)
	}
}

// TestQuotaIsHeldBeforeProposing: what does not fit is refused with the alarm
// raised once, and nothing else is proposed.
func TestQuotaIsHeldBeforeProposing(t *testing.T) {
	s := serve(t, etcdapi.Options{}, nil)
	s.room.Store(300)
	big := string(make([]byte, 100))
	putOp := clientv3.OpPut("k", big)
	before := s.proposals.Load()
	for range 2 {
		if _, err := s.cli.Put(ctx(t), "k", big); !errors.Is(err, rpctypes.ErrNoSpace) {
			t.Errorf("put: %v", err)
		}
		if _, err := s.cli.Txn(ctx(t)).Else(putOp).Commit(); !errors.Is(err, rpctypes.ErrNoSpace) {
			t.Errorf("txn: %v", err)
		}
	}
	alarms := s.m.Alarms()
	if len(alarms) != 1 || alarms[0].GetMemberID() != selfID || alarms[0].GetAlarm() != pb.AlarmType_NOSPACE || s.proposals.Load() != before+1 {
		t.Errorf("%v after %d entries", alarms, s.proposals.Load()-before)
	}
	// It fits, but the alarm stands.
	if _, err := s.cli.Put(ctx(t), "k", "v"); !errors.Is(err, rpctypes.ErrNoSpace) {
		t.Errorf("small put: %v", err)
	}
	if _, err := s.cli.Grant(ctx(t), 60); !errors.Is(err, rpctypes.ErrNoSpace) {
		t.Errorf("grant: %v", err)
	}
	for name, call := range map[string]func() error{
		"delete":        func() error { _, err := s.cli.Delete(ctx(t), "k"); return err },
		"get":           func() error { _, err := s.cli.Get(ctx(t), "k"); return err },
		"deleting txn":  func() error { _, err := s.cli.Txn(ctx(t)).Then(clientv3.OpDelete("k")).Commit(); return err },
		"comparing txn": func() error { _, err := s.cli.Txn(ctx(t)).Commit(); return err },
		"compact":       func() error { _, err := s.cli.Compact(ctx(t), s.m.Revision()); return err },
	} {
		if err := call(); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	s.room.Store(1)
	if _, err := s.cli.Grant(ctx(t), 60); !errors.Is(err, rpctypes.ErrNoSpace) {
		t.Errorf("grant: %v", err)
	}
}

func TestHashKV(t *testing.T) {
	s := serve(t, etcdapi.Options{}, nil)
	s.put("a", "1")
	s.put("a", "2")
	h, err := s.cli.HashKV(ctx(t), s.endpoint(), 0)
	if err != nil || h.HashRevision != 3 || h.CompactRevision != -1 || h.Header.GetRevision() != 3 {
		t.Fatalf("%v, %v", h, err)
	}
	if old, err := s.cli.HashKV(ctx(t), s.endpoint(), 2); err != nil || old.Hash == h.Hash || old.HashRevision != 2 || old.Header.GetRevision() != 3 {
		t.Errorf("%v, %v", old, err)
	}
	if _, err := s.cli.Compact(ctx(t), 3); err != nil {
		t.Fatal(err)
	}
	for rev, want := range map[int64]error{2: rpctypes.ErrCompacted, 4: rpctypes.ErrFutureRev} {
		if _, err := s.cli.HashKV(ctx(t), s.endpoint(), rev); !errors.Is(err, want) {
			t.Errorf("at %d: %v", rev, err)
		}
	}
	if now, err := s.cli.HashKV(ctx(t), s.endpoint(), 3); err != nil || now.CompactRevision != 3 {
		t.Errorf("%v, %v", now, err)
	}
}

func TestMoveLeader(t *testing.T) {
	s := serve(t, etcdapi.Options{}, nil)
	res := s.must(envelope.ReserveMember, &entryv1.ReserveMember{PeerUrls: []string{"http://127.0.0.1:3"}, StayLearner: true})
	learner := res.Response.(*entryv1.MemberRecord).GetId()
	for id, want := range map[uint64]error{99: rpctypes.ErrBadLeaderTransferee, learner: rpctypes.ErrBadLeaderTransferee, selfID: nil} {
		if _, err := s.cli.MoveLeader(ctx(t), id); !errors.Is(err, want) {
			t.Errorf("to %x: %v", id, err)
		}
	}
	s.addLearner(learner)
	if _, err := s.cli.MoveLeader(ctx(t), learner); !errors.Is(err, rpctypes.ErrBadLeaderTransferee) {
		t.Errorf("to a learner: %v", err)
	}
	if s.moved.Load() != selfID {
		t.Errorf("moved to %x", s.moved.Load())
	}
	s.fail(fault.Newf(fault.Timeout, "move", "slow"))
	if _, err := s.cli.MoveLeader(ctx(t), selfID); err == nil || !strings.HasSuffix(err.Error(), "etcdserver: request timed out, leader transfer took too long") {
		t.Errorf("%v", err)
	}
	s.leader.Store(99)
	if _, err := s.cli.MoveLeader(ctx(t), selfID); !errors.Is(err, rpctypes.ErrNotLeader) {
		t.Errorf("%v", err)
	}
}

// TestWeb asks for the pages of members in every condition.
func TestWeb(t *testing.T) {
	s := serve(t, etcdapi.Options{Version: "3.7.3"}, nil)
	h := s.api.Handler(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "metrics") }))
	ask := func(method, path string) string {
		t.Helper()
		w := httptest.NewRecorder()
		h.ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), method, path, http.NoBody))
		return fmt.Sprint(w.Code, " ", w.Body)
	}
	check := func(pages map[string]string) {
		t.Helper()
		for path, want := range pages {
			if got := ask(http.MethodGet, path); got != want {
				t.Errorf("%s: %q, want %q", path, got, want)
			}
		}
	}
	const healthy = `200 {"health":"true","reason":""}`
	check(map[string]string{"/metrics": "200 metrics", "/health": healthy, "/livez/serializable_read": "200 ok\n", "/livez?verbose": "200 [+]serializable_read ok\nok\n",
		"/version": `200 {"etcdserver":"3.7.3","etcdcluster":"3.7.0","storage":"unknown"}`})
	for _, path := range []string{"/health", "/version", "/livez", "/readyz"} {
		if got := ask(http.MethodPost, path); got != "405 Method Not Allowed\n" {
			t.Errorf("%s: %q", path, got)
		}
	}
	s.learner.Store(true)
	check(map[string]string{"/readyz/non_learner": "503 [-]non_learner failed: not supported for learner\n\n", "/readyz?exclude=non_learner": "200 ok\n", "/livez": "200 ok\n"})
	s.learner.Store(false)
	s.must(envelope.Alarm, &pb.AlarmRequest{Action: pb.AlarmRequest_ACTIVATE, MemberID: 1, Alarm: pb.AlarmType_NOSPACE})
	check(map[string]string{"/health": `503 {"health":"false","reason":"ALARM NOSPACE"}` + "\n", "/health?exclude=NOSPACE": healthy, "/readyz": "200 ok\n"})
	s.must(envelope.Alarm, &pb.AlarmRequest{Action: pb.AlarmRequest_ACTIVATE, MemberID: 1, Alarm: pb.AlarmType_CORRUPT})
	check(map[string]string{"/health?exclude=NOSPACE": `503 {"health":"false","reason":"ALARM CORRUPT"}` + "\n", "/health?exclude=NOSPACE&exclude=CORRUPT": healthy,
		"/readyz/data_corruption": "503 [-]data_corruption failed: alarm activated: CORRUPT\n\n"})
	s.fail(fault.Newf(fault.Timeout, "read", "no quorum"))
	check(map[string]string{"/health?exclude=NOSPACE&exclude=CORRUPT": `503 {"health":"false","reason":"RANGE ERROR:etcdserver: request timed out"}` + "\n",
		"/readyz/linearizable_read": "503 [-]linearizable_read failed: etcdserver: request timed out\n\n", "/readyz/serializable_read": "200 ok\n"})
}
