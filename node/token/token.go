package token

import (
	"context"
	"strings"
	"time"

	"github.com/chainfire/cfseed/internal/fault"
	"github.com/chainfire/cfseed/internal/state/auth"
	"github.com/chainfire/cfseed/internal/state/envelope"
)

// DefaultTTL is for how long a token lives: of a simple one after its last use.
// It is etcd's.
const DefaultTTL = 5 * time.Minute

// Provider makes and reads tokens of one kind. It may be used from any goroutine.
type Provider interface {
	// Assign gives a token to a client that has shown its password. share makes a
	// token's sum known to all members and gives the index of the entry that did.
	Assign(c envelope.Client, share func(sum []byte) (index uint64, err error)) (string, error)
	// Client says whom a token is of, and at which revision of users and roles that
	// was so: the state may have a newer one, in which the token is void. It may
	// wait, a bounded time and not past the end of ctx, for entries that this member
	// has not applied yet.
	Client(ctx context.Context, token string) (c envelope.Client, ok bool)
	// Apply notes what entries did, in order; index is that of the last one applied,
	// revision that of users and roles after it.
	Apply(index, revision uint64, changes ...*auth.Change)
	// Reset forgets all tokens; index and revision are as in Apply. It is called
	// before anybody sees the state that they are of.
	Reset(index, revision uint64)
}

// New makes the provider that etcd's --auth-token describes: "simple", or "jwt" and
// options (see NewJWT) after commas. ttl is for simple tokens. Errors are of class
// fault.Usage.
func New(spec string, ttl time.Duration) (Provider, error) {
	kind, rest, _ := strings.Cut(spec, ",")
	options := map[string]string{}
	if rest != "" {
		for pair := range strings.SplitSeq(rest, ",") {
			name, value, ok := strings.Cut(pair, "=")
			if _, twice := options[name]; !ok || twice {
				return nil, fault.Newf(fault.Usage, flag, "%q: want %s,NAME=VALUE,..., each name once", spec, kind)
			}
			options[name] = value
		}
	}
	switch kind {
	case "simple":
		if len(options) > 0 {
			return nil, fault.Newf(fault.Usage, flag, "%q: simple has no options", spec)
		}
		return NewSimple(ttl), nil
	case "jwt":
		return NewJWT(options)
	}
	return nil, fault.Newf(fault.Usage, flag, "%q: want simple, or jwt and its options", spec)
}

const flag = "--auth-token"
