package node

import (
	"context"
	"crypto/rand"
	"errors"
	"path/filepath"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"

	"github.com/chainfire/cfseed/internal/datadir"
	"github.com/chainfire/cfseed/internal/fault"
)

// TestMemberRunsAgain: a join that was refused after the member ran leaves
// nothing open in the process, so that the member can be run again, at the same
// addresses, with the same metrics.
func TestMemberRunsAgain(t *testing.T) {
	lines := make(chan string, 4)
	cfg, err := Config{Name: "again", DataDir: filepath.Join(t.TempDir(), "again"), ListenClient: []string{"http://127.0.0.1:0"},
		ListenPeer: []string{"http://127.0.0.1:0"}, ListenMetrics: []string{"http://127.0.0.1:0"},
		Heartbeat: soloHeartbeat, Election: soloElection, Rand: rand.Reader, Ready: func(line string) { lines <- line }}.withDefaults()
	if err != nil {
		t.Fatal(err)
	}
	n := &node{cfg: cfg, dir: datadir.At(cfg.FS, cfg.DataDir), logger: cfg.Logger, registry: registry{prometheus.NewRegistry()}}
	n.metrics = newMetrics(n.registry)
	if n.fronts, err = openFronts(t.Context(), &n.cfg, n.registry.Registry); err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	defer stop()
	g, gctx := errgroup.WithContext(ctx)
	g.Go(func() error { return n.fronts.run(gctx) })
	id, err := n.bootstrap()
	if err != nil {
		t.Fatal(err)
	}
	refused := &earlyError{fault.Newf(fault.Reseed, "admit", "too old")}
	for range 2 {
		err := n.runMember(gctx, id, company{beside: func(context.Context) error { return refused }})
		if sole(err) != error(refused) {
			t.Fatalf("%v", err)
		}
	}
	broken := errors.New("broken")
	if err := n.runMember(gctx, id, company{beside: func(context.Context) error { return broken }}); !errors.Is(err, broken) {
		t.Fatalf("%v", err)
	}
	g.Go(func() error { return n.runMember(gctx, id, company{}) })
	<-lines
	health := healthpb.NewHealthClient(connect(t, n.cfg.AdvertiseClient[0]))
	for {
		h, err := health.Check(within(t), &healthpb.HealthCheckRequest{})
		if err != nil {
			t.Fatal(err)
		}
		if h.GetStatus() == healthpb.HealthCheckResponse_SERVING {
			break
		}
	}
	if _, err := n.registry.Gather(); err != nil {
		t.Errorf("metrics: %v", err)
	}
	stop()
	if err := g.Wait(); err != nil {
		t.Error(err)
	}
}
