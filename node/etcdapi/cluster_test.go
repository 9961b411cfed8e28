package etcdapi_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"
	reflectionpb "google.golang.org/grpc/reflection/grpc_reflection_v1"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/emptypb"

	"github.com/chainfire/cfseed/internal/fault"
	"github.com/chainfire/cfseed/internal/state/envelope"
	"github.com/chainfire/cfseed/node/etcdapi"
	entryv1 "github.com/chainfire/cfseed/proto/chainfire/entry/v1"
	chainfirev1 "github.com/chainfire/cfseed/proto/chainfire/v1"
)

// members is the list as a client prints it.
func members(list []*pb.Member) string {
	var out []string
	for _, m := range list {
		role := "voter"
		if m.GetIsLearner() {
			role = "learner"
		}
		out = append(out, fmt.Sprintf("%q %v %v %s", m.GetName(), m.GetPeerURLs(), m.GetClientURLs(), role))
	}
	return strings.Join(out, "; ")
}

func TestMemberLife(t *testing.T) {
	s := serve(t, etcdapi.Options{}, nil)
	list := func() string {
		t.Helper()
		resp, err := s.cli.MemberList(ctx(t))
		if err != nil {
			t.Fatal(err)
		}
		if h := resp.Header; h.GetClusterId() != clusterID || h.GetMemberId() != selfID || h.GetRaftTerm() != 2 || h.GetRevision() != 0 {
			t.Errorf("header %v", h)
		}
		for i := 1; i < len(resp.Members); i++ {
			if resp.Members[i-1].GetID() >= resp.Members[i].GetID() {
				t.Errorf("members are not in order of their IDs")
			}
		}
		return members(resp.Members)
	}
	const first = `"first" [http://127.0.0.1:2380] [http://127.0.0.1:2379] voter`
	if got := list(); got != first {
		t.Fatal(got)
	}

	added, err := s.cli.MemberAdd(ctx(t), []string{"http://10.0.0.2:2380"})
	if err != nil {
		t.Fatal(err)
	}
	id := added.Member.GetID()
	if got := members([]*pb.Member{added.Member}); got != `"" [http://10.0.0.2:2380] [] learner` || len(added.Members) != 2 {
		t.Fatalf("added %s, %d members", got, len(added.Members))
	}
	again, err := s.cli.MemberAdd(ctx(t), []string{"http://10.0.0.2:2380"})
	if err != nil || again.Member.GetID() != id {
		t.Errorf("the same call again: %v, %v", again, err)
	}
	if _, err := s.cli.MemberAdd(ctx(t), []string{"http://127.0.0.1:2380"}); !errors.Is(err, rpctypes.ErrPeerURLExist) {
		t.Errorf("URL of a member: %v", err)
	}
	if _, err := s.cli.MemberPromote(ctx(t), id); !errors.Is(err, rpctypes.ErrMemberLearnerNotReady) {
		t.Errorf("promoted a reservation: %v", err)
	}
	if _, err := s.cli.MemberUpdate(ctx(t), id, []string{"http://127.0.0.1:2380"}); !errors.Is(err, rpctypes.ErrPeerURLExist) {
		t.Errorf("updated to the URL of another: %v", err)
	}
	up, err := s.cli.MemberUpdate(ctx(t), id, []string{"http://10.0.0.3:2380"})
	if err != nil || !strings.Contains(members(up.Members), "http://10.0.0.3:2380") {
		t.Fatalf("%v, %v", up, err)
	}

	s.addLearner(id)
	if got := list(); !strings.Contains(got, `"" [http://10.0.0.3:2380] [] learner`) {
		t.Error(got)
	}
	promoted, err := s.cli.MemberPromote(ctx(t), id)
	if err != nil || strings.Contains(members(promoted.Members), "learner") {
		t.Fatalf("%v, %v", promoted, err)
	}
	if _, err := s.cli.MemberPromote(ctx(t), id); !errors.Is(err, rpctypes.ErrMemberNotLearner) {
		t.Errorf("promoted twice: %v", err)
	}
	removed, err := s.cli.MemberRemove(ctx(t), id)
	if err != nil || members(removed.Members) != first {
		t.Fatalf("%v, %v", removed, err)
	}
	if got := list(); got != first {
		t.Errorf("a removed member is listed: %s", got)
	}
	if _, err := s.cli.MemberRemove(ctx(t), selfID); !errors.Is(err, rpctypes.ErrMemberNotEnoughStarted) {
		t.Errorf("removed the last voter: %v", err)
	}
	for name, call := range map[string]func() error{
		"remove":  func() error { _, err := s.cli.MemberRemove(ctx(t), id); return err },
		"promote": func() error { _, err := s.cli.MemberPromote(ctx(t), id); return err },
		"update":  func() error { _, err := s.cli.MemberUpdate(ctx(t), id, []string{"http://10.0.0.9:1"}); return err },
	} {
		if err := call(); !errors.Is(err, rpctypes.ErrMemberNotFound) {
			t.Errorf("%s of a removed member: %v", name, err)
		}
	}
}

