package main

import (
	"context"

	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"

	"github.com/chainfire/cfseed/cmd/cfseed/internal/dial"
	"github.com/chainfire/cfseed/cmd/cfseed/internal/output"
	"github.com/chainfire/cfseed/internal/fault"
	chainfirev1 "github.com/chainfire/cfseed/proto/chainfire/v1"
	"github.com/chainfire/cfseed/verify"
)

// askedMember is a member, how to reach it, and its answer.
type askedMember struct {
	*chainfirev1.Member
	answer *chainfirev1.DigestAtResponse
	err    error
}

// sample is the answer as the judge wants it.
func (m *askedMember) sample() verify.Sample {
	s := verify.Sample{ID: m.GetId(), Name: m.GetName(), Index: m.answer.GetIndex(),
		Revision: int64(m.answer.GetRevision()), Err: m.err}
	if n := copy(s.Digest[:], m.answer.GetDigest()); m.err == nil && n != len(s.Digest) {
		s.Err = fault.Newf(fault.Corrupt, "digest", "%d bytes, want %d", n, len(s.Digest))
	}
	return s
}

// verifyCluster compares the digests of all members at one index that each of
// them has applied. Members remember the digests of many indexes, so the lowest
// of their applied indexes serves, and writes go on meanwhile.
func verifyCluster(ctx context.Context, dialer *dial.Dialer) (*output.Report, error) {
	members, err := runningMembers(ctx, dialer)
	if err != nil {
		return nil, err
	}
	askAll(ctx, dialer, members, 0)
	index := uint64(0)
	for _, m := range members {
		if m.err == nil && (index == 0 || m.answer.GetIndex() < index) {
			index = m.answer.GetIndex()
		}
	}
	if index > 0 {
		askAll(ctx, dialer, members, index)
	}
	if ctx.Err() != nil {
		return nil, fault.New(fault.Interrupted, "verify", ctx.Err())
	}
	samples := make([]verify.Sample, 0, len(members))
	for _, m := range members {
		samples = append(samples, m.sample())
	}
	judged := verify.Compare(samples)
	if len(samples) == 1 && samples[0].Err == nil {
		judged.OK = true // the only member differs from nobody
	}
	return reportOf(judged), nil
}

func runningMembers(ctx context.Context, dialer *dial.Dialer) ([]*askedMember, error) {
	var resp *chainfirev1.MemberListResponse
	err := dialer.Read(ctx, "member list", func(ctx context.Context, conn *grpc.ClientConn) (err error) {
		resp, err = chainfirev1.NewClusterClient(conn).MemberList(ctx, &chainfirev1.MemberListRequest{Linearizable: true})
		return err
	})
	if err != nil {
		return nil, err
	}
	var members []*askedMember
	for _, m := range resp.GetMembers() {
		if m.GetState() == "member" {
			members = append(members, &askedMember{Member: m})
		}
	}
	if len(members) == 0 {
		return nil, fault.Newf(fault.Refused, "verify", "the cluster lists no member")
	}
	return members, nil
}

// askAll asks each member that has not failed yet for its digest at index, all
// at once; 0 = the last one applied.
func askAll(ctx context.Context, dialer *dial.Dialer, members []*askedMember, index uint64) {
	var group errgroup.Group
	for _, m := range members {
		if m.err == nil {
			group.Go(func() error {
				m.answer, m.err = digestAt(ctx, dialer, m.GetClientUrls(), index)
				return nil
			})
		}
	}
	_ = group.Wait() // each member keeps its own error
}

// digestAt asks one member by the first of its addresses that answers.
func digestAt(ctx context.Context, dialer *dial.Dialer, addresses []string, index uint64) (*chainfirev1.DigestAtResponse, error) {
	err := error(fault.Newf(fault.Unreachable, "digest", "it has published no client address"))
	for _, address := range addresses {
		var resp *chainfirev1.DigestAtResponse
		err = dialer.Once(ctx, "digest", address, func(ctx context.Context, conn *grpc.ClientConn, _ func()) (err error) {
			resp, err = chainfirev1.NewSeedClient(conn).DigestAt(ctx, &chainfirev1.DigestAtRequest{Index: index})
			return err
		})
		if err == nil {
			return resp, nil
		}
		if !fault.Is(err, fault.Unreachable) {
			break
		}
	}
	return nil, err
}
