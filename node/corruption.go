package node

import (
	"context"
	"sync"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"github.com/chainfire/cfseed/internal/fault"
	"github.com/chainfire/cfseed/internal/ident"
	entryv1 "github.com/chainfire/cfseed/proto/chainfire/entry/v1"
	chainfirev1 "github.com/chainfire/cfseed/proto/chainfire/v1"
)

// digestPatience bounds one member's answer.
const digestPatience = 5 * time.Second

// compareMembers compares, at the leader, the digests of all members at one
// index every now and then, and raises CORRUPT for who differs.
func (m *member) compareMembers(ctx context.Context) error {
	every := m.n.cfg.CorruptCheck
	if every < 0 {
		<-ctx.Done()
		return nil
	}
	ticker := time.NewTicker(every)
	defer ticker.Stop()
	self := m.identity.get().MemberID
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
		}
		if m.leader.current() != self {
			continue
		}
		digests, members, err := m.digests(ctx, self)
		if err != nil {
			m.n.logger.DebugContext(ctx, "members are not compared now", "err", err)
			continue
		}
		for _, id := range differing(digests, members) {
			m.n.logger.ErrorContext(ctx, "members differ: one holds other data than the rest", "member", ident.FormatID(id),
				"hint", "0 is a member that is not known; cfseed verify --cluster shows all; remove the member and seed it anew, then etcdctl alarm disarm")
			m.raise(ctx, id, pb.AlarmType_CORRUPT)
		}
	}
}

// digests asks for the digests after the lowest of the indexes that the members
// have applied, of those that answer; members is how many there are.
func (m *member) digests(ctx context.Context, self uint64) (got map[uint64][16]byte, members int, err error) {
	urls := map[uint64]string{}
	for _, r := range m.state.machine().Members() {
		if r.GetState() != entryv1.MemberState_MEMBER_STATE_MEMBER {
			continue
		}
		members++
		if len(r.GetPeerUrls()) > 0 && r.GetId() != self {
			urls[r.GetId()] = r.GetPeerUrls()[0]
		}
	}
	lowest := m.state.machine().Applied().Index
	for _, a := range m.askDigests(ctx, urls, 0) {
		lowest = min(lowest, a.index)
	}
	_, own, _, err := m.seeds.DigestAt(ctx, lowest)
	if err != nil {
		return nil, members, err
	}
	got = map[uint64][16]byte{self: own}
	for id, a := range m.askDigests(ctx, urls, lowest) {
		got[id] = a.digest
	}
	return got, members, nil
}

// digestAnswer is a member's digest after the entry at an index.
type digestAnswer struct {
	index  uint64
	digest [16]byte
}

// askDigests asks all at once; who does not answer is left out.
func (m *member) askDigests(ctx context.Context, urls map[uint64]string, index uint64) map[uint64]digestAnswer {
	ctx, cancel := context.WithTimeout(ctx, digestPatience)
	defer cancel()
	var (
		mu  sync.Mutex
		wg  sync.WaitGroup
		out = map[uint64]digestAnswer{}
	)
	for id, url := range urls {
		wg.Go(func() {
			a, err := m.askDigest(ctx, url, index)
			if err != nil {
				m.n.logger.DebugContext(ctx, "a member gave no digest", "member", ident.FormatID(id), "err", err)
				return
			}
			mu.Lock()
			defer mu.Unlock()
			out[id] = a
		})
	}
	wg.Wait()
	return out
}

func (m *member) askDigest(ctx context.Context, url string, index uint64) (a digestAnswer, err error) {
	conn, err := m.backend.conns.get(ctx, url)
	if err != nil {
		return a, err
	}
	res, err := chainfirev1.NewSeedClient(conn).DigestAt(ctx, &chainfirev1.DigestAtRequest{Index: index})
	if err != nil {
		return a, err
	}
	a.index = res.GetIndex()
	if copy(a.digest[:], res.GetDigest()) != len(res.GetDigest()) || len(res.GetDigest()) != len(a.digest) || index != 0 && a.index != index {
		return a, fault.Newf(fault.Corrupt, "digest", "an answer of %d bytes for index %d", len(res.GetDigest()), a.index)
	}
	return a, nil
}

// differing gives the members to raise an alarm for, as etcd does: those that
// differ from a majority of all members, and where no majority agrees 0, since
// nobody knows which of them are right.
func differing(got map[uint64][16]byte, members int) []uint64 {
	count := map[[16]byte]int{}
	for _, d := range got {
		count[d]++
	}
	if len(count) < 2 {
		return nil
	}
	var out []uint64
	agreed := false
	for d, n := range count {
		if n <= members/2 {
			continue
		}
		agreed = true
		for id, own := range got {
			if own != d {
				out = append(out, id)
			}
		}
	}
	if !agreed {
		return []uint64{0}
	}
	return out
}
