package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"sync"
	"testing"
	"time"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	gstatus "google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	"github.com/chainfire/cfseed/internal/fault"
	"github.com/chainfire/cfseed/internal/fault/rpcfault"
	entryv1 "github.com/chainfire/cfseed/proto/chainfire/entry/v1"
	chainfirev1 "github.com/chainfire/cfseed/proto/chainfire/v1"
)

// fakeCluster is three members a, b, c without Raft: what they answer follows
// from the names that they are asked about. It records the requests.
type fakeCluster struct {
	mu      sync.Mutex
	members []*fakeMember
	calls   []string
}

// fakeMember is one of them on a loopback port.
type fakeMember struct {
	chainfirev1.UnimplementedClusterServer
	chainfirev1.UnimplementedSeedServer
	etcdserverpb.UnimplementedKVServer
	etcdserverpb.UnimplementedWatchServer
	cluster  *fakeCluster
	id       uint64
	name     string
	url      string
	server   *grpc.Server
	digest   byte
	applied  uint64
	unlisted bool // publishes no client URL
	silent   bool // tells nobody its status
	// forgotten is the first index whose digest it knows, if above 50.
	forgotten uint64
}

func startFakeCluster(t *testing.T) *fakeCluster {
	t.Helper()
	c := &fakeCluster{}
	var serving sync.WaitGroup
	for i, name := range []string{"a", "b", "c"} {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		m := &fakeMember{cluster: c, id: 0xa1 + uint64(i), name: name, url: "http://" + l.Addr().String(),
			server: grpc.NewServer(), digest: 0x5e, applied: 100 + uint64(i)}
		chainfirev1.RegisterClusterServer(m.server, m)
		chainfirev1.RegisterSeedServer(m.server, m)
		etcdserverpb.RegisterKVServer(m.server, m)
		etcdserverpb.RegisterWatchServer(m.server, m)
		c.members = append(c.members, m)
		serving.Add(1)
		go func() {
			defer serving.Done()
			if err := m.server.Serve(l); err != nil && !errors.Is(err, grpc.ErrServerStopped) {
				t.Error(err)
			}
		}()
	}
	t.Cleanup(func() {
		for _, m := range c.members {
			m.server.Stop()
		}
		serving.Wait()
	})
	return c
}

// record notes a request as one line.
func (m *fakeMember) record(rpc string, req proto.Message) {
	text, err := protojson.MarshalOptions{UseProtoNames: true}.Marshal(req)
	if err != nil {
		text = []byte(err.Error())
	}
	var compact bytes.Buffer
	if json.Compact(&compact, text) != nil { // protojson varies its blanks
		compact.Write(text)
	}
	m.cluster.mu.Lock()
	defer m.cluster.mu.Unlock()
	m.cluster.calls = append(m.cluster.calls, fmt.Sprintf("%s: %s %s", m.name, rpc, compact.String()))
}

func (c *fakeCluster) list() []*chainfirev1.Member {
	var out []*chainfirev1.Member
	for _, m := range c.members {
		pm := &chainfirev1.Member{Id: m.id, Name: m.name, Role: "voter", State: "member", PeerUrls: []string{"http://" + m.name + ":2380"}}
		if !m.unlisted {
			pm.ClientUrls = []string{m.url}
		}
		out = append(out, pm)
	}
	return append(out, &chainfirev1.Member{Id: 0xd4, Name: "d", Role: "voter", State: "reserved", PeerUrls: []string{"http://d:2380"}})
}

func (m *fakeMember) MemberList(_ context.Context, req *chainfirev1.MemberListRequest) (*chainfirev1.MemberListResponse, error) {
	m.record("MemberList", req)
	return &chainfirev1.MemberListResponse{ClusterId: 0xc1, Members: m.cluster.list()}, nil
}

// change answers a change of member id: 0xee is nobody, 0xbb is refused.
func (m *fakeMember) change(rpc string, req proto.Message, id uint64) ([]*chainfirev1.Member, error) {
	m.record(rpc, req)
	switch id {
	case 0xee:
		return nil, rpcfault.ToStatus(fault.Newf(fault.Usage, "", "no member 00000000000000ee"))
	case 0xbb:
		return nil, rpcfault.ToStatus(fault.Newf(fault.Refused, "", "the quorum would be lost").WithHint("start a member first"))
	}
	return m.cluster.list(), nil
}

