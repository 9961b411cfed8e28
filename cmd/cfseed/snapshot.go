package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/urfave/cli/v2"

	"github.com/chainfire/cfseed/cmd/cfseed/internal/command"
	"github.com/chainfire/cfseed/cmd/cfseed/internal/output"
	"github.com/chainfire/cfseed/internal/fault"
	"github.com/chainfire/cfseed/snapshot/archive"
	"github.com/chainfire/cfseed/snapshot/manifest"
)

func snapshotCommand(env *command.Env) *cli.Command {
	return &cli.Command{
		Name:        "snapshot",
		Usage:       "Keep a member's data as one file",
		Subcommands: []*cli.Command{snapshotSaveCommand(env), snapshotInspectCommand(env), snapshotRestoreCommand(env)},
	}
}

func snapshotInspectCommand(env *command.Env) *cli.Command {
	return &cli.Command{
		Name:      "inspect",
		Usage:     "Read an archive to its end, check it and say what it holds",
		ArgsUsage: "FILE",
		Flags:     command.OutputFlags(),
		Action: env.Action(func(ctx context.Context, c *cli.Context, s *command.Session) error {
			path := c.Args().First()
			m, size, err := inspectArchive(ctx, path)
			if err != nil {
				return err
			}
			return printArchive(s, path, m, size)
		}),
	}
}

// inspectArchive reads a file to its end, and gives what it holds and its size.
func inspectArchive(ctx context.Context, path string) (m *manifest.Manifest, size int64, err error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, 0, fault.New(fault.Usage, "read archive", err)
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	info, err := f.Stat()
	if err != nil {
		return nil, 0, fault.New(fault.Internal, "read archive", err)
	}
	a, err := archive.Open(f)
	if err != nil {
		return nil, 0, err
	}
	return a.Manifest(), info.Size(), a.Check(ctx)
}

// archiveResult is the JSON of both commands.
type archiveResult struct {
	File         string           `json:"file"`
	Bytes        int64            `json:"bytes"`
	ClusterID    output.ID        `json:"cluster_id"`
	Position     *output.Position `json:"position"`
	Revision     int64            `json:"revision"`
	Digest       output.Hex       `json:"digest"`
	Files        int              `json:"files"`
	BytesTotal   uint64           `json:"bytes_total"`
	ManifestRoot output.Hex       `json:"manifest_root"`
}

func printArchive(s *command.Session, path string, m *manifest.Manifest, size int64) error {
	root := m.Root()
	r := archiveResult{File: path, Bytes: size, ClusterID: output.ID(m.Cluster.ID),
		Position: &output.Position{Term: m.Position.Term, Index: m.Position.Index}, Revision: m.Revision, Digest: m.StateDigest[:],
		Files: len(m.Files), BytesTotal: m.TotalBytes(), ManifestRoot: root[:]}
	return s.Out.Result(r, func(w io.Writer) {
		fmt.Fprintf(w, "%s holds cluster %s at %s, revision %d: %s in %d files\n", r.File, r.ClusterID, r.Position, r.Revision,
			output.Size(r.BytesTotal), r.Files)
	})
}
