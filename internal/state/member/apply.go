package member

import (
	"google.golang.org/protobuf/proto"

	"github.com/chainfire/cfseed/internal/fault"
	"github.com/chainfire/cfseed/internal/state/envelope"
	entryv1 "github.com/chainfire/cfseed/proto/chainfire/entry/v1"
)

// Apply carries out one normal entry of kinds 64 to 83 and gives the record it
// made or changed: a ClusterRecord, MemberRecord or SeedLease. An error for
// which IsRefusal is true left the tables as they were; any other is fatal.
func Apply(b Tables, index uint64, kind envelope.Kind, body []byte) (proto.Message, error) {
	switch kind {
	case envelope.ClusterInit:
		return run(b, index, body, new(entryv1.ClusterInit), initCluster)
	case envelope.SetClusterVersion:
		return run(b, index, body, new(entryv1.SetClusterVersion), setClusterVersion)
	case envelope.ReserveMember:
		return run(b, index, body, new(entryv1.ReserveMember), reserve)
	case envelope.TouchReservation:
		return run(b, index, body, new(entryv1.TouchReservation), touchReservation)
	case envelope.CancelReservation:
		return run(b, index, body, new(entryv1.CancelReservation), cancelReservation)
	case envelope.BindMember:
		return run(b, index, body, new(entryv1.BindMember), bind)
	case envelope.PublishMember:
		return run(b, index, body, new(entryv1.PublishMember), publish)
	case envelope.UpdateMember:
		return run(b, index, body, new(entryv1.UpdateMember), update)
	case envelope.OpenSeedLease:
		return run(b, index, body, new(entryv1.OpenSeedLease), openLease)
	case envelope.RenewSeedLease:
		return run(b, index, body, new(entryv1.RenewSeedLease), renewLease)
	case envelope.ExpireSeedLease:
		return run(b, index, body, new(entryv1.ExpireSeedLease), expireLease)
	case envelope.CloseSeedLease:
		return run(b, index, body, new(entryv1.CloseSeedLease), closeLease)
	}
	return nil, fault.Newf(fault.Corrupt, "apply entry", "entry %d: %s is no kind of the member tables", index, kind)
}

// run decodes the body and calls the rule. It also keeps a nil record from
// becoming a non-nil interface.
func run[M, R proto.Message](b Tables, index uint64, body []byte, m M,
	rule func(Tables, uint64, M) (R, error),
) (proto.Message, error) {
	if err := decode(index, body, m); err != nil {
		return nil, err
	}
	rec, err := rule(b, index, m)
	if err != nil {
		return nil, err
	}
	return rec, nil
}

// decode reads a committed body. One that can not be read is damage, not a
// refusal: another member may have read the same entry well.
func decode(index uint64, body []byte, m proto.Message) error {
	if err := proto.Unmarshal(body, m); err != nil {
		return fault.Newf(fault.Corrupt, "apply entry", "entry %d: body of %s: %w",
			index, m.ProtoReflect().Descriptor().Name(), err)
	}
	return nil
}
