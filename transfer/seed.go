package transfer

import (
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"time"

	"google.golang.org/grpc"

	"github.com/chainfire/cfseed/internal/fault"
	"github.com/chainfire/cfseed/internal/ident"
	entryv1 "github.com/chainfire/cfseed/proto/chainfire/entry/v1"
	chainfirev1 "github.com/chainfire/cfseed/proto/chainfire/v1"
	"github.com/chainfire/cfseed/snapshot/record"
)

// Authorizer decides who may read a seed. It is asked at every RPC, with the
// full method name ("/chainfire.v1.Seed/OpenSeed").
type Authorizer interface {
	// AuthorizeSeed returns nil, or an error of class fault.Permission.
	AuthorizeSeed(ctx context.Context, rpc string) error
}

// LeaseRequest asks for a seed lease.
type LeaseRequest struct {
	LeaseID  uint64        // continue this one; 0 = open a new one
	MemberID uint64        // reservation served; 0 = a plain pull
	Target   string        // for people
	TTL      time.Duration // 0 = the keeper's default (unchanged when continuing)
	CapBytes uint64        // 0 = the keeper's default (unchanged when continuing)
	WantRoot []byte        // the seed the target has partly; nil = any
}

// Lease is a live seed lease.
type Lease struct {
	ID       uint64
	Hold     uint64
	TTL      time.Duration
	CapBytes uint64
	MemberID uint64
	SourceID uint64 // member that serves the files
	Target   string
}

// LeaseKeeper owns the replicated seed leases. Errors are fault errors;
// fault.LeaseLost says that the lease ended.
type LeaseKeeper interface {
	// Open opens or continues a lease; Alive is true for what it returns.
	Open(ctx context.Context, r LeaseRequest) (Lease, error)
	// Renew extends the lease; a zero ttl or capBytes leaves that unchanged.
	Renew(ctx context.Context, id uint64, ttl time.Duration, capBytes uint64) (Lease, error)
	Close(ctx context.Context, id uint64) error
	// Alive is asked before every chunk: it must be cheap and local.
	Alive(id uint64) bool
}

// Provider makes the seeds that a Server serves. Checkpoints are shared.
type Provider interface {
	// Acquire returns a seed to be served under lease: the one with root
	// wantRoot when that is there, else another at or after min. release is
	// called once, when the server is done with it.
	Acquire(ctx context.Context, lease Lease, wantRoot []byte, min ident.Position) (seed Seed, release func(), err error)
}

// Seed is a snapshot that can be read. Methods are called concurrently.
type Seed interface {
	// ManifestBytes is never modified by anyone.
	ManifestBytes() []byte
	// ReadChunk reads a whole chunk, into buf when that is large enough. The
	// result may alias buf.
	ReadChunk(ctx context.Context, file, chunk int, buf []byte) ([]byte, error)
	// DescribeTables says of files, which are tables, whether they can be listed.
	DescribeTables(ctx context.Context, files []int) ([]record.Table, error)
	// ListRecords gives the list of a table's records as package record has it, piece
	// by piece; a piece is not kept. read counts the bytes of the table that were read
	// since the piece before it.
	ListRecords(ctx context.Context, file int, emit func(piece []byte, read int) error) error
	// PickRecords is ListRecords for the records themselves that are wanted of a list.
	PickRecords(ctx context.Context, file int, wanted record.Wanted, emit func(piece []byte, read int) error) error
}

// FileSeed is a Seed whose chunks can be sent from its files without being read.
type FileSeed interface {
	// OpenChunk gives the file that holds a chunk and where in it the chunk
	// begins; the caller closes it. A nil file says that the chunk must be read.
	OpenChunk(file, chunk int) (f interface {
		Fd() uintptr
		Close() error
	}, offset int64, err error)
}

// DigestReader answers for the state digest at an applied index (0 = now).
type DigestReader interface {
	DigestAt(ctx context.Context, index uint64) (at uint64, digest [16]byte, revision int64, err error)
}

