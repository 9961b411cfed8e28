package output

import (
	"encoding/hex"
	"encoding/json"
	"fmt"
	"strconv"
	"unicode/utf8"

	"go.etcd.io/etcd/api/v3/mvccpb"

	"github.com/chainfire/cfseed/internal/ident"
	entryv1 "github.com/chainfire/cfseed/proto/chainfire/entry/v1"
	chainfirev1 "github.com/chainfire/cfseed/proto/chainfire/v1"
)

// ID is printed as 16 hex digits.
type ID uint64

// MarshalJSON gives the quoted digits.
func (id ID) MarshalJSON() ([]byte, error) { return json.Marshal(id.String()) }

// String gives the digits.
func (id ID) String() string { return ident.FormatID(uint64(id)) }

// Optional gives nil for the ID 0, which names nothing.
func (id ID) Optional() *ID {
	if id == 0 {
		return nil
	}
	return &id
}

// Hex is bytes printed as hex digits.
type Hex []byte

// MarshalJSON gives the quoted digits.
func (h Hex) MarshalJSON() ([]byte, error) { return json.Marshal(h.String()) }

// String gives the digits.
func (h Hex) String() string { return hex.EncodeToString(h) }

// Position is a term and an index.
type Position struct {
	Term  uint64 `json:"term"`
	Index uint64 `json:"index"`
}

// PositionOf gives nil when there is none.
func PositionOf(p *entryv1.Position) *Position {
	if p.GetIndex() == 0 {
		return nil
	}
	return &Position{Term: p.GetTerm(), Index: p.GetIndex()}
}

// String gives "term/index", "-" for nil.
func (p *Position) String() string {
	if p == nil {
		return "-"
	}
	return fmt.Sprintf("%d/%d", p.Term, p.Index)
}

// Member is one member as listed.
type Member struct {
	ID         ID       `json:"id"`
	Name       string   `json:"name"`
	Role       string   `json:"role"`
	State      string   `json:"state"`
	PeerURLs   []string `json:"peer_urls"`
	ClientURLs []string `json:"client_urls"`
}

// MembersOf gives a list that is never nil, so that JSON has [].
func MembersOf(members []*chainfirev1.Member) []Member {
	out := make([]Member, 0, len(members))
	for _, m := range members {
		out = append(out, Member{
			ID: ID(m.GetId()), Name: m.GetName(), Role: m.GetRole(), State: m.GetState(),
			PeerURLs: list(m.GetPeerUrls()), ClientURLs: list(m.GetClientUrls()),
		})
	}
	return out
}

func list(s []string) []string {
	if s == nil {
		return []string{}
	}
	return s
}

// Phase is a part of a join and its time.
type Phase struct {
	Name    string  `json:"name"`
	Seconds float64 `json:"seconds"`
}

// PhaseSeconds is the time of a phase; 0 when it was not there.
func PhaseSeconds(phases []Phase, name string) float64 {
	for _, p := range phases {
		if p.Name == name {
			return p.Seconds
		}
	}
	return 0
}

// MemberAdd is the result of a join. What is not known is nil.
type MemberAdd struct {
	MemberID          ID        `json:"member_id"`
	Name              string    `json:"name"`
	Role              string    `json:"role"`
	Position          *Position `json:"position"`
	Phases            []Phase   `json:"phases"`
	BytesWire         *uint64   `json:"bytes_wire"`
	BytesReused       *uint64   `json:"bytes_reused"`
	EntriesAfterAdd   *uint64   `json:"entries_after_add"`
	RaftSnapshotsSent *uint64   `json:"raft_snapshots_sent"`
	ClusterID         ID        `json:"cluster_id"`
	BytesTotal        *uint64   `json:"bytes_total"`
	AlreadyMember     bool      `json:"already_member"`
	EntriesSent       *uint64   `json:"entries_sent"`
	TailEntries       *uint64   `json:"tail_entries"`
	SourceID          *ID       `json:"source_id"`
}

