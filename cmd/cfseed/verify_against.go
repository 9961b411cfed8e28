package main

import (
	"bytes"
	"context"
	"fmt"
	"slices"
	"time"

	"google.golang.org/grpc"

	"github.com/chainfire/cfseed/cmd/cfseed/internal/dial"
	"github.com/chainfire/cfseed/cmd/cfseed/internal/output"
	"github.com/chainfire/cfseed/internal/fault"
	"github.com/chainfire/cfseed/internal/ident"
	chainfirev1 "github.com/chainfire/cfseed/proto/chainfire/v1"
)

// verifyAgainst adds the comparison of a directory with a running cluster to its
// report.
func verifyAgainst(ctx context.Context, dialer *dial.Dialer, report *output.Report) error {
	const name = "against"
	if report.Position == nil || len(report.Digest) == 0 || report.Cluster == 0 {
		report.Skip(name, "the directory's own digest or cluster is not known")
		return nil
	}
	began := time.Now()
	index := report.Position.Index
	digest, err := clusterDigest(ctx, dialer, uint64(report.Cluster), index)
	seconds := time.Since(began).Seconds()
	switch {
	case ctx.Err() != nil:
		return fault.New(fault.Interrupted, "verify", ctx.Err())
	case err != nil:
		detail := err.Error()
		if hint := fault.HintOf(err); hint != "" {
			detail += ": " + hint
		}
		report.Fail(name, seconds, output.Finding{Code: fault.CodeOf(err), Detail: detail})
	case !bytes.Equal(digest, report.Digest):
		report.Fail(name, seconds, output.Finding{Code: fault.Different, Detail: fmt.Sprintf(
			"index %d: the directory has digest %s, the cluster %x", index, report.Digest, digest)})
	default:
		report.Pass(name, seconds, "equal at index %d", index)
	}
	return nil
}

// clusterDigest asks the members of a cluster, those at the endpoints first, for the
// digest at an index. A member knows only what it has applied since its start, and
// not for ever.
func clusterDigest(ctx context.Context, dialer *dial.Dialer, cluster, index uint64) ([]byte, error) {
	var list *chainfirev1.MemberListResponse
	err := dialer.Read(ctx, "member list", func(ctx context.Context, conn *grpc.ClientConn) (err error) {
		list, err = chainfirev1.NewClusterClient(conn).MemberList(ctx, &chainfirev1.MemberListRequest{})
		return err
	})
	if err != nil {
		return nil, err
	}
	if list.GetClusterId() != cluster {
		return nil, fault.Newf(fault.Different, "verify", "the directory is of cluster %s, the endpoints are of cluster %s",
			ident.FormatID(cluster), ident.FormatID(list.GetClusterId()))
	}
	addresses := dialer.Endpoints()
	for _, m := range list.GetMembers() {
		for _, u := range m.GetClientUrls() {
			if !slices.Contains(addresses, u) {
				addresses = append(addresses, u)
			}
		}
	}
	var refused, failed error
	for _, address := range addresses {
		resp, err := digestAt(ctx, dialer, []string{address}, index)
		switch {
		case err == nil:
			return resp.GetDigest(), nil
		case fault.Is(err, fault.Refused):
			refused = err
		default:
			failed = err
		}
	}
	if failed != nil { // it may know
		return nil, failed
	}
	return nil, fault.Newf(fault.Refused, "verify", "no member knows the digest at %d any more: %w", index, refused).
		WithHint("compare a newer copy, or run without --against")
}
