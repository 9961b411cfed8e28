package node

import (
	"crypto/sha1" //nolint:gosec // etcd derives its IDs this way; not a security measure
	"encoding/binary"
	"slices"
	"strings"

	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"

	"github.com/chainfire/cfseed/internal/fault"
	"github.com/chainfire/cfseed/internal/ident"
	"github.com/chainfire/cfseed/internal/netsec"
	"github.com/chainfire/cfseed/internal/state/envelope"
	entryv1 "github.com/chainfire/cfseed/proto/chainfire/entry/v1"
)

// seat is one member named in --initial-cluster.
type seat struct {
	id   uint64
	name string
	urls []string // sorted
}

// parseInitialCluster reads etcd's "name=url,name=url" form; a name given
// several times has several URLs. The result is ordered by ID.
func parseInitialCluster(s, token string) ([]seat, error) {
	const op = "--initial-cluster"
	urls := map[string][]string{}
	var names []string
	for part := range strings.SplitSeq(s, ",") {
		name, url, ok := strings.Cut(strings.TrimSpace(part), "=")
		if !ok || name == "" || url == "" {
			return nil, fault.Newf(fault.Usage, op, "%q is not name=url", part)
		}
		if _, err := netsec.ParseURL(url); err != nil {
			return nil, fault.New(fault.Usage, op, err)
		}
		if _, seen := urls[name]; !seen {
			names = append(names, name)
		}
		urls[name] = append(urls[name], url)
	}
	var seats []seat
	taken := map[string]string{}
	for _, name := range names {
		slices.Sort(urls[name])
		for _, u := range urls[name] {
			if other, dup := taken[u]; dup {
				return nil, fault.Newf(fault.Usage, op, "%s is given to %s and to %s", u, other, name)
			}
			taken[u] = name
		}
		seats = append(seats, seat{id: memberID(urls[name], token), name: name, urls: urls[name]})
	}
	slices.SortFunc(seats, func(a, b seat) int {
		if a.id < b.id {
			return -1
		}
		return 1
	})
	return seats, nil
}

// started leaves out the members without a name from "name=url,...". That is
// how etcdctl prints a member that has not started; it has no seed to give.
func started(s string) string {
	parts := slices.DeleteFunc(strings.Split(s, ","), func(part string) bool {
		return strings.HasPrefix(strings.TrimSpace(part), "=")
	})
	return strings.Join(parts, ",")
}

// memberID derives an ID as etcd does (server/etcdserver/api/membership,
// computeMemberID): the first 8 bytes of the SHA-1 of the sorted URLs and the
// cluster token.
func memberID(sortedURLs []string, token string) uint64 {
	h := sha1.Sum([]byte(strings.Join(sortedURLs, "") + token)) //nolint:gosec // see above
	return binary.BigEndian.Uint64(h[:8])
}

// clusterID derives the cluster's ID from its first members, as etcd does
// (RaftCluster.genID): the SHA-1 of the ascending member IDs.
func clusterID(seats []seat) uint64 {
	var b []byte
	for _, s := range seats {
		b = binary.BigEndian.AppendUint64(b, s.id)
	}
	h := sha1.Sum(b) //nolint:gosec // see above
	return binary.BigEndian.Uint64(h[:8])
}

// bootstrapEntries are the first entries of a new cluster's log, the same at
// each of its members: one configuration change a member, at term 1. A cluster
// never begins with a snapshot at index 1 (S8), since its first empty learner
// would then be sent a snapshot that does not know it, for ever.
func bootstrapEntries(seats []seat) ([]*raftpb.Entry, error) {
	var out []*raftpb.Entry
	for i, s := range seats {
		body, err := proto.Marshal(&entryv1.BootstrapVoter{Id: s.id, Name: s.name, PeerUrls: s.urls})
		if err != nil {
			return nil, fault.New(fault.Internal, "bootstrap", err)
		}
		cc := &raftpb.ConfChange{
			Type:    raftpb.ConfChangeAddNode.Enum(),
			NodeId:  proto.Uint64(s.id),
			Context: envelope.Envelope{Kind: envelope.BootstrapVoter, Body: body}.Append(nil),
		}
		data, err := proto.Marshal(cc)
		if err != nil {
			return nil, fault.New(fault.Internal, "bootstrap", err)
		}
		out = append(out, &raftpb.Entry{Term: proto.Uint64(1), Index: proto.Uint64(uint64(i) + 1),
			Type: raftpb.EntryConfChange.Enum(), Data: data})
	}
	return out, nil
}

// findSeat finds the node's own seat by its name.
func findSeat(seats []seat, name string) (seat, error) {
	for _, s := range seats {
		if s.name == name {
			return s, nil
		}
	}
	return seat{}, fault.Newf(fault.Usage, "--initial-cluster", "no member is named %q", name).
		WithHint("--name must be one of the names in --initial-cluster")
}

// newCluster names a cluster that is being bootstrapped; its genesis nonce is
// not known before its first leader has committed it.
func newCluster(seats []seat) ident.Cluster { return ident.Cluster{ID: clusterID(seats)} }
