package main

import (
	"context"

	"github.com/urfave/cli/v2"

	"github.com/chainfire/cfseed/cmd/cfseed/internal/command"
	chainfirev1 "github.com/chainfire/cfseed/proto/chainfire/v1"
)

func memberPromoteCommand(env *command.Env) *cli.Command {
	return &cli.Command{
		Name:      "promote",
		Usage:     "Make a learner a voter",
		ArgsUsage: "ID",
		Description: "Refused unless the learner is caught up and in contact. For one that has only just caught up\n" +
			"it waits, within --timeout, until it has been so for a moment.",
		Flags: command.Flags(command.ShortClientFlags(), command.OutputFlags()),
		Action: env.Action(func(ctx context.Context, c *cli.Context, s *command.Session) error {
			return changeMember(ctx, c, s, "is a voter",
				func(ctx context.Context, cluster chainfirev1.ClusterClient, id uint64) ([]*chainfirev1.Member, error) {
					resp, err := cluster.MemberPromote(ctx, &chainfirev1.MemberPromoteRequest{Id: id})
					return resp.GetMembers(), err
				})
		}),
	}
}
