package main

import (
	"context"
	"crypto/rand"
	"fmt"
	"io"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/urfave/cli/v2"

	"github.com/chainfire/cfseed/cmd/cfseed/internal/command"
	"github.com/chainfire/cfseed/cmd/cfseed/internal/output"
	"github.com/chainfire/cfseed/internal/datadir"
	"github.com/chainfire/cfseed/internal/fault"
	"github.com/chainfire/cfseed/node"
	"github.com/chainfire/cfseed/transfer"
)

func snapshotRestoreCommand(env *command.Env) *cli.Command {
	return &cli.Command{
		Name:      "restore",
		Usage:     "Make the data directory of a member of a new cluster from an archive",
		ArgsUsage: "FILE",
		Description: "The new cluster has the archive's keys, leases and users, and members of its own. Run it once for each of\n" +
			"them, with the same FILE, --initial-cluster and --initial-cluster-token, and start each with `cfseed node`.",
		Flags: command.Flags([]cli.Flag{
			&cli.StringFlag{Name: "data-dir", Usage: "the member's data `DIR`"},
			&cli.StringFlag{Name: "name", Value: node.DefaultName, Usage: "`NAME` of the member"},
			&cli.StringFlag{Name: "initial-cluster", Usage: "all members of the new cluster, `NAME=URL,...`; default this one alone"},
			&cli.StringFlag{Name: "initial-cluster-token", Value: node.DefaultToken, Usage: "`TOKEN` that IDs are derived from, too"},
			&cli.StringFlag{Name: "initial-advertise-peer-urls", Usage: "the member's peer `URLS`; default those of --initial-cluster, or " + node.DefaultPeerURL},
			&cli.Uint64Flag{Name: "bump-revision", Usage: "pass over `N` revisions, more than were written since the archive; with --mark-compacted"},
			&cli.BoolFlag{Name: "mark-compacted", Usage: "revisions before those are compacted, which ends watches and caches that know later ones; with --bump-revision"},
		}, command.OutputFlags()),
		Action: env.Action(snapshotRestore),
	}
}

func snapshotRestore(ctx context.Context, c *cli.Context, s *command.Session) error {
	switch bump := c.Uint64("bump-revision"); {
	case c.String("data-dir") == "":
		return fault.Newf(fault.Usage, "", "--data-dir is needed")
	case (bump > 0) != c.Bool("mark-compacted"):
		return fault.Newf(fault.Usage, "", "--bump-revision and --mark-compacted go together").
			WithHint("a client that knows a revision which was passed over must hear that it is compacted")
	}
	progress := output.NewProgress(s.Stderr, s.Terminal, s.Log)
	defer progress.Close(false)
	began := time.Now()
	out, err := node.Restore(ctx, node.RestoreConfig{
		Dir: datadir.At(vfs.Default, c.String("data-dir")), Archive: c.Args().First(), Name: c.String("name"),
		PeerURLs: list(c, "initial-advertise-peer-urls"), InitialCluster: c.String("initial-cluster"), Token: c.String("initial-cluster-token"),
		Bump: c.Uint64("bump-revision"), Rand: rand.Reader, Logger: s.Log, Started: progress.Phase,
		Moved: func(p transfer.Progress) { progress.Transfer(p.BytesDone, p.BytesTotal, p.BytesWire, p.Rate) },
	})
	if err != nil {
		return err
	}
	progress.Close(true)
	shape := restoreShape(out, time.Since(began))
	return s.Out.Result(shape, func(w io.Writer) { writeRestore(w, shape, c.String("data-dir")) })
}

// restoreResult is the JSON of the command.
type restoreResult struct {
	ClusterID    output.ID        `json:"cluster_id"`
	MemberID     output.ID        `json:"member_id"`
	Name         string           `json:"name"`
	Position     *output.Position `json:"position"`
	Revision     int64            `json:"revision"`
	Members      []restoredMember `json:"members"`
	RestoredFrom restoredFrom     `json:"restored_from"`
	Files        int              `json:"files"`
	BytesTotal   uint64           `json:"bytes_total"`
	Seconds      float64          `json:"seconds"`
}

type restoredMember struct {
	ID       output.ID `json:"id"`
	Name     string    `json:"name"`
	PeerURLs []string  `json:"peer_urls"`
}

// restoredFrom says what the archive held.
type restoredFrom struct {
	ClusterID    output.ID        `json:"cluster_id"`
	Position     *output.Position `json:"position"`
	Revision     int64            `json:"revision"`
	ManifestRoot output.Hex       `json:"manifest_root"`
}

func restoreShape(out *node.Restored, took time.Duration) restoreResult {
	m, root := out.Archive, out.Archive.Root()
	r := restoreResult{
		ClusterID: output.ID(out.Identity.Cluster.ID), MemberID: output.ID(out.Identity.MemberID), Name: out.Identity.Name,
		Position: &output.Position{Term: out.Position.Term, Index: out.Position.Index}, Revision: out.Revision,
		RestoredFrom: restoredFrom{ClusterID: output.ID(m.Cluster.ID), Position: &output.Position{Term: m.Position.Term, Index: m.Position.Index},
			Revision: m.Revision, ManifestRoot: root[:]},
		Files: len(m.Files), BytesTotal: m.TotalBytes(), Seconds: took.Seconds(),
	}
	for _, one := range out.Members {
		r.Members = append(r.Members, restoredMember{ID: output.ID(one.ID), Name: one.Name, PeerURLs: one.PeerURLs})
	}
	return r
}

func writeRestore(w io.Writer, r restoreResult, dir string) {
	fmt.Fprintf(w, "%s is that of member %s (%s) of the new cluster %s, which has %d, at %s, revision %d: %s in %d files of cluster %s, %.2fs\n",
		dir, r.MemberID, r.Name, r.ClusterID, len(r.Members), r.Position, r.Revision, output.Size(r.BytesTotal), r.Files, r.RestoredFrom.ClusterID, r.Seconds)
	fmt.Fprintf(w, "start it with: cfseed node --name %s --data-dir %s ...\n", r.Name, dir)
}
