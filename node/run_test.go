package node

import (
	"context"
	"crypto/rand"
	"fmt"
	"log/slog"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"

	"github.com/chainfire/cfseed/internal/fault"
	chainfirev1 "github.com/chainfire/cfseed/proto/chainfire/v1"
)

const patience = 30 * time.Second

// The times of a member that is alone. Several have those of the product: on a
// busy machine each of them may be silent for longer than these.
const (
	soloHeartbeat = 20 * time.Millisecond
	soloElection  = 200 * time.Millisecond
)

// several adds the times of members that are not alone.
func several(cfg Config) Config {
	cfg.Heartbeat, cfg.Election = DefaultHeartbeat, DefaultElection
	return cfg
}

// running is a node in this process.
type running struct {
	t      *testing.T
	stop   context.CancelFunc
	ended  chan struct{}
	err    error
	lines  chan string
	phases *phases

	client, peer, id string
}

// phases hears which phases of a join a node has begun, from its log.
type phases struct {
	slog.Handler
	mu   sync.Mutex
	seen map[string]chan struct{}
}

func (p *phases) Enabled(context.Context, slog.Level) bool { return true }
func (p *phases) WithAttrs([]slog.Attr) slog.Handler       { return p }
func (p *phases) WithGroup(string) slog.Handler            { return p }
func (p *phases) Handle(_ context.Context, r slog.Record) error {
	if r.Message == "join" {
		r.Attrs(func(a slog.Attr) bool {
			if a.Key == "phase" {
				p.close(a.Value.String())
			}
			return true
		})
	}
	return nil
}

func (p *phases) of(name string) chan struct{} {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.seen[name] == nil {
		p.seen[name] = make(chan struct{})
	}
	return p.seen[name]
}

func (p *phases) close(name string) {
	c := p.of(name)
	p.mu.Lock()
	defer p.mu.Unlock()
	select {
	case <-c:
	default:
		close(c)
	}
}

// start runs a node on loopback ports that the system chooses.
func start(t *testing.T, name string, cfg Config) *running {
	t.Helper()
	r := &running{t: t, ended: make(chan struct{}), lines: make(chan string, 16),
		phases: &phases{seen: map[string]chan struct{}{}}}
	cfg.Name = name
	if cfg.DataDir == "" {
		cfg.DataDir = filepath.Join(t.TempDir(), name)
	}
	cfg.ListenClient, cfg.ListenPeer = []string{"http://127.0.0.1:0"}, []string{"http://127.0.0.1:0"}
	if cfg.Election == 0 {
		cfg.Heartbeat, cfg.Election = soloHeartbeat, soloElection
	}
	cfg.MemTableBytes = 1 << 20
	cfg.Logger = slog.New(r.phases)
	cfg.Ready = func(line string) { r.lines <- line }
	ctx, stop := context.WithCancel(context.Background())
	r.stop = stop
	go func() {
		defer close(r.ended)
		r.err = Run(ctx, cfg)
	}()
	t.Cleanup(func() {
		stop()
		<-r.ended
	})
	return r
}

// line waits for the line that begins so, and reads its addresses.
func (r *running) line(prefix string) *running {
	r.t.Helper()
	timeout := time.After(patience)
	for {
		select {
		case line := <-r.lines:
			for f := range strings.FieldsSeq(line) {
				switch key, value, _ := strings.Cut(f, "="); key {
				case "client":
					r.client = value
				case "peer":
					r.peer = value
				case "id":
					r.id = value
				}
			}
			if strings.HasPrefix(line, prefix) {
				return r
			}
		case <-r.ended:
			r.t.Fatalf("the node ended before it said %q: %v", prefix, r.err)
		case <-timeout:
			r.t.Fatalf("the node did not say %q", prefix)
		}
	}
}

func (r *running) ready() *running   { r.t.Helper(); return r.line("ready to serve") }
func (r *running) waiting() *running { r.t.Helper(); return r.line("waiting for seed") }

// closes stops the node, which must be clean and soon.
func (r *running) closes(within time.Duration) {
	r.t.Helper()
	r.stop()
	select {
	case <-r.ended:
		if r.err != nil {
			r.t.Errorf("stopped with %v", r.err)
		}
	case <-time.After(within):
		r.t.Errorf("not stopped within %s", within)
	}
}