func (m *fakeMember) MemberPromote(_ context.Context, req *chainfirev1.MemberPromoteRequest) (*chainfirev1.MemberPromoteResponse, error) {
	members, err := m.change("MemberPromote", req, req.GetId())
	return &chainfirev1.MemberPromoteResponse{Members: members}, err
}

func (m *fakeMember) MemberRemove(_ context.Context, req *chainfirev1.MemberRemoveRequest) (*chainfirev1.MemberRemoveResponse, error) {
	members, err := m.change("MemberRemove", req, req.GetId())
	return &chainfirev1.MemberRemoveResponse{Members: members}, err
}

func (m *fakeMember) MemberUpdate(_ context.Context, req *chainfirev1.MemberUpdateRequest) (*chainfirev1.MemberUpdateResponse, error) {
	members, err := m.change("MemberUpdate", req, req.GetId())
	return &chainfirev1.MemberUpdateResponse{Members: members}, err
}

// MemberAdd's outcome follows from the newcomer's name.
func (m *fakeMember) MemberAdd(req *chainfirev1.MemberAddRequest, stream grpc.ServerStreamingServer[chainfirev1.MemberAddResponse]) error {
	m.record("MemberAdd", req)
	phase := func(name string) {
		_ = stream.Send(&chainfirev1.MemberAddResponse{Event: &chainfirev1.MemberAddResponse_Phase{Phase: &chainfirev1.PhaseStarted{Name: name}}})
	}
	switch name := req.GetName(); {
	case name == "nobody":
		return rpcfault.ToStatus(fault.Newf(fault.Unreachable, "probe "+req.GetPeerUrls()[0], "nobody waits there").
			WithHint("cfseed node --name nobody --await-seed"))
	case name == "silent":
		phase("seed")
		<-stream.Context().Done()
		return stream.Context().Err()
	case name == "cut" && m.name == "a":
		phase("reserve")
		return nil // no result
	case name == "killed" && m.name == "a":
		phase("seed")
		return gstatus.Error(codes.Unavailable, "transport is closing")
	case name == "lost":
		return rpcfault.ToStatus(fault.Newf(fault.LeaseLost, "seed", "the log was dropped"))
	}
	for _, name := range []string{"reserve", "seed"} {
		phase(name)
	}
	_ = stream.Send(&chainfirev1.MemberAddResponse{Event: &chainfirev1.MemberAddResponse_Transfer{
		Transfer: &chainfirev1.TransferProgress{Queue: &chainfirev1.SeedQueue{Source: "http://b:2380", Served: 8, Waiting: 2}}}})
	for _, done := range []uint64{0, 512, 1024} {
		_ = stream.Send(&chainfirev1.MemberAddResponse{Event: &chainfirev1.MemberAddResponse_Transfer{
			Transfer: &chainfirev1.TransferProgress{BytesDone: done, BytesTotal: 1024, BytesWire: done / 2, BytesPerSecond: 2048,
				Forecast: &chainfirev1.Forecast{Converges: done != 512, Seconds: 40.5, EntriesBehind: 3100, WrittenBytesPerSecond: 8 << 20,
					FetchedBytesPerSecond: 6 << 20, NeededBytesPerSecond: 12 << 20, LeaseBytesNeeded: 2 << 30}}}})
	}
	phase("promote")
	result := &chainfirev1.MemberAddResult{MemberId: 0xd4, Name: req.GetName(), Role: "voter", Position: &entryv1.Position{Term: 2, Index: 90},
		Phases:    []*chainfirev1.Phase{{Name: "reserve", Seconds: 0.5}, {Name: "seed", Seconds: 1.25}},
		BytesWire: proto.Uint64(512), BytesReused: proto.Uint64(0), EntriesAfterAdd: proto.Uint64(3), RaftSnapshotsSent: proto.Uint64(0),
		ClusterId: 0xc1, BytesTotal: proto.Uint64(1024), EntriesSent: proto.Uint64(5),
		TailEntries: proto.Uint64(20), SourceId: 0xe5}
	switch name := req.GetName(); {
	case name == "here":
		result = &chainfirev1.MemberAddResult{MemberId: 0xd4, Name: name, Role: "voter", ClusterId: 0xc1, AlreadyMember: true}
	case name == "orphan": // whoever sent it anything is gone
		result.RaftSnapshotsSent, result.EntriesSent, result.SourceId = nil, nil, 0
	}
	if req.GetLearner() {
		result.Role = "learner"
	}
	if req.GetNoSeed() {
		result = &chainfirev1.MemberAddResult{MemberId: 0xd4, Name: req.GetName(), Role: "voter", ClusterId: 0xc1,
			BytesWire: proto.Uint64(0), BytesReused: proto.Uint64(0), Phases: result.GetPhases()[:1]}
	}
	return stream.Send(&chainfirev1.MemberAddResponse{Event: &chainfirev1.MemberAddResponse_Result{Result: result}})
}

