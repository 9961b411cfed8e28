package main

import (
	"context"

	"github.com/urfave/cli/v2"

	"github.com/chainfire/cfseed/cmd/cfseed/internal/command"
	chainfirev1 "github.com/chainfire/cfseed/proto/chainfire/v1"
)

func memberUpdateCommand(env *command.Env) *cli.Command {
	return &cli.Command{
		Name:        "update",
		Usage:       "Change a member's peer URLs",
		ArgsUsage:   "ID",
		Description: "The role stays as it is.",
		Flags: command.Flags([]cli.Flag{
			peerURLsFlag(),
		}, command.ShortClientFlags(), command.OutputFlags()),
		Action: env.Action(func(ctx context.Context, c *cli.Context, s *command.Session) error {
			peerURLs, err := urls(c, "peer-urls")
			if err != nil {
				return err
			}
			return changeMember(ctx, c, s, "is updated",
				func(ctx context.Context, cluster chainfirev1.ClusterClient, id uint64) ([]*chainfirev1.Member, error) {
					resp, err := cluster.MemberUpdate(ctx, &chainfirev1.MemberUpdateRequest{Id: id, PeerUrls: peerURLs})
					return resp.GetMembers(), err
				})
		}),
	}
}
