package seedbench

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/chainfire/cfseed/cmd/cfseed/internal/measure"
	"github.com/chainfire/cfseed/cmd/cfseed/internal/output"
	"github.com/chainfire/cfseed/cmd/cfseed/internal/rig"
	"github.com/chainfire/cfseed/internal/fault"
)

// Pulled is what one `cfseed pull` took. Seconds are those of the process, from
// its start to its end.
type Pulled struct {
	Seconds     float64       `json:"seconds"`
	BytesTotal  uint64        `json:"bytes_total"`
	BytesWire   uint64        `json:"bytes_wire"`
	BytesReused uint64        `json:"bytes_reused"`
	Target      measure.Usage `json:"target"`

	member uint64
}

// pull seeds a directory from a running member.
func pull(ctx context.Context, binary, from, dir string, more ...string) (p Pulled, err error) {
	return pullBy(ctx, []string{binary}, from, dir, more...)
}

// pullAside is pull with the lowest priority for a processor, where the system has
// the command for that: the target stands for one on another machine.
func pullAside(ctx context.Context, binary, from, dir string) (p Pulled, err error) {
	by := []string{binary}
	if nice, err := exec.LookPath("nice"); err == nil {
		by = []string{nice, "-n", "19", binary}
	}
	return pullBy(ctx, by, from, dir)
}

func pullBy(ctx context.Context, by []string, from, dir string, more ...string) (p Pulled, err error) {
	args := append(slices.Clone(by[1:]), "pull", "--from", from, "--data-dir", dir, "-o", "json", "--log-level", "warn")
	cmd := exec.CommandContext(ctx, by[0], append(args, more...)...) //nolint:gosec // our own binary
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	began := time.Now()
	used, err := usageOf(cmd)
	if err != nil {
		return p, fault.Newf(fault.Internal, "pull", "%w: %s%s", err, stdout.Bytes(), stderr.Bytes())
	}
	seconds := time.Since(began).Seconds()
	var told struct {
		MemberID    output.ID `json:"member_id"`
		BytesTotal  uint64    `json:"bytes_total"`
		BytesWire   uint64    `json:"bytes_wire"`
		BytesReused uint64    `json:"bytes_reused"`
	}
	if err := json.Unmarshal(stdout.Bytes(), &told); err != nil {
		return p, fault.New(fault.Internal, "pull", err)
	}
	return Pulled{Seconds: seconds, BytesTotal: told.BytesTotal, BytesWire: told.BytesWire, BytesReused: told.BytesReused,
		Target: used, member: uint64(told.MemberID)}, nil
}

// usageOf runs a command to its end. The peak of its memory is read while it
// runs: what the kernel tells of a child at its end also counts the memory of
// this process, from which it was forked.
func usageOf(cmd *exec.Cmd) (u measure.Usage, err error) {
	if err := cmd.Start(); err != nil {
		return u, err
	}
	ended := make(chan struct{})
	var looking sync.WaitGroup
	looking.Go(func() {
		tick := time.NewTicker(10 * time.Millisecond)
		defer tick.Stop()
		for {
			if peak, err := measure.PeakRSS(cmd.Process.Pid); err == nil {
				u.PeakRSS = peak // it never falls
			}
			select {
			case <-ended:
				return
			case <-tick.C:
			}
		}
	})
	err = cmd.Wait()
	close(ended)
	looking.Wait()
	u.CPUSeconds = (cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime()).Seconds()
	return u, err
}

// forget ends the reservation and the lease of a pull and removes its
// directory, so that the next one begins as this one did.
func forget(ctx context.Context, r *rig.Rig, p Pulled, dir string) error {
	return errors.Join(r.Remove(ctx, p.member), os.RemoveAll(dir))
}

// checkpoints are the directories that a member serves seeds from.
func checkpoints(dataDir string) ([]string, error) {
	entries, err := os.ReadDir(filepath.Join(dataDir, "seeds"))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fault.New(fault.Internal, "bench", err)
	}
	var out []string
	for _, e := range entries {
		if e.IsDir() {
			out = append(out, filepath.Join(dataDir, "seeds", e.Name()))
		}
	}
	return out, nil
}
