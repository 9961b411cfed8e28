package main

import (
	"context"
	"fmt"
	"io"
	"strings"

	"github.com/urfave/cli/v2"
	"google.golang.org/grpc"

	"github.com/chainfire/cfseed/cmd/cfseed/internal/command"
	"github.com/chainfire/cfseed/cmd/cfseed/internal/output"
	"github.com/chainfire/cfseed/internal/fault"
	"github.com/chainfire/cfseed/internal/ident"
	"github.com/chainfire/cfseed/internal/netsec"
	chainfirev1 "github.com/chainfire/cfseed/proto/chainfire/v1"
)

func memberCommand(env *command.Env) *cli.Command {
	return &cli.Command{
		Name:  "member",
		Usage: "Add, list and change members",
		Subcommands: []*cli.Command{
			memberAddCommand(env),
			memberListCommand(env),
			memberPromoteCommand(env),
			memberRemoveCommand(env),
			memberUpdateCommand(env),
			memberTokenCommand(env),
		},
	}
}

// membersResult is the JSON of commands that change a member.
type membersResult struct {
	Members []output.Member `json:"members"`
}

// changeCall asks for one change of the member id and gives the members after it.
type changeCall func(ctx context.Context, cluster chainfirev1.ClusterClient, id uint64) ([]*chainfirev1.Member, error)

// changeMember runs a command whose first argument is a member's ID; done says
// what happened to it.
func changeMember(ctx context.Context, c *cli.Context, s *command.Session, done string, change changeCall) error {
	id, err := ident.ParseID(c.Args().First())
	if err != nil {
		return fault.New(fault.Usage, "", err).WithHint("cfseed member list shows the IDs")
	}
	dialer, err := command.Dialer(c)
	if err != nil {
		return err
	}
	var members []*chainfirev1.Member
	err = dialer.Write(ctx, "member "+c.Command.Name, func(ctx context.Context, conn *grpc.ClientConn) (err error) {
		members, err = change(ctx, chainfirev1.NewClusterClient(conn), id)
		return err
	})
	if err != nil {
		return err
	}
	return s.Out.Result(membersResult{output.MembersOf(members)}, func(w io.Writer) {
		fmt.Fprintf(w, "member %s %s\n", output.ID(id), done)
	})
}

// urls reads a list of URLs separated by commas.
func urls(c *cli.Context, name string) ([]string, error) {
	var out []string
	for _, u := range strings.Split(c.String(name), ",") {
		if u = strings.TrimSpace(u); u == "" {
			continue
		}
		if _, err := netsec.ParseURL(u); err != nil {
			return nil, fault.New(fault.Usage, "--"+name, err)
		}
		out = append(out, u)
	}
	if len(out) == 0 {
		return nil, fault.Newf(fault.Usage, "", "--%s is needed", name).WithHint("%s --help", c.Command.HelpName)
	}
	return out, nil
}

func peerURLsFlag() cli.Flag {
	return &cli.StringFlag{Name: "peer-urls", Usage: "`URLS` at which the members reach it, separated by commas"}
}
