package transfer

import (
	"context"
	"testing"

	"github.com/chainfire/cfseed/internal/fault"
	"github.com/chainfire/cfseed/internal/fault/rpcfault"
	"github.com/chainfire/cfseed/internal/ident"
	entryv1 "github.com/chainfire/cfseed/proto/chainfire/entry/v1"
	chainfirev1 "github.com/chainfire/cfseed/proto/chainfire/v1"
)

// fakeTails answers one entry and notes what it was asked for.
type fakeTails struct {
	lease, maxBytes uint64
	after           ident.Position
	err             error
}

func (f *fakeTails) Tail(_ context.Context, lease uint64, after ident.Position, maxBytes uint64) (Tail, error) {
	f.lease, f.after, f.maxBytes = lease, after, maxBytes
	return Tail{Entries: [][]byte{[]byte("entry")}, Applied: ident.Position{Term: 3, Index: 9}, BytesAfter: 5, LeaseBytes: 6, LeaseCap: 7}, f.err
}

func TestGetTail(t *testing.T) {
	seed := seedSpec{}.build(t)
	tails := &fakeTails{}
	src := startSource(t, nil, []*memSeed{seed}, func(c *Config, _ *wire) { c.Tails = tails })
	c := client(t, src.addr)
	req := &chainfirev1.GetTailRequest{LeaseId: 4, After: &entryv1.Position{Term: 2, Index: 8}, MaxBytes: 1 << 40}
	res, err := c.GetTail(t.Context(), req)
	if err != nil || len(res.GetEntries()) != 1 || string(res.GetEntries()[0]) != "entry" || res.GetApplied().GetTerm() != 3 ||
		res.GetApplied().GetIndex() != 9 || res.GetBytesAfter() != 5 || res.GetLeaseBytes() != 6 || res.GetLeaseCapBytes() != 7 {
		t.Errorf("%v, %v", res, err)
	}
	if tails.lease != 4 || tails.after != (ident.Position{Term: 2, Index: 8}) || tails.maxBytes != MaxTail {
		t.Errorf("asked %+v", tails)
	}
	code := func(req *chainfirev1.GetTailRequest) fault.Code {
		_, err := c.GetTail(t.Context(), req)
		return fault.CodeOf(rpcfault.FromStatus("get tail", err))
	}
	tails.err = fault.Newf(fault.Reseed, "tail", "gone")
	if got := code(req); got != fault.Reseed {
		t.Errorf("a log that is gone: %s", got)
	}
	req.ClusterId, req.GenesisNonce = 77, make([]byte, 16)
	if got := code(req); got != fault.Refused {
		t.Errorf("another cluster: %s", got)
	}
	none := startSource(t, nil, []*memSeed{seed})
	c = client(t, none.addr)
	if got := code(&chainfirev1.GetTailRequest{}); got != fault.Refused {
		t.Errorf("a member that answers none: %s", got)
	}
}