func (m *fakeMember) Status(_ context.Context, req *chainfirev1.StatusRequest) (*chainfirev1.StatusResponse, error) {
	m.record("Status", req)
	if m.silent {
		return nil, gstatus.Error(codes.PermissionDenied, "not for everybody")
	}
	return &chainfirev1.StatusResponse{ClusterId: 0xc1, MemberId: m.id, Leader: 0xa1, Term: 2, FirstIndex: 5, LastIndex: 101, Commit: 101,
		Members: []*chainfirev1.MemberStatus{
			{Id: 0xa1, Name: "a", Role: "voter", State: "member", Reachable: true, Applied: 101, Match: 101, Revision: 9, Digest: []byte{1, 2}, DbBytes: 4096},
			{Id: 0xb2, Name: "b", Role: "learner", State: "member", Applied: 90, Match: 90, Lag: 11},
		},
		Seeds:  []*chainfirev1.SeedStatus{{LeaseId: 7, Target: "d", Percent: 50, BytesPerSecond: 1 << 20}},
		Leases: []*chainfirev1.LeaseStatus{{Id: 7, Hold: 88, MemberId: 0xd4, TtlMs: 60000, CapBytes: 1 << 30, Target: "d"}},
	}, nil
}

func (m *fakeMember) DigestAt(_ context.Context, req *chainfirev1.DigestAtRequest) (*chainfirev1.DigestAtResponse, error) {
	m.record("DigestAt", req)
	index := req.GetIndex()
	switch {
	case index == 0:
		index = m.applied
	case index < max(50, m.forgotten):
		return nil, rpcfault.ToStatus(fault.Newf(fault.Refused, "", "digests are kept from index 50 on"))
	}
	return &chainfirev1.DigestAtResponse{Index: index, Digest: bytes.Repeat([]byte{m.digest}, 16), Revision: index - 10}, nil
}

func (m *fakeMember) TransferSnapshot(req *chainfirev1.TransferSnapshotRequest, stream grpc.ServerStreamingServer[chainfirev1.TransferSnapshotResponse]) error {
	m.record("TransferSnapshot", req)
	switch req.GetTargetUrl() {
	case "http://cut:1":
		return nil // no result
	case "http://silent:1":
		<-stream.Context().Done()
		return stream.Context().Err()
	case "http://member:1":
		return rpcfault.ToStatus(fault.Newf(fault.NotEmpty, "offer", "the target is a member"))
	}
	_ = stream.Send(&chainfirev1.TransferSnapshotResponse{Event: &chainfirev1.TransferSnapshotResponse_Transfer{
		Transfer: &chainfirev1.TransferProgress{BytesDone: 1024, BytesTotal: 1024, BytesWire: 512, BytesPerSecond: 2048}}})
	return stream.Send(&chainfirev1.TransferSnapshotResponse{Event: &chainfirev1.TransferSnapshotResponse_Result{Result: &chainfirev1.TransferResult{
		Meta: &chainfirev1.SnapshotMeta{ClusterId: 0xc1, Position: &entryv1.Position{Term: 2, Index: 90}, Revision: 9, Files: 4,
			BytesTotal: 1024, LeaseId: 7, ManifestRoot: []byte{0xab, 0xcd}},
		BytesWire: 512, Seconds: 1.5, AlreadyComplete: req.GetTargetUrl() == "http://done:1",
	}}})
}