func TestMemberCallsPassFaultsOn(t *testing.T) {
	s := serve(t, etcdapi.Options{}, nil)
	added, err := s.cli.MemberAddAsLearner(ctx(t), []string{"http://10.0.0.2:2380"})
	if err != nil {
		t.Fatal(err)
	}
	id := added.Member.GetID()
	api := pb.NewClusterClient(s.conn)
	calls := map[string]func() error{
		"add": func() error {
			_, err := api.MemberAdd(ctx(t), &pb.MemberAddRequest{PeerURLs: []string{"http://10.0.0.9:1"}})
			return err
		},
		"remove":  func() error { _, err := api.MemberRemove(ctx(t), &pb.MemberRemoveRequest{ID: id}); return err },
		"promote": func() error { _, err := api.MemberPromote(ctx(t), &pb.MemberPromoteRequest{ID: id}); return err },
		"update": func() error {
			_, err := api.MemberUpdate(ctx(t), &pb.MemberUpdateRequest{ID: id, PeerURLs: []string{"http://10.0.0.9:1"}})
			return err
		},
		"list": func() error { _, err := api.MemberList(ctx(t), &pb.MemberListRequest{Linearizable: true}); return err },
	}
	s.fail(fault.Newf(fault.NotLeader, "propose", "dropped"))
	for name, call := range calls {
		if err := call(); !errors.Is(rpctypes.Error(err), rpctypes.ErrLeaderChanged) {
			t.Errorf("%s: %v", name, err)
		}
	}
	s.fail(fault.Newf(fault.Refused, "promote", "lag of 100 entries").WithHint("wait for it"))
	err = calls["promote"]()
	if !errors.Is(rpctypes.Error(err), rpctypes.ErrMemberLearnerNotReady) {
		t.Errorf("not caught up: %v", err)
	}
	if err := calls["remove"](); !errors.Is(rpctypes.Error(err), rpctypes.ErrUnhealthy) {
		t.Errorf("no quorum would be left: %v", err)
	}
	found := false
	for _, d := range status.Convert(err).Details() {
		info, ok := d.(*chainfirev1.ErrorInfo)
		found = found || ok && info.GetCode() == "refused" && info.GetHint() == "wait for it"
	}
	if !found {
		t.Error("our own words are lost")
	}
	s.fail(fault.Newf(fault.Usage, "member", "gone at the leader"))
	for _, name := range []string{"remove", "promote"} {
		if err := calls[name](); !errors.Is(rpctypes.Error(err), rpctypes.ErrMemberNotFound) {
			t.Errorf("%s of one that the leader does not know: %v", name, err)
		}
	}
	s.fail(nil)
	for _, urls := range [][]string{nil, {"10.0.0.2:2380"}, {"ftp://10.0.0.2:1"}, {"http://10.0.0.2"}, {"http://h:1/path"}, make([]string, 17)} {
		if _, err := api.MemberAdd(ctx(t), &pb.MemberAddRequest{PeerURLs: urls}); !errors.Is(rpctypes.Error(err), rpctypes.ErrMemberBadURLs) {
			t.Errorf("add at %q: %v", urls, err)
		}
		if _, err := api.MemberUpdate(ctx(t), &pb.MemberUpdateRequest{ID: id, PeerURLs: urls}); !errors.Is(rpctypes.Error(err), rpctypes.ErrMemberBadURLs) {
			t.Errorf("update to %q: %v", urls, err)
		}
	}
}

