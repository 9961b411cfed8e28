package node

import (
	"context"
	"strings"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"

	"github.com/chainfire/cfseed/internal/fault"
	"github.com/chainfire/cfseed/internal/state"
	"github.com/chainfire/cfseed/internal/state/auth"
	"github.com/chainfire/cfseed/internal/state/envelope"
	chainfirev1 "github.com/chainfire/cfseed/proto/chainfire/v1"
)

// SeedRole is the role that gives the seed permission: to read the whole database
// by a seed, and to add members, who will have all of it. root has it, too.
const SeedRole = "cfseed-seed"

// ourPrefix is what the methods of package chainfire.v1 begin with.
const ourPrefix = "/chainfire.v1."

// seedGate asks at a client address, while permissions are asked for, what the
// services of package chainfire.v1 need: root, for what changes members that are
// there; root or the seed permission for all the rest. Members among themselves use
// the peer address, which does not ask (S11).
type seedGate struct {
	rules  func() *auth.Rules
	client func(context.Context) (envelope.Client, error)
}

func (g seedGate) ask(ctx context.Context, method string) error {
	rules := g.rules()
	if !rules.Enabled || !strings.HasPrefix(method, ourPrefix) {
		return nil
	}
	c, err := g.client(ctx)
	rules = g.rules() // not older than the client
	switch {
	case err != nil:
		return err
	case c == (envelope.Client{}) && rules.Enabled:
		return fault.Newf(fault.Permission, "authorize", "nobody may call %s", method).
			WithHint("--user NAME:PASSWORD of a user with %s", needed(method))
	case rules.Current(c) != nil:
		return rpctypes.ErrGRPCInvalidAuthToken // so that the client authenticates again
	}
	if rules.Admin(c) == nil || rules.HasRole(c.Name, SeedRole) && !forRoot(method) {
		return nil
	}
	return fault.Newf(fault.Permission, "authorize", "user %q may not call %s", c.Name, method).
		WithHint("it needs %s", needed(method))
}

// forRoot reports whether a method changes members that are there.
func forRoot(method string) bool {
	switch method {
	case chainfirev1.Cluster_MemberRemove_FullMethodName, chainfirev1.Cluster_MemberUpdate_FullMethodName, chainfirev1.Cluster_MemberPromote_FullMethodName:
		return true
	}
	return false
}

func needed(method string) string {
	if forRoot(method) {
		return "the role root"
	}
	return "the role root or " + SeedRole
}

// learnTokens tells the tokens what was applied; on the apply worker, before it
// applies more.
func (m *member) learnTokens(results []state.Result) {
	if len(results) == 0 {
		return
	}
	var changes []*auth.Change
	for _, r := range results {
		if r.Tokens != nil {
			changes = append(changes, r.Tokens)
		}
	}
	m.tokens.Apply(results[len(results)-1].Index, m.state.machine().Auth().Revision, changes...)
}

// resetTokens makes the tokens those of a state nobody sees yet: none.
func (m *member) resetTokens(of *state.Machine) {
	m.tokens.Reset(of.Applied().Index, of.Auth().Revision)
}
