package output

// Pull is the result of a pull. MemberID, LeaseID and LeaseExpires are nil for
// an offline source.
type Pull struct {
	ClusterID   ID        `json:"cluster_id"`
	MemberID    *ID       `json:"member_id"`
	Position    *Position `json:"position"`
	Revision    int64     `json:"revision"`
	Files       int       `json:"files"`
	BytesTotal  uint64    `json:"bytes_total"`
	BytesWire   uint64    `json:"bytes_wire"`
	BytesReused uint64    `json:"bytes_reused"`
	// BytesDiscarded were here, but not shared with the seed of a source that
	// took over; they are part of what was fetched.
	BytesDiscarded  uint64  `json:"bytes_discarded"`
	Failovers       int     `json:"failovers"` // another source took over
	Retries         int     `json:"retries"`   // a line or a source came back
	Seconds         float64 `json:"seconds"`
	LeaseID         *ID     `json:"lease_id"`
	LeaseExpires    *string `json:"lease_expires"` // RFC 3339, UTC
	ManifestRoot    Hex     `json:"manifest_root"`
	AlreadyComplete bool    `json:"already_complete"`
	Delta           *string `json:"delta"` // files or ranges
}