// behind is a member that has not applied what the leader has done for it.
type behind struct{ *local }

func (b behind) RemoveMember(ctx context.Context, id uint64) error {
	apply := func() {
		if err := b.local.RemoveMember(ctx, id); err != nil {
			b.t.Error(err)
		}
	}
	b.late.Store(&apply)
	return nil
}

// The answer to a change shows the change, at a member that is behind as well;
// a member that was removed asks nobody.
func TestMembersAfterAChange(t *testing.T) {
	l := newLocal(t)
	id := l.must(envelope.ReserveMember, &entryv1.ReserveMember{PeerUrls: []string{"http://10.0.0.2:2380"}}).Response.(*entryv1.MemberRecord).GetId()
	s := serveBackend(t, l, behind{l}, etcdapi.Options{}, nil)
	removed, err := s.cli.MemberRemove(ctx(t), id)
	if err != nil || len(removed.Members) != 1 {
		t.Errorf("%v, %v", removed, err)
	}
	l.reads.Store(0)
	if _, err := s.cli.MemberRemove(ctx(t), selfID); err != nil || l.reads.Load() != 0 {
		t.Errorf("%v, %d reads", err, l.reads.Load())
	}
}

func TestRoleDecidesWhatIsServed(t *testing.T) {
	s := serve(t, etcdapi.Options{}, nil)
	kv, maintenance, cluster := pb.NewKVClient(s.conn), pb.NewMaintenanceClient(s.conn), pb.NewClusterClient(s.conn)
	calls := map[string]func(context.Context) error{
		"put": func(c context.Context) error { _, err := kv.Put(c, &pb.PutRequest{Key: []byte("k")}); return err },
		"get": func(c context.Context) error { _, err := kv.Range(c, &pb.RangeRequest{Key: []byte("k")}); return err },
		"local get": func(c context.Context) error {
			_, err := kv.Range(c, &pb.RangeRequest{Key: []byte("k"), Serializable: true})
			return err
		},
		"stream": func(c context.Context) error {
			st, err := kv.RangeStream(c, &pb.RangeRequest{Key: []byte("k"), Serializable: true})
			if err == nil {
				_, err = st.Recv()
			}
			return err
		},
		"members": func(c context.Context) error { _, err := cluster.MemberList(c, &pb.MemberListRequest{}); return err },
		"status":  func(c context.Context) error { _, err := maintenance.Status(c, &pb.StatusRequest{}); return err },
		"health": func(c context.Context) error {
			_, err := healthpb.NewHealthClient(s.conn).Check(c, &healthpb.HealthCheckRequest{})
			return err
		},
	}
	for _, c := range []struct {
		name     string
		leader   uint64
		learner  bool
		require  bool
		want     error
		affected string // which calls hear it; the rest succeed
	}{
		{"voter", selfID, false, true, nil, ""},
		{"learner", selfID, true, false, rpctypes.ErrGRPCNotSupportedForLearner, "put get stream members"},
		{"leader required", 0, false, true, rpctypes.ErrGRPCNoLeader, "put get local get stream members status"},
		{"leader not required", 0, false, false, nil, ""},
	} {
		for name, call := range calls {
			t.Run(c.name+" "+name, func(t *testing.T) {
				s.leader.Store(c.leader)
				s.learner.Store(c.learner)
				cx := ctx(t)
				if c.require {
					cx = metadata.AppendToOutgoingContext(cx, rpctypes.MetadataRequireLeaderKey, rpctypes.MetadataHasLeader)
				}
				want := ""
				if strings.Contains(c.affected, name) {
					want = rpctypes.ErrorDesc(c.want)
				}
				got := ""
				if err := call(cx); err != nil {
					got = rpctypes.ErrorDesc(err)
				}
				if got != want {
					t.Errorf("got %q, want %q", got, want)
				}
			})
		}
	}
}

