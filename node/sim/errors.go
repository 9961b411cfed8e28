package sim

import (
	"errors"

	"google.golang.org/protobuf/proto"

	"github.com/chainfire/cfseed/internal/state/member"
	"github.com/chainfire/cfseed/node/replica"
)

// errNoClusterYet is what a reservation gets before the first leader has written
// the cluster's record.
var errNoClusterYet = member.ErrNoCluster

// pending reports whether a change was refused only because of another one.
func pending(err error) bool { return errors.Is(err, replica.ErrConfPending) }

// joined keeps the first error's class.
func joined(err, other error) error {
	if other == nil {
		return err
	}
	return errors.Join(err, other)
}

func marshal(m proto.Message) ([]byte, error) { return proto.Marshal(m) }
