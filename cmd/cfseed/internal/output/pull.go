package output

// Pull is the result of a pull. MemberID, LeaseID and LeaseExpires are nil for
// an offline source.
type Pull struct {
	ClusterID       ID        `json:"cluster_id"`
	MemberID        *ID       `json:"member_id"`
	Position        *Position `json:"position"`
	Revision        int64     `json:"revision"`
	Files           int       `json:"files"`
	BytesTotal      uint64    `json:"bytes_total"`
	BytesWire       uint64    `json:"bytes_wire"`
	BytesReused     uint64    `json:"bytes_reused"`
	Seconds         float64   `json:"seconds"`
	LeaseID         *ID       `json:"lease_id"`
	LeaseExpires    *string   `json:"lease_expires"` // RFC 3339, UTC
	ManifestRoot    Hex       `json:"manifest_root"`
	AlreadyComplete bool      `json:"already_complete"`
}
