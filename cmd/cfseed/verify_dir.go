package main

import (
	"context"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/chainfire/cfseed/cmd/cfseed/internal/command"
	"github.com/chainfire/cfseed/cmd/cfseed/internal/output"
	"github.com/chainfire/cfseed/internal/ident"
	"github.com/chainfire/cfseed/verify"
)

// verifyDir judges the data directory of a stopped node.
func verifyDir(ctx context.Context, s *command.Session, dir string, quick bool) (*output.Report, error) {
	progress := output.NewProgress(s.Stderr, s.Terminal, s.Log)
	defer progress.Close(false)
	judged, err := verify.Dir(ctx, vfs.Default, dir, verify.Options{Quick: quick, Logger: s.Log, Began: progress.Phase})
	if err != nil {
		return nil, err
	}
	progress.Close(true)
	return reportOf(judged), nil
}

// reportOf gives the shape that is printed.
func reportOf(judged *verify.Report) *output.Report {
	report := output.NewReport()
	report.OK, report.Revision, report.Cluster = judged.OK, judged.Revision, output.ID(judged.Cluster.ID)
	for _, c := range judged.Checks {
		report.Checks = append(report.Checks, output.Check{Name: c.Name, Status: string(c.Status), Detail: c.Detail, Seconds: c.Seconds})
	}
	for _, f := range judged.Findings {
		report.Findings = append(report.Findings, output.Finding{Code: f.Code, Path: f.Path, Detail: f.Detail})
	}
	if judged.Digest != [16]byte{} {
		report.Digest = judged.Digest[:]
	}
	if judged.Position != (ident.Position{}) {
		report.Position = &output.Position{Term: judged.Position.Term, Index: judged.Position.Index}
	}
	return report
}