// MemberAddOf gives the shape of r.
func MemberAddOf(r *chainfirev1.MemberAddResult) MemberAdd {
	var phases []Phase
	if !r.GetAlreadyMember() {
		phases = make([]Phase, 0, len(r.GetPhases()))
	}
	for _, p := range r.GetPhases() {
		phases = append(phases, Phase{p.GetName(), p.GetSeconds()})
	}
	return MemberAdd{
		MemberID: ID(r.GetMemberId()), Name: r.GetName(), Role: r.GetRole(), Position: PositionOf(r.GetPosition()),
		Phases: phases, BytesWire: r.BytesWire, BytesReused: r.BytesReused,
		EntriesAfterAdd: r.EntriesAfterAdd, RaftSnapshotsSent: r.RaftSnapshotsSent,
		ClusterID: ID(r.GetClusterId()), BytesTotal: r.BytesTotal, AlreadyMember: r.GetAlreadyMember(), EntriesSent: r.EntriesSent,
		TailEntries: r.TailEntries, SourceID: ID(r.GetSourceId()).Optional(),
	}
}

const unknown = "unknown"

// Count gives a number for people.
func Count(n *uint64) string {
	if n == nil {
		return unknown
	}
	return strconv.FormatUint(*n, 10)
}

// Bytes is Size of what may not be known.
func Bytes(n *uint64) string {
	if n == nil {
		return unknown
	}
	return Size(*n)
}

// Transfer is the result of a push.
type Transfer struct {
	ClusterID       ID        `json:"cluster_id"`
	Position        *Position `json:"position"`
	Revision        uint64    `json:"revision"`
	Files           uint64    `json:"files"`
	BytesTotal      uint64    `json:"bytes_total"`
	BytesWire       uint64    `json:"bytes_wire"`
	BytesReused     uint64    `json:"bytes_reused"`
	Seconds         float64   `json:"seconds"`
	LeaseID         *ID       `json:"lease_id"`
	ManifestRoot    Hex       `json:"manifest_root"`
	AlreadyComplete bool      `json:"already_complete"`
}

// TransferOf gives the shape of r.
func TransferOf(r *chainfirev1.TransferResult) Transfer {
	m := r.GetMeta()
	return Transfer{
		ClusterID: ID(m.GetClusterId()), Position: PositionOf(m.GetPosition()), Revision: m.GetRevision(),
		Files: m.GetFiles(), BytesTotal: m.GetBytesTotal(), BytesWire: r.GetBytesWire(), BytesReused: r.GetBytesReused(),
		Seconds: r.GetSeconds(), LeaseID: ID(m.GetLeaseId()).Optional(), ManifestRoot: m.GetManifestRoot(),
		AlreadyComplete: r.GetAlreadyComplete(),
	}
}

// KeyValue is one pair. Text stands as text, anything else as hex.
type KeyValue struct {
	Key            *string `json:"key,omitempty"`
	KeyHex         *Hex    `json:"key_hex,omitempty"`
	Value          *string `json:"value,omitempty"`
	ValueHex       *Hex    `json:"value_hex,omitempty"`
	CreateRevision int64   `json:"create_revision"`
	ModRevision    int64   `json:"mod_revision"`
	Version        int64   `json:"version"`
	Lease          int64   `json:"lease"`
}

// KeyValueOf gives the shape of kv; keysOnly leaves the value out, asHex writes
// hex also for text.
func KeyValueOf(kv *mvccpb.KeyValue, keysOnly, asHex bool) KeyValue {
	out := KeyValue{CreateRevision: kv.GetCreateRevision(), ModRevision: kv.GetModRevision(),
		Version: kv.GetVersion(), Lease: kv.GetLease()}
	out.Key, out.KeyHex = textOrHex(kv.GetKey(), asHex)
	if !keysOnly {
		out.Value, out.ValueHex = textOrHex(kv.GetValue(), asHex)
	}
	return out
}

func textOrHex(b []byte, asHex bool) (*string, *Hex) {
	if asHex || !utf8.Valid(b) {
		h := Hex(b)
		return nil, &h
	}
	s := string(b)
	return &s, nil
}
