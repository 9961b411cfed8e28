package transfer

import (
	"context"
	"errors"
	"io"
	"sync"
	"testing"

	"golang.org/x/time/rate"
	"google.golang.org/grpc"

	"github.com/chainfire/cfseed/internal/fault"
	"github.com/chainfire/cfseed/internal/fault/rpcfault"
	chainfirev1 "github.com/chainfire/cfseed/proto/chainfire/v1"
	"github.com/chainfire/cfseed/snapshot/record"
)

// drainRecords reads a stream to its end.
func drainRecords(stream grpc.ServerStreamingClient[chainfirev1.GetSnapshotResponse], err error) error {
	for err == nil {
		_, err = stream.Recv()
	}
	if errors.Is(err, io.EOF) {
		return nil
	}
	return rpcfault.FromStatus("records", err)
}

// TestRecordRequestsAreChecked: what a target asks for is checked.
func TestRecordRequestsAreChecked(t *testing.T) {
	seed := recordSeed(t, 2, 10_000)
	src := startSource(t, nil, []*memSeed{seed})
	c := client(t, src.addr)
	open, err := c.OpenSeed(t.Context(), &chainfirev1.OpenSeedRequest{})
	if err != nil {
		t.Fatal(err)
	}
	root, lease := seed.root(), open.GetMeta().GetLeaseId()
	list := func(r *chainfirev1.ListRecordsRequest) func() error {
		return func() error { return drainRecords(c.ListRecords(t.Context(), r)) }
	}
	pick := func(r *chainfirev1.PickRecordsRequest) func() error {
		return func() error { return drainRecords(c.PickRecords(t.Context(), r)) }
	}
	describe := func(r *chainfirev1.DescribeTablesRequest) func() error {
		return func() error {
			_, err := c.DescribeTables(t.Context(), r)
			return when(err != nil, rpcfault.FromStatus("describe", err))
		}
	}
	all := record.NewWanted(uint64(len(recordsOf(seed.files[0]))))
	for name, tc := range map[string]struct {
		call func() error
		code fault.Code
	}{
		"a list":                {list(&chainfirev1.ListRecordsRequest{LeaseId: lease, ManifestRoot: root[:], File: 1}), ""},
		"of a file beyond":      {list(&chainfirev1.ListRecordsRequest{LeaseId: lease, ManifestRoot: root[:], File: 1 << 31}), fault.Usage},
		"of no table":           {list(&chainfirev1.ListRecordsRequest{LeaseId: lease, ManifestRoot: root[:], File: 2}), fault.Usage},
		"short root":            {list(&chainfirev1.ListRecordsRequest{LeaseId: lease, ManifestRoot: root[:3]}), fault.Usage},
		"another root":          {list(&chainfirev1.ListRecordsRequest{LeaseId: lease, ManifestRoot: make([]byte, 32)}), fault.Unreachable},
		"another lease":         {list(&chainfirev1.ListRecordsRequest{LeaseId: 999, ManifestRoot: root[:]}), fault.LeaseLost},
		"compression":           {list(&chainfirev1.ListRecordsRequest{LeaseId: lease, ManifestRoot: root[:], Compression: "rar"}), fault.Usage},
		"none wanted":           {pick(&chainfirev1.PickRecordsRequest{LeaseId: lease, ManifestRoot: root[:], Wanted: all.Encode()}), ""},
		"of another table":      {pick(&chainfirev1.PickRecordsRequest{LeaseId: lease, ManifestRoot: root[:], File: 1, Wanted: record.NewWanted(3).Encode()}), fault.Usage},
		"nonsense wanted":       {pick(&chainfirev1.PickRecordsRequest{LeaseId: lease, ManifestRoot: root[:], Wanted: []byte{9, 9, 9}}), fault.Corrupt},
		"much wanted":           {pick(&chainfirev1.PickRecordsRequest{LeaseId: lease, ManifestRoot: root[:], Wanted: make([]byte, 1<<20)}), fault.Corrupt},
		"a description":         {describe(&chainfirev1.DescribeTablesRequest{LeaseId: lease, ManifestRoot: root[:], Files: []uint32{1, 0}}), ""},
		"descriptions too many": {describe(&chainfirev1.DescribeTablesRequest{LeaseId: lease, ManifestRoot: root[:], Files: make([]uint32, maxDescribed+1)}), fault.Usage},
		"described: no table":   {describe(&chainfirev1.DescribeTablesRequest{LeaseId: lease, ManifestRoot: root[:], Files: []uint32{3}}), fault.Usage},
		"described: short root": {describe(&chainfirev1.DescribeTablesRequest{LeaseId: lease, ManifestRoot: root[:3]}), fault.Usage},
	} {
		if err := tc.call(); fault.CodeOf(err) != tc.code {
			t.Errorf("%s: %v (%s), want %q", name, err, fault.CodeOf(err), tc.code)
		}
	}
	src.leases.expireAll()
	wantCode(t, describe(&chainfirev1.DescribeTablesRequest{LeaseId: lease, ManifestRoot: root[:]})(), fault.LeaseLost)
}

