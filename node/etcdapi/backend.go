package etcdapi

import (
	"context"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/protobuf/proto"

	"github.com/chainfire/cfseed/internal/state"
	"github.com/chainfire/cfseed/internal/state/auth"
	"github.com/chainfire/cfseed/internal/state/envelope"
	entryv1 "github.com/chainfire/cfseed/proto/chainfire/entry/v1"
)

// Backend is what the services ask of a node. Methods are called concurrently.
// Errors are typed faults, the causes of package member, rpctypes errors or
// those of the context; messages returned are the caller's own.
type Backend interface {
	// Propose replicates an entry and returns what its apply gave. The error says
	// that the outcome is not known or that nothing was proposed; a refusal at
	// apply is in Result.Err. client is whose request it is; nil for a plain entry.
	Propose(ctx context.Context, client *envelope.Client, kind envelope.Kind, body proto.Message) (state.Result, error)
	// Auth is who may do what, as of what this member has applied.
	Auth() *auth.Rules
	// ReadIndex returns when this member has applied everything that was
	// committed when it was called.
	ReadIndex(ctx context.Context) error
	// Range and TxnRead read what this member has applied.
	Range(ctx context.Context, req *pb.RangeRequest) (*pb.RangeResponse, error)
	TxnRead(ctx context.Context, req *pb.TxnRequest) (*pb.TxnResponse, error)
	// Watch begins the watches of a stream.
	Watch() Watches
	// Header gives cluster ID, member ID, current revision and Raft term.
	Header() *pb.ResponseHeader
	// Role gives the leader's ID, 0 when none is known, and whether this member
	// is a learner. It is asked at every call and must be cheap.
	Role() (leader uint64, learner bool)
	Status(ctx context.Context) (Status, error)

	// NewLeaseID gives an ID above 0 that no lease has had.
	NewLeaseID() int64
	// RenewLease starts a lease's time again and gives its time to live in
	// seconds, 0 when there is no such lease.
	RenewLease(ctx context.Context, id int64) (ttl int64, err error)
	// LeaseTimeToLive tells of a lease, with its keys if wanted; zero when there
	// is no such lease.
	LeaseTimeToLive(ctx context.Context, id int64, keys bool) (Lease, error)
	// LeaseKeys gives the keys of a lease that this member has applied; none when
	// there is no such lease.
	LeaseKeys(ctx context.Context, id int64) ([][]byte, error)
	// Leases gives the IDs of all leases that this member has applied, ascending.
	Leases(ctx context.Context) ([]int64, error)

	// Members gives all member records, in all states.
	Members() []*entryv1.MemberRecord
	// AddMember reserves an ID for a newcomer; all are the records afterwards.
	AddMember(ctx context.Context, req *pb.MemberAddRequest) (added *entryv1.MemberRecord, all []*entryv1.MemberRecord, err error)
	RemoveMember(ctx context.Context, id uint64) error
	// PromoteMember refuses (fault.Refused) a learner that is not caught up.
	PromoteMember(ctx context.Context, id uint64) error
	UpdateMember(ctx context.Context, id uint64, peerURLs []string) error

	Maintainer
}

// Tokens makes and reads the tokens of users.
type Tokens interface {
	// Assign gives a token to a client that has shown its password. share makes a
	// token's sum known to all members and gives the index of the entry that did.
	Assign(c envelope.Client, share func(sum []byte) (index uint64, err error)) (string, error)
	// Client says whom a token is of, and at which revision of users and roles that
	// was so.
	Client(ctx context.Context, token string) (c envelope.Client, ok bool)
}

// Purger is a Backend that can tell when compacted history is gone. Without it
// a physical compaction answers like any other.
type Purger interface {
	// WaitPurged returns when nothing older than the revision is left on this
	// member's disk but what the revision itself needs.
	WaitPurged(ctx context.Context, revision int64) error
}

// Lease is what is known of a lease. Times are in seconds.
type Lease struct {
	TTL        int64 // left, rounded down
	GrantedTTL int64
	Keys       [][]byte
}

// Status is one member's view of itself. Sizes are in bytes.
type Status struct {
	Version             string
	DBSize, DBSizeInUse int64
	DBSizeQuota         int64 // 0 = none
	Leader              uint64
	RaftIndex           uint64 // committed
	RaftTerm            uint64
	AppliedIndex        uint64
	IsLearner           bool
	Errors              []string
}
