package node

import (
	"log/slog"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"github.com/chainfire/cfseed/internal/state/envelope"
	"github.com/chainfire/cfseed/node/policy"
	"github.com/chainfire/cfseed/node/replica"
)

// compactor proposes to compact history that is not to be kept. It runs on the
// Ready loop of every member; only the leader's proposes.
type compactor struct {
	policy *policy.Compactor
	began  time.Time
	state  *stateBox
	logger *slog.Logger
}

func newCompactor(m *member) *compactor {
	return &compactor{policy: policy.NewCompactor(m.n.cfg.Compact), began: time.Now(), state: m.state, logger: m.n.logger}
}

func (c *compactor) tick(r *replica.Replica) error {
	m := c.state.machine()
	_, leads := r.Leads()
	revision := c.policy.Tick(time.Since(c.began), m.Revision(), m.CompactRevision(), leads)
	if revision == 0 {
		return nil
	}
	c.logger.Info("auto compaction", "revision", revision)
	return propose(r, envelope.Compact, &pb.CompactionRequest{Revision: revision})
}
