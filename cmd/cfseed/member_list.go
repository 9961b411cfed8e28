package main

import (
	"context"
	"io"
	"strings"

	"github.com/urfave/cli/v2"
	"google.golang.org/grpc"

	"github.com/chainfire/cfseed/cmd/cfseed/internal/command"
	"github.com/chainfire/cfseed/cmd/cfseed/internal/output"
	chainfirev1 "github.com/chainfire/cfseed/proto/chainfire/v1"
)

// memberListResult is the shape of the member list command's JSON.
type memberListResult struct {
	ClusterID output.ID       `json:"cluster_id"`
	Members   []output.Member `json:"members"`
}

func memberListCommand(env *command.Env) *cli.Command {
	return &cli.Command{
		Name:  "list",
		Usage: "Print the members, reservations too",
		Flags: command.Flags([]cli.Flag{
			&cli.BoolFlag{Name: "local", Usage: "as the member that is asked knows it, without asking the leader"},
		}, command.ShortClientFlags(), command.OutputFlags()),
		Action: env.Action(memberList),
	}
}

func memberList(ctx context.Context, c *cli.Context, s *command.Session) error {
	dialer, err := command.Dialer(c)
	if err != nil {
		return err
	}
	var resp *chainfirev1.MemberListResponse
	err = dialer.Read(ctx, "member list", func(ctx context.Context, conn *grpc.ClientConn) (err error) {
		resp, err = chainfirev1.NewClusterClient(conn).MemberList(ctx,
			&chainfirev1.MemberListRequest{Linearizable: !c.Bool("local")})
		return err
	})
	if err != nil {
		return err
	}
	result := memberListResult{output.ID(resp.GetClusterId()), output.MembersOf(resp.GetMembers())}
	return s.Out.Result(result, func(w io.Writer) {
		rows := [][]string{{"ID", "NAME", "ROLE", "STATE", "PEER URLS", "CLIENT URLS"}}
		for _, m := range result.Members {
			rows = append(rows, []string{m.ID.String(), m.Name, m.Role, m.State,
				strings.Join(m.PeerURLs, ","), strings.Join(m.ClientURLs, ",")})
		}
		output.Table(w, rows...)
	})
}