func TestHealthAndReflection(t *testing.T) {
	s := serve(t, etcdapi.Options{}, nil)
	check := func() healthpb.HealthCheckResponse_ServingStatus {
		t.Helper()
		resp, err := healthpb.NewHealthClient(s.conn).Check(ctx(t), &healthpb.HealthCheckRequest{})
		if err != nil {
			t.Fatal(err)
		}
		return resp.GetStatus()
	}
	if st := check(); st != healthpb.HealthCheckResponse_NOT_SERVING {
		t.Errorf("%v before the node is ready", st)
	}
	s.api.SetServing(true)
	if st := check(); st != healthpb.HealthCheckResponse_SERVING {
		t.Errorf("%v when it is", st)
	}
	s.api.Shutdown()
	if st := check(); st != healthpb.HealthCheckResponse_NOT_SERVING {
		t.Errorf("%v at the end", st)
	}
	stream, err := reflectionpb.NewServerReflectionClient(s.conn).ServerReflectionInfo(ctx(t))
	if err != nil {
		t.Fatal(err)
	}
	if err := stream.Send(&reflectionpb.ServerReflectionRequest{MessageRequest: &reflectionpb.ServerReflectionRequest_ListServices{}}); err != nil {
		t.Fatal(err)
	}
	resp, err := stream.Recv()
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, svc := range resp.GetListServicesResponse().GetService() {
		names = append(names, svc.GetName())
	}
	for _, want := range []string{"etcdserverpb.KV", "etcdserverpb.Cluster", "etcdserverpb.Maintenance", "grpc.health.v1.Health"} {
		if !strings.Contains(strings.Join(names, " "), want) {
			t.Errorf("%s is not among %v", want, names)
		}
	}
}

// The gate is asked about every method of every service, by its own name, and
// its no is the last word.
func TestEveryMethodPassesTheGate(t *testing.T) {
	asked := make(chan string, 1)
	s := serve(t, etcdapi.Options{}, func(_ context.Context, method string) error {
		select {
		case asked <- method:
		default:
		}
		return fault.Newf(fault.Permission, "authorize", "not you")
	})
	n := 0
	for service, info := range s.grpc.GetServiceInfo() {
		for _, m := range info.Methods {
			full := "/" + service + "/" + m.Name
			n++
			t.Run(full[1:], func(t *testing.T) {
				err := invoke(ctx(t), s.conn, full, m)
				if status.Code(err) != codes.PermissionDenied || !strings.Contains(err.Error(), "not you") {
					t.Errorf("got %v", err)
				}
				if got := <-asked; got != full {
					t.Errorf("the gate was asked about %s", got)
				}
			})
		}
	}
	if n < 20 {
		t.Errorf("only %d methods are registered", n)
	}
	if s.m.Revision() > 1 || s.proposals.Load() != 0 {
		t.Error("something passed")
	}
}

func invoke(ctx context.Context, conn *grpc.ClientConn, method string, m grpc.MethodInfo) error {
	if !m.IsClientStream && !m.IsServerStream {
		return conn.Invoke(ctx, method, &emptypb.Empty{}, &emptypb.Empty{})
	}
	s, err := conn.NewStream(ctx, &grpc.StreamDesc{ClientStreams: true, ServerStreams: true}, method)
	if err != nil {
		return err
	}
	return s.RecvMsg(&emptypb.Empty{})
}
