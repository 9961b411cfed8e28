package seedbench

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"time"

	"github.com/chainfire/cfseed/cmd/cfseed/internal/cluster"
	"github.com/chainfire/cfseed/cmd/cfseed/internal/measure"
	"github.com/chainfire/cfseed/cmd/cfseed/internal/output"
	"github.com/chainfire/cfseed/cmd/cfseed/internal/plot"
	"github.com/chainfire/cfseed/cmd/cfseed/internal/rig"
	"github.com/chainfire/cfseed/cmd/cfseed/internal/workload"
	"github.com/chainfire/cfseed/internal/fault"
	"github.com/chainfire/cfseed/internal/netsec"
	chainfirev1 "github.com/chainfire/cfseed/proto/chainfire/v1"
)

// maxAdmit is how many seconds a join may take once the bytes are there.
const maxAdmit = 1

// Admit is one run: what is left of a join once the bytes are there, both ways
// to bring them.
type Admit struct {
	Run  int    `json:"run"`
	Size uint64 `json:"size"`

	Pull  Pulled  `json:"pull"`
	Ready float64 `json:"ready_seconds"` // from the start of the node to its ready line
	Voter float64 `json:"voter_seconds"` // from the start of the node until it is a voter

	Push   float64        `json:"push_seconds"`
	Add    float64        `json:"add_seconds"` // member add after the push, from call to voter
	Phases []output.Phase `json:"phases"`
	Again  uint64         `json:"bytes_wire_again"` // that member add moved; a push has moved all
}

func admit(ctx context.Context, g *ground) (tables []Table, err error) {
	sizes := g.cfg.Sizes[:1]
	if n := len(g.cfg.Sizes); n > 1 {
		sizes = []uint64{g.cfg.Sizes[0], g.cfg.Sizes[n-1]}
	}
	for _, size := range sizes {
		t, err := admitOf(ctx, g, size)
		if err != nil {
			return tables, fmt.Errorf("%s: %w", output.Size(size), err)
		}
		tables = append(tables, t)
	}
	return tables, nil
}

func admitOf(ctx context.Context, g *ground, size uint64) (t Table, err error) {
	r, loaded, err := g.rig(ctx, size)
	if err != nil {
		return t, err
	}
	defer func() { err = errors.Join(err, r.Close()) }()
	var samples []Admit
	for run := range g.cfg.Runs {
		g.cfg.Progress.Phase(fmt.Sprintf("admit, %s, run %d of %d", output.Size(size), run+1, g.cfg.Runs))
		s := Admit{Run: run, Size: size}
		err := r.UnderLoad(ctx, workload.Puts{Rate: slowRate, ValueSize: loaded.valueSize, Seed: g.cfg.Seed + 1}, func() error {
			return errors.Join(afterPull(ctx, g.cfg.Binary, r, &s), afterPush(ctx, r, &s))
		})
		if err != nil {
			return t, fmt.Errorf("run %d: %w", run, err)
		}
		g.cfg.Say("pulled: voter after %.2f s; pushed: voter after %.2f s", s.Voter, s.Add)
		samples = append(samples, s)
	}
	return admitTable(loaded, samples), nil
}

// afterPull pulls, starts a node on what came, and waits until it is a voter.
func afterPull(ctx context.Context, binary string, r *rig.Rig, s *Admit) (err error) {
	name := fmt.Sprintf("p%d", s.Run)
	if s.Pull, err = pull(ctx, binary, r.Leader.Client(), filepath.Join(r.Dir, name), "--name", name); err != nil {
		return err
	}
	began := time.Now()
	p, err := r.Cluster.Start(ctx, name, "--join", r.Leader.Client())
	if err != nil {
		return err
	}
	if err := p.Ready(ctx); err != nil {
		return err
	}
	s.Ready = time.Since(began).Seconds()
	if err := awaitVoter(ctx, r.Leader, s.Pull.member); err != nil {
		return err
	}
	s.Voter = time.Since(began).Seconds()
	if err := r.Remove(ctx, s.Pull.member); err != nil {
		return err
	}
	return r.Cluster.Remove(p)
}

// awaitVoter asks a member until another one votes.
func awaitVoter(ctx context.Context, at *cluster.Process, id uint64) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	conn, err := netsec.Dial(at.Client(), netsec.Files{})
	if err != nil {
		return err
	}
	defer conn.Close() //nolint:errcheck // every question was answered
	members := chainfirev1.NewClusterClient(conn)
	for {
		list, err := members.MemberList(ctx, &chainfirev1.MemberListRequest{})
		if err != nil {
			return fault.New(fault.Internal, "member list", err)
		}
		for _, m := range list.GetMembers() {
			if m.GetId() == id && m.GetRole() == "voter" && m.GetState() == "member" {
				return nil
			}
		}
		if err := workload.Pause(ctx, 10*time.Millisecond); err != nil {
			return fault.New(fault.Timeout, "await voter", err)
		}
	}
}

// afterPush pushes into a waiting node and adds it.
func afterPush(ctx context.Context, r *rig.Rig, s *Admit) error {
	p, err := r.Cluster.Start(ctx, fmt.Sprintf("q%d", s.Run), "--await-seed")
	if err != nil {
		return err
	}
	var pushed output.Transfer
	began := time.Now()
	if err := r.Cluster.Command(ctx, &pushed, "push", "--from", r.Leader.Client(), "--to", p.Peer()); err != nil {
		return err
	}
	s.Push = time.Since(began).Seconds()
	began = time.Now()
	added, err := r.Add(ctx, p)
	s.Add = time.Since(began).Seconds()
	if err != nil {
		return err
	}
	if err := rig.Voter(added); err != nil {
		return err
	}
	s.Phases = added.Phases
	if added.BytesWire != nil {
		s.Again = *added.BytesWire
	}
	if err := r.Remove(ctx, uint64(added.MemberID)); err != nil {
		return err
	}
	return r.Cluster.Remove(p)
}

func admitTable(loaded template, samples []Admit) Table {
	row := func(name, unit string, of func(Admit) float64) measure.Row {
		return measure.RowOf(name, unit, samples, of)
	}
	joined := row("pulled, then node --join: until a voter", "s", func(s Admit) float64 { return s.Voter }).AtMost(maxAdmit)
	added := row("pushed, then member add: until a voter", "s", func(s Admit) float64 { return s.Add }).AtMost(maxAdmit)
	rows := []measure.Row{
		row("pull", "s", func(s Admit) float64 { return s.Pull.Seconds }),
		joined,
		row("  until it serves clients", "s", func(s Admit) float64 { return s.Ready }),
		row("push", "s", func(s Admit) float64 { return s.Push }),
		added,
	}
	if len(samples) > 0 {
		for _, p := range samples[0].Phases {
			rows = append(rows, row("  "+p.Name, "s", func(s Admit) float64 { return output.PhaseSeconds(s.Phases, p.Name) }))
		}
	}
	rows = append(rows, row("  bytes moved again", "", func(s Admit) float64 { return float64(s.Again) }).Never())
	return Table{Name: "admit", Title: fmt.Sprintf("%s, 1 member, %d puts/s: what is left of a join once the bytes are there; runs: %d", loaded, slowRate, len(samples)),
		Rows: rows, Samples: samples,
		Charts: []plot.Chart{{Name: "admit-" + stem(loaded.size), Title: "A join of " + loaded.String() + " once the bytes are there", Unit: "s",
			Bound: maxAdmit, Bars: bars([]measure.Row{joined, added})}}}
}