// Closing the server ends a list under way.
func TestCloseEndsLists(t *testing.T) {
	seed := recordSeed(t, 1, 1<<20)
	src := startSource(t, nil, []*memSeed{seed})
	reached := make(chan struct{})
	var once sync.Once
	seed.records.each = func(int) error { once.Do(func() { close(reached) }); return nil }
	c := client(t, src.addr)
	open, err := c.OpenSeed(t.Context(), &chainfirev1.OpenSeedRequest{})
	if err != nil {
		t.Fatal(err)
	}
	root := seed.root()
	ended := make(chan error, 1)
	go func() {
		for { // until the server is gone
			if err := drainRecords(c.ListRecords(t.Context(), &chainfirev1.ListRecordsRequest{LeaseId: open.GetMeta().GetLeaseId(), ManifestRoot: root[:]})); err != nil {
				ended <- err
				return
			}
		}
	}()
	<-reached
	src.stop()
	if err := <-ended; err == nil {
		t.Error("the list ended well")
	}
}

// TestRecordsKeepToLimits: what is read of tables counts for the pace, and what is
// sent for the limits of the rate, as chunks of files do; so does what is asked.
func TestRecordsKeepToLimits(t *testing.T) {
	seed := recordSeed(t, 1, 10_000)
	l, err := newLayout(seed.encoded)
	if err != nil {
		t.Fatal(err)
	}
	var out frames
	limiter := rate.NewLimiter(1e-9, 1<<20) // refills never
	snd := &sender{ctx: t.Context(), alive: func() error { return nil }, seed: seed, layout: l, pool: newBufferPool(), choice: &chooser{},
		limiters: []*rate.Limiter{limiter}, pace: NewPace(), send: collect(&out)}
	if err := snd.records(func(o *recordStream) error { return o.add(make([]byte, 300_000), 3<<20) }); err != nil {
		t.Fatal(err)
	}
	if used := 1<<20 - limiter.Tokens(); used < 299_999 || used > 300_001 {
		t.Errorf("%f bytes were taken from the limit", used)
	}
	snd.pace.mu.Lock()
	defer snd.pace.mu.Unlock()
	if snd.pace.sent != 3<<20 {
		t.Errorf("the pace knows of %d bytes", snd.pace.sent)
	}
	wanted := record.NewWanted(1000)
	ctx, cancel := context.WithCancel(t.Context())
	cancel() // nothing is called
	up := rate.NewLimiter(1e-9, 4)
	src := &RecordSource{limiter: up, r: &round{puller: &puller{}}}
	if err := src.Pick(ctx, 0, wanted, nil); err == nil || src.wire != 0 {
		t.Errorf("%v: a question of %d bytes passed a limit of 4", err, len(wanted.Encode()))
	}
}