func (m *fakeMember) Range(ctx context.Context, req *etcdserverpb.RangeRequest) (*etcdserverpb.RangeResponse, error) {
	m.record("Range", req)
	resp := &etcdserverpb.RangeResponse{Header: &etcdserverpb.ResponseHeader{Revision: 9}}
	switch string(req.GetKey()) {
	case "nothing":
		return resp, nil
	case "slow":
		<-ctx.Done()
		return nil, ctx.Err()
	case "old":
		return nil, gstatus.Error(codes.OutOfRange, "etcdserver: mvcc: required revision has been compacted")
	case "leaderless":
		return nil, gstatus.Error(codes.Unavailable, "etcdserver: no leader")
	}
	value := []byte("value")
	if req.GetKeysOnly() {
		value = nil
	}
	resp.Kvs = []*mvccpb.KeyValue{{Key: []byte("k1"), Value: value, CreateRevision: 2, ModRevision: 3, Version: 2}}
	resp.Count = 1
	if len(req.GetRangeEnd()) > 0 {
		resp.Kvs = append(resp.Kvs, &mvccpb.KeyValue{Key: []byte{0xff}, Value: value, CreateRevision: 4, ModRevision: 4, Version: 1})
		resp.Count, resp.More = 3, true
	}
	if req.GetCountOnly() {
		resp.Kvs, resp.More = nil, false
	}
	return resp, nil
}

func (m *fakeMember) Put(_ context.Context, req *etcdserverpb.PutRequest) (*etcdserverpb.PutResponse, error) {
	m.record("Put", req)
	switch {
	case string(req.GetKey()) == "follower" && m.name == "a":
		return nil, rpcfault.ToStatus(fault.Newf(fault.NotLeader, "", "not the leader"))
	case string(req.GetKey()) == "broken":
		return nil, gstatus.Error(codes.Unavailable, "connection reset")
	case string(req.GetKey()) == "full":
		return nil, gstatus.Error(codes.ResourceExhausted, "etcdserver: mvcc: database space exceeded")
	}
	resp := &etcdserverpb.PutResponse{Header: &etcdserverpb.ResponseHeader{Revision: 10}}
	if req.GetPrevKv() {
		resp.PrevKv = &mvccpb.KeyValue{Key: req.GetKey(), Value: []byte("before"), CreateRevision: 2, ModRevision: 3, Version: 2}
	}
	return resp, nil
}

func (m *fakeMember) DeleteRange(_ context.Context, req *etcdserverpb.DeleteRangeRequest) (*etcdserverpb.DeleteRangeResponse, error) {
	m.record("DeleteRange", req)
	resp := &etcdserverpb.DeleteRangeResponse{Header: &etcdserverpb.ResponseHeader{Revision: 11}, Deleted: 2}
	if req.GetPrevKv() {
		for _, value := range []string{"one", "two"} {
			resp.PrevKvs = append(resp.PrevKvs, &mvccpb.KeyValue{Key: req.GetKey(), Value: []byte(value), CreateRevision: 2, ModRevision: 3, Version: 2})
		}
	}
	return resp, nil
}

func (c *fakeCluster) callCount() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.calls)
}

// awaitCall returns when n requests were recorded.
func (c *fakeCluster) awaitCall(t *testing.T, n int) {
	t.Helper()
	deadline := time.After(10 * time.Second)
	for c.callCount() < n {
		select {
		case <-deadline:
			t.Fatalf("%d calls, want %d", c.callCount(), n)
		case <-time.After(time.Millisecond):
		}
	}
}

// failingMember answers Status with one error.
type failingMember struct {
	chainfirev1.UnimplementedClusterServer
	err error
}

func (m failingMember) Status(context.Context, *chainfirev1.StatusRequest) (*chainfirev1.StatusResponse, error) {
	return nil, rpcfault.ToStatus(m.err)
}

// serveStatusError starts a member whose Status fails with err.
func serveStatusError(t *testing.T, err error) string {
	t.Helper()
	l, lerr := net.Listen("tcp", "127.0.0.1:0")
	if lerr != nil {
		t.Fatal(lerr)
	}
	server := grpc.NewServer()
	chainfirev1.RegisterClusterServer(server, failingMember{err: err})
	done := make(chan error, 1)
	go func() { done <- server.Serve(l) }()
	t.Cleanup(func() { server.Stop(); <-done })
	return l.Addr().String()
}
