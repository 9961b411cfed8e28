package main

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"io"

	"github.com/urfave/cli/v2"

	"github.com/chainfire/cfseed/cmd/cfseed/internal/command"
	"github.com/chainfire/cfseed/internal/fault"
)

// tokenBytes make a token that nobody guesses.
const tokenBytes = 16

// tokenResult is the shape of the member token command's JSON.
type tokenResult struct {
	Name  string `json:"name"`
	Token string `json:"token"`
}

func memberTokenCommand(env *command.Env) *cli.Command {
	return &cli.Command{
		Name:      "token",
		Usage:     "Print a random join token for a node that will wait for its seed",
		ArgsUsage: "NAME",
		Description: "Nothing is stored and no member is asked. Give the token to the node and to whoever adds it:\n" +
			"  CFSEED_JOIN_TOKEN=TOKEN cfseed node --name NAME --await-seed ...\n" +
			"  CFSEED_JOIN_TOKEN=TOKEN cfseed member add NAME --peer-urls URL",
		Flags: command.OutputFlags(),
		Action: env.Action(func(_ context.Context, c *cli.Context, s *command.Session) error {
			random := make([]byte, tokenBytes)
			if _, err := rand.Read(random); err != nil {
				return fault.New(fault.Internal, "member token", err)
			}
			result := tokenResult{Name: c.Args().First(), Token: hex.EncodeToString(random)}
			return s.Out.Result(result, func(w io.Writer) { fmt.Fprintln(w, result.Token) })
		}),
	}
}
