package main

import (
	"context"

	"github.com/urfave/cli/v2"

	"github.com/chainfire/cfseed/cmd/cfseed/internal/command"
	chainfirev1 "github.com/chainfire/cfseed/proto/chainfire/v1"
)

func memberRemoveCommand(env *command.Env) *cli.Command {
	return &cli.Command{
		Name:        "remove",
		Usage:       "Remove a member, or cancel a reservation, for ever",
		ArgsUsage:   "ID",
		Description: "The ID is never used again. The machine may come back as a new member with an empty directory.",
		Flags:       command.Flags(command.ShortClientFlags(), command.OutputFlags()),
		Action: env.Action(func(ctx context.Context, c *cli.Context, s *command.Session) error {
			return changeMember(ctx, c, s, "is removed",
				func(ctx context.Context, cluster chainfirev1.ClusterClient, id uint64) ([]*chainfirev1.Member, error) {
					resp, err := cluster.MemberRemove(ctx, &chainfirev1.MemberRemoveRequest{Id: id})
					return resp.GetMembers(), err
				})
		}),
	}
}
