package peer

import (
	"errors"

	"google.golang.org/grpc/status"

	"github.com/chainfire/cfseed/internal/fault"
	"github.com/chainfire/cfseed/internal/fault/rpcfault"
	chainfirev1 "github.com/chainfire/cfseed/proto/chainfire/v1"
)

// The refusals a member must recognise. They cross the wire: errors.Is works on
// both sides. Config.Check returns ErrRemoved, wrapped or not, for a member
// whose removal was applied, and ErrReplaced for one whose ID was bound to
// another directory; neither ever changes, so one peer's word is enough. With
// ErrOtherCluster it is not: the peer may be the stranger.
var (
	ErrRemoved      = errors.New("this member was removed from the cluster")
	ErrReplaced     = errors.New("the member ID is bound to another data directory")
	ErrCopied       = errors.New("another process runs with the same member ID and data directory")
	ErrOtherCluster = errors.New("the peer is of another cluster")
)

// The reasons stand in the path field of ErrorInfo and are part of the format.
const (
	reasonRemoved  = "peer.removed"
	reasonReplaced = "peer.replaced"
	reasonCopied   = "peer.copied"
	reasonCluster  = "peer.cluster"
)

const opHello = "peer handshake"

// toStatus is what a refused peer hears.
func toStatus(err error) error { return rpcfault.ToStatus(named(err)) }

// named gives a refusal that a member must recognise its class and reason.
func named(err error) error {
	switch {
	case errors.Is(err, ErrRemoved):
		return fault.New(fault.Refused, opHello, err).At(reasonRemoved).
			WithHint("the ID is never used again; to come back, start with an empty data directory and --join")
	case errors.Is(err, ErrReplaced):
		return fault.New(fault.Refused, opHello, err).At(reasonReplaced).WithHint("%s", fault.HintOf(err))
	case errors.Is(err, ErrCopied):
		return fault.New(fault.Refused, opHello, err).At(reasonCopied).
			WithHint("stop the copy; a data directory belongs to one process, a new member needs its own seed")
	case errors.Is(err, ErrOtherCluster):
		return fault.New(fault.Refused, opHello, err).At(reasonCluster).WithHint("%s", fault.HintOf(err))
	}
	return err
}

// fromStatus turns an error of a call into a fault. refused says that the
// peer's own rules said no, as against a call that failed on its way.
func fromStatus(op string, err error) (_ error, refused bool) {
	if err == nil {
		return nil, false
	}
	if st, ok := status.FromError(err); ok {
		for _, d := range st.Details() {
			if info, ok := d.(*chainfirev1.ErrorInfo); ok {
				refused = isRefusal(fault.Code(info.GetCode()))
			}
		}
	}
	err = rpcfault.FromStatus(op, err)
	var fe *fault.Error
	if !errors.As(err, &fe) {
		return err, refused
	}
	switch fe.Path {
	case reasonRemoved:
		return fault.New(fe.Code, op, ErrRemoved).WithHint("%s", fe.Hint), refused
	case reasonReplaced:
		return fault.New(fe.Code, op, ErrReplaced).WithHint("%s", fe.Hint), refused
	case reasonCopied:
		return fault.New(fe.Code, op, ErrCopied).WithHint("%s", fe.Hint), refused
	case reasonCluster:
		return fault.New(fe.Code, op, ErrOtherCluster).WithHint("%s", fe.Hint), refused
	}
	return err, refused
}

func isRefusal(c fault.Code) bool {
	switch c {
	case fault.Refused, fault.Permission, fault.Different, fault.Corrupt, fault.Usage, fault.InUse, fault.NotEmpty:
		return true
	}
	return false
}
