package output

import (
	"fmt"
	"io"
	"strconv"

	chainfirev1 "github.com/chainfire/cfseed/proto/chainfire/v1"
)

// Status is a cluster as one member sees it.
type Status struct {
	ClusterID  ID             `json:"cluster_id"`
	MemberID   ID             `json:"member_id"`
	Leader     *ID            `json:"leader"`
	Term       uint64         `json:"term"`
	FirstIndex uint64         `json:"first_index"`
	LastIndex  uint64         `json:"last_index"`
	Commit     uint64         `json:"commit"`
	Members    []MemberStatus `json:"members"`
	Seeds      []SeedStatus   `json:"seeds"`
	Leases     []LeaseStatus  `json:"leases"`
}

// MemberStatus is one member's part of Status.
type MemberStatus struct {
	ID        ID     `json:"id"`
	Name      string `json:"name"`
	Role      string `json:"role"`
	State     string `json:"state"`
	Reachable bool   `json:"reachable"`
	Applied   uint64 `json:"applied"`
	Match     uint64 `json:"match"`
	Lag       uint64 `json:"lag"`
	Revision  uint64 `json:"revision"`
	Digest    Hex    `json:"digest"`
	DBBytes   uint64 `json:"db_bytes"`
}

// SeedStatus is a seed in progress.
type SeedStatus struct {
	LeaseID        ID      `json:"lease_id"`
	Target         string  `json:"target"`
	Percent        float64 `json:"percent"`
	BytesPerSecond float64 `json:"bytes_per_second"`
}

// LeaseStatus is a seed lease and what it holds.
type LeaseStatus struct {
	ID         ID      `json:"id"`
	Hold       uint64  `json:"hold"`
	MemberID   *ID     `json:"member_id"`
	SourceID   *ID     `json:"source_id"`
	TTLSeconds float64 `json:"ttl_seconds"`
	CapBytes   uint64  `json:"cap_bytes"`
	Target     string  `json:"target"`
}

// StatusOf gives the shape of r.
func StatusOf(r *chainfirev1.StatusResponse) Status {
	s := Status{
		ClusterID: ID(r.GetClusterId()), MemberID: ID(r.GetMemberId()), Leader: ID(r.GetLeader()).Optional(),
		Term: r.GetTerm(), FirstIndex: r.GetFirstIndex(), LastIndex: r.GetLastIndex(), Commit: r.GetCommit(),
		Members: []MemberStatus{}, Seeds: []SeedStatus{}, Leases: []LeaseStatus{},
	}
	for _, m := range r.GetMembers() {
		s.Members = append(s.Members, MemberStatus{
			ID: ID(m.GetId()), Name: m.GetName(), Role: m.GetRole(), State: m.GetState(), Reachable: m.GetReachable(),
			Applied: m.GetApplied(), Match: m.GetMatch(), Lag: m.GetLag(), Revision: m.GetRevision(),
			Digest: m.GetDigest(), DBBytes: m.GetDbBytes(),
		})
	}
	for _, p := range r.GetSeeds() {
		s.Seeds = append(s.Seeds, SeedStatus{ID(p.GetLeaseId()), p.GetTarget(), p.GetPercent(), p.GetBytesPerSecond()})
	}
	for _, l := range r.GetLeases() {
		s.Leases = append(s.Leases, LeaseStatus{
			ID: ID(l.GetId()), Hold: l.GetHold(), MemberID: ID(l.GetMemberId()).Optional(),
			SourceID: ID(l.GetSourceId()).Optional(), TTLSeconds: float64(l.GetTtlMs()) / 1000,
			CapBytes: l.GetCapBytes(), Target: l.GetTarget(),
		})
	}
	return s
}

// Write prints s for people.
func (s Status) Write(w io.Writer) {
	leader := "none"
	if s.Leader != nil {
		leader = s.Leader.String()
	}
	fmt.Fprintf(w, "cluster %s  leader %s  term %d  log %d-%d  commit %d\n",
		s.ClusterID, leader, s.Term, s.FirstIndex, s.LastIndex, s.Commit)
	rows := [][]string{{"ID", "NAME", "ROLE", "STATE", "REACHABLE", "APPLIED", "LAG", "SIZE", "DIGEST"}}
	for _, m := range s.Members {
		rows = append(rows, []string{m.ID.String(), m.Name, m.Role, m.State, strconv.FormatBool(m.Reachable),
			strconv.FormatUint(m.Applied, 10), strconv.FormatUint(m.Lag, 10), Size(m.DBBytes), m.Digest.String()})
	}
	Table(w, rows...)
	if len(s.Seeds) > 0 {
		rows = [][]string{{"SEED", "TARGET", "DONE", "RATE"}}
		for _, p := range s.Seeds {
			rows = append(rows, []string{p.LeaseID.String(), p.Target, fmt.Sprintf("%.0f%%", p.Percent),
				Size(uint64(p.BytesPerSecond)) + "/s"})
		}
		Table(w, rows...)
	}
	if len(s.Leases) > 0 {
		rows = [][]string{{"LEASE", "TARGET", "HOLD", "TTL", "CAP"}}
		for _, l := range s.Leases {
			rows = append(rows, []string{l.ID.String(), l.Target, strconv.FormatUint(l.Hold, 10),
				fmt.Sprintf("%.0fs", l.TTLSeconds), Size(l.CapBytes)})
		}
		Table(w, rows...)
	}
}