func connect(t *testing.T, url string) *grpc.ClientConn {
	t.Helper()
	conn, err := grpc.NewClient("passthrough:///"+strings.TrimPrefix(url, "http://"), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return conn
}

func etcdClient(t *testing.T, nodes ...*running) *clientv3.Client {
	t.Helper()
	var endpoints []string
	for _, n := range nodes {
		endpoints = append(endpoints, n.client)
	}
	c, err := clientv3.New(clientv3.Config{Endpoints: endpoints, DialTimeout: patience, Logger: zap.NewNop()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

func within(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	t.Cleanup(cancel)
	return ctx
}

func put(t *testing.T, c *clientv3.Client, key, value string) {
	t.Helper()
	if _, err := c.Put(within(t), key, value); err != nil {
		t.Fatal(err)
	}
}

// TestRunJoin is a life in one process: a first member, one that joins by
// itself, one that waits and is added, reads at each, a removal, a restart at
// other ports, the end.
func TestRunJoin(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "one")
	one := start(t, "one", several(Config{DataDir: dir})).ready()
	c := etcdClient(t, one)
	put(t, c, "a", "1")

	two := start(t, "two", several(Config{Join: []string{one.client}})).ready()
	three := start(t, "three", several(Config{AwaitSeed: true})).waiting()
	stream, err := chainfirev1.NewClusterClient(connect(t, two.client)).MemberAdd(within(t),
		&chainfirev1.MemberAddRequest{Name: "three", PeerUrls: []string{three.peer}})
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	var result *chainfirev1.MemberAddResult
	for result == nil {
		msg, err := stream.Recv()
		if err != nil {
			t.Fatal(err)
		}
		if p := msg.GetPhase().GetName(); p != "" && (len(names) == 0 || names[len(names)-1] != p) {
			names = append(names, p)
		}
		result = msg.GetResult()
	}
	if got := fmt.Sprint(names); got != "[reserve seed verify admit catch_up promote]" {
		t.Errorf("phases %s", got)
	}
	if result.GetRole() != "voter" || result.RaftSnapshotsSent == nil || result.GetRaftSnapshotsSent() != 0 || len(result.GetPhases()) != 6 ||
		result.EntriesSent == nil || result.GetEntriesSent() < result.GetEntriesAfterAdd() {
		t.Errorf("%v", result)
	}
	three.ready()
	put(t, c, "b", "2")
	for _, n := range []*running{one, two, three} {
		for key, want := range map[string]string{"a": "1", "b": "2"} {
			res, err := etcdClient(t, n).Get(within(t), key)
			if err != nil || len(res.Kvs) != 1 || string(res.Kvs[0].Value) != want {
				t.Errorf("%s: %v, %v", n.client, res, err)
			}
		}
		h, err := healthpb.NewHealthClient(connect(t, n.client)).Check(within(t), &healthpb.HealthCheckRequest{})
		if err != nil || h.GetStatus() != healthpb.HealthCheckResponse_SERVING {
			t.Errorf("%s: health %v, %v", n.client, h.GetStatus(), err)
		}
	}
	if again := addAgain(t, two, three); again.GetMemberId() != result.GetMemberId() || again.GetRole() != "voter" {
		t.Errorf("added again: %v", again)
	}

	one.closes(patience) // the leader hands over
	put(t, etcdClient(t, two, three), "c", "3")
	one = start(t, "one", several(Config{DataDir: dir})).ready() // at other ports, which the others learn
	res, err := etcdClient(t, one).Get(within(t), "c")
	if err != nil || len(res.Kvs) != 1 {
		t.Errorf("after the restart: %v, %v", res, err)
	}

	if _, err := chainfirev1.NewClusterClient(connect(t, one.client)).MemberRemove(within(t),
		&chainfirev1.MemberRemoveRequest{Id: result.GetMemberId()}); err != nil {
		t.Fatal(err)
	}
	select {
	case <-three.ended:
		if !fault.Is(three.err, fault.Refused) {
			t.Errorf("a removed member ends with %v", three.err)
		}
	case <-time.After(patience):
		t.Error("a removed member runs on")
	}
	two.closes(patience)
	one.closes(patience)
}

func addAgain(t *testing.T, at, newcomer *running) *chainfirev1.MemberAddResult {
	t.Helper()
	stream, err := chainfirev1.NewClusterClient(connect(t, at.client)).MemberAdd(within(t),
		&chainfirev1.MemberAddRequest{Name: "three", PeerUrls: []string{newcomer.peer}})
	if err != nil {
		t.Fatal(err)
	}
	for {
		msg, err := stream.Recv()
		if err != nil {
			t.Fatal(err)
		}
		if msg.GetResult() != nil {
			return msg.GetResult()
		}
	}
}

// TestCloseIsClean stops a node in each stage of its life; goleak (TestMain)
// sees what it leaves.
func TestCloseIsClean(t *testing.T) {
	const soon = 5 * time.Second
	source := start(t, "source", Config{}).ready()
	c := etcdClient(t, source)
	value := make([]byte, 64<<10)
	for i := range 16 {
		if _, err := rand.Read(value); err != nil {
			t.Fatal(err)
		}
		put(t, c, fmt.Sprint("big", i), string(value))
	}
	t.Run("waiting", func(t *testing.T) {
		start(t, "waiting", Config{AwaitSeed: true}).waiting().closes(soon)
	})
	t.Run("nobody there", func(t *testing.T) {
		n := start(t, "lost", Config{Join: []string{"127.0.0.1:1"}})
		<-n.phases.of("reserve")
		n.closes(soon)
	})
	t.Run("seeding", func(t *testing.T) {
		n := start(t, "seeding", Config{Join: []string{source.client}, RateLimit: 16 << 10})
		<-n.phases.of("seed")
		n.closes(soon)
	})
	t.Run("seeding after an invitation", func(t *testing.T) {
		n := start(t, "invited", Config{AwaitSeed: true, RateLimit: 16 << 10}).waiting()
		stream, err := chainfirev1.NewClusterClient(connect(t, source.client)).MemberAdd(within(t),
			&chainfirev1.MemberAddRequest{Name: "invited", PeerUrls: []string{n.peer}})
		if err != nil {
			t.Fatal(err)
		}
		<-n.phases.of("seed")
		n.closes(soon)
		for err == nil { // the follower hears the end as well
			_, err = stream.Recv()
		}
	})
	t.Run("running", func(t *testing.T) { source.closes(soon) })
}
