package member

import (
	"github.com/chainfire/cfseed/internal/fault"
	"github.com/chainfire/cfseed/internal/ident"
	"github.com/chainfire/cfseed/internal/state/store"
	entryv1 "github.com/chainfire/cfseed/proto/chainfire/entry/v1"
)

// Found replaces who the cluster is by the voters of a new one, added at index,
// and gives its configuration: the cluster row goes, so that the new cluster's
// first leader writes its own, and so do all members, reservations, removed IDs
// and seed leases. The rules of BootstrapVoter hold; an ID that the tables know
// in any state is refused, since it names a member of the old cluster. After an
// error the tables are not to be committed.
func Found(b Tables, index uint64, voters []*entryv1.BootstrapVoter) (*entryv1.ConfState, error) {
	const op = "found cluster"
	if len(voters) == 0 {
		return nil, refuse(fault.Usage, op, nil, "a cluster needs a voter")
	}
	old, err := Members(b)
	if err != nil {
		return nil, err
	}
	for _, v := range voters {
		for _, rec := range old {
			if rec.GetId() == v.GetId() {
				return nil, refuse(fault.Refused, op, nil, "ID %s is that of a member of the old cluster", ident.FormatID(v.GetId()))
			}
		}
	}
	for _, t := range []store.Table{store.Cluster, store.Members, store.SeedLeases} {
		if err := clearTable(b, t); err != nil {
			return nil, err
		}
	}
	conf := &entryv1.ConfState{}
	for _, v := range voters {
		if _, err := bootstrapVoter(b, conf, index, v); err != nil {
			return nil, err
		}
	}
	return conf, nil
}

func clearTable(b Tables, t store.Table) error {
	return b.Scan(t, nil, func(key, _ []byte) error { return b.Delete(t, key) })
}