// Conn is a client connection that its user closes.
type Conn interface {
	grpc.ClientConnInterface
	io.Closer
}

// DialFunc makes a connection to an endpoint as the caller's configuration
// writes it. opts come from this package and are to be passed on to
// grpc.NewClient in addition to the caller's own (credentials).
type DialFunc func(ctx context.Context, endpoint string, opts ...grpc.DialOption) (Conn, error)

// Stage is a seed on its way in. Methods are called concurrently.
type Stage interface {
	// Missing lists what is not there yet, in file order.
	Missing() []Range
	// Put stores a chunk after checking its size and checksum; fault.Corrupt
	// says that the data is not what the manifest names. data is not kept.
	Put(file, chunk int, data []byte) error
	// Close ends the use of the stage; what was stored stays.
	Close() error
}

// Meta describes a seed as its source announces it.
type Meta struct {
	Cluster       ident.Cluster
	Position      ident.Position
	Root          [32]byte // of the manifest; names the seed
	Revision      int64
	BytesTotal    uint64
	Files         uint64
	ManifestBytes uint64
	LeaseID       uint64
	LeaseTTL      time.Duration
	SourceID      uint64
}

// Proto gives the wire form.
func (m Meta) Proto() *chainfirev1.SnapshotMeta {
	return &chainfirev1.SnapshotMeta{
		ClusterId:     m.Cluster.ID,
		GenesisNonce:  m.Cluster.Genesis.Bytes(),
		Position:      &entryv1.Position{Term: m.Position.Term, Index: m.Position.Index},
		ManifestRoot:  append([]byte(nil), m.Root[:]...),
		BytesTotal:    m.BytesTotal,
		Files:         m.Files,
		ManifestBytes: m.ManifestBytes,
		LeaseId:       m.LeaseID,
		LeaseTtlMs:    uint64(m.LeaseTTL / time.Millisecond),
		Revision:      uint64(m.Revision),
		SourceId:      m.SourceID,
	}
}

// MetaFrom reads the wire form; errors are fault.Corrupt.
func MetaFrom(p *chainfirev1.SnapshotMeta) (Meta, error) {
	const op = "read snapshot metadata"
	if p == nil {
		return Meta{}, fault.Newf(fault.Corrupt, op, "missing")
	}
	genesis, err := ident.NonceFrom(p.GetGenesisNonce())
	if err != nil {
		return Meta{}, fault.New(fault.Corrupt, op, err)
	}
	root, err := rootFrom(p.GetManifestRoot())
	if err != nil {
		return Meta{}, fault.New(fault.Corrupt, op, err)
	}
	return Meta{
		Cluster:       ident.Cluster{ID: p.GetClusterId(), Genesis: genesis},
		Position:      ident.Position{Term: p.GetPosition().GetTerm(), Index: p.GetPosition().GetIndex()},
		Root:          root,
		Revision:      int64(p.GetRevision()),
		BytesTotal:    p.GetBytesTotal(),
		Files:         p.GetFiles(),
		ManifestBytes: p.GetManifestBytes(),
		LeaseID:       p.GetLeaseId(),
		LeaseTTL:      milliseconds(p.GetLeaseTtlMs()),
		SourceID:      p.GetSourceId(),
	}, nil
}

func rootFrom(b []byte) ([32]byte, error) {
	var root [32]byte
	if len(b) != len(root) {
		return root, fmt.Errorf("manifest root of %d bytes, want %d", len(b), len(root))
	}
	copy(root[:], b)
	return root, nil
}

// milliseconds reads a duration from the wire, bounded to ten years.
func milliseconds(ms uint64) time.Duration {
	const most = 10 * 365 * 24 * 3600 * 1000
	return time.Duration(min(ms, most)) * time.Millisecond
}

// seedID is what every chunk carries of its manifest's root.
func seedID(root [32]byte) uint64 { return binary.LittleEndian.Uint64(root[:8]) }
