// Package bench measures what it costs to seed a member, beside copying the
// same files, on a cluster of processes of this machine. Both sides run in one
// run, in turns, synced to disk and under the same load; every sample is kept.
//
// One cell is a number of members and a number of bytes. One run of a cell is
//
//	start all members anew, wait until they are idle, offer the load
//	quiet     the load alone: what a put costs
//	seed      `cfseed member add` of a waiting node, from call to voter; the
//	          source is the leader where it is alone, else a follower
//	copy      files of the leader's data directory copied and synced
//	          (in every second run before the seed)
//	start all members anew, wait until they are idle, offer the load
//	quiet     as above
//	control   the load alone, for as long as the seed took
//
// A start before each part keeps what one part leaves in memory out of the
// next one, and no sum of a file that an earlier seed made helps a later one.
package bench

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/chainfire/cfseed/cmd/cfseed/internal/measure"
	"github.com/chainfire/cfseed/cmd/cfseed/internal/output"
	"github.com/chainfire/cfseed/cmd/cfseed/internal/workload"
	"github.com/chainfire/cfseed/internal/fault"
)

// Config is what a benchmark is told.
type Config struct {
	Binary    string   // of cfseed itself
	Dir       string   // where data directories are made; empty: the system's
	Sizes     []uint64 // bytes of values
	Members   []int    // members before the join
	ValueSize int      // bytes, at least workload.MinValueSize
	Runs      int
	Rate      int           // puts a second
	Quiet     time.Duration // of a window without anything else
	Seed      uint64        // of the values
	Progress  output.Progress
	Say       func(format string, args ...any) // a line of narration
}

// Report is what was measured.
type Report struct {
	Command string          `json:"command"`
	Started time.Time       `json:"started"`
	Machine measure.Machine `json:"machine"`
	Runs    int             `json:"runs"`
	Rate    int             `json:"puts_per_second"`
	Seconds float64         `json:"seconds"`
	Cells   []Cell          `json:"cells"`
}

// Cell is one number of members and bytes.
type Cell struct {
	Members     int           `json:"members"`
	Bytes       uint64        `json:"bytes"`
	ValueSize   int           `json:"value_size"`
	Values      int           `json:"values"`
	LoadSeconds float64       `json:"load_seconds"`
	Samples     []Sample      `json:"samples"`
	Rows        []measure.Row `json:"rows"`
}

// Sample is one run of a cell. Times are in seconds, sizes in bytes.
type Sample struct {
	Run       int  `json:"run"`
	CopyFirst bool `json:"copy_first"`

	Seconds           float64        `json:"seconds"` // from the call of member add to its end: a voter
	Phases            []output.Phase `json:"phases"`
	BytesTotal        uint64         `json:"bytes_total"`
	BytesWire         uint64         `json:"bytes_wire"`
	EntriesAfterAdd   uint64         `json:"entries_after_add"`
	RaftSnapshotsSent uint64         `json:"raft_snapshots_sent"`

	Copy measure.Copied `json:"copy"`

	PutQuiet   measure.Latency `json:"put_quiet"`
	PutSeed    measure.Latency `json:"put_seed"`
	PutCopy    measure.Latency `json:"put_copy"`
	PutControl measure.Latency `json:"put_control"`

	Source  measure.Usage `json:"source"`
	Target  measure.Usage `json:"target"`
	Control measure.Usage `json:"control"` // of the source, without a seed

	LoadAverage string `json:"load_average"` // of the machine, before the run
}

// Run measures every cell. Slowness is a row of the report, never an error.
func Run(ctx context.Context, cfg Config) (rep Report, err error) {
	began := time.Now()
	rep = Report{Started: began.UTC(), Runs: cfg.Runs, Rate: cfg.Rate}
	dir, err := os.MkdirTemp(cfg.Dir, "cfseed-bench-")
	if err != nil {
		return rep, fault.New(fault.Internal, "bench", err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	rep.Machine = measure.MachineAt(dir)
	for _, members := range cfg.Members {
		for _, size := range cfg.Sizes {
			c, err := cell(ctx, cfg, dir, members, size)
			if err != nil {
				return rep, fmt.Errorf("%s, %s: %w", MemberCount(members), output.Size(size), err)
			}
			c.Rows = rows(c)
			rep.Cells = append(rep.Cells, c)
		}
	}
	rep.Seconds = time.Since(began).Seconds()
	return rep, nil
}

// Check says what is wrong with a configuration.
func (c Config) Check() error {
	const op = "bench"
	switch {
	case len(c.Sizes) == 0 || len(c.Members) == 0:
		return fault.Newf(fault.Usage, op, "nothing to measure: give --sizes and --members")
	case c.Runs < 1 || c.Rate < 1 || c.Rate > 10000:
		return fault.Newf(fault.Usage, op, "want at least one run, and 1 to 10000 puts a second")
	case c.ValueSize < workload.MinValueSize:
		return fault.Newf(fault.Usage, op, "--value-size %d: want at least %d", c.ValueSize, workload.MinValueSize)
	case c.Quiet < time.Second:
		return fault.Newf(fault.Usage, op, "--quiet %s: want at least 1s", c.Quiet)
	}
	for _, s := range c.Sizes {
		if s < 1<<20 {
			return fault.Newf(fault.Usage, op, "--sizes: want at least 1MiB each")
		}
	}
	for _, m := range c.Members {
		if m < 1 || m > 7 {
			return fault.Newf(fault.Usage, op, "--members: want 1 to 7 each")
		}
	}
	return nil
}
