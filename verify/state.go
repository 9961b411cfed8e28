package verify

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/chainfire/cfseed/internal/fault"
	"github.com/chainfire/cfseed/internal/ident"
	"github.com/chainfire/cfseed/internal/state/alarm"
	"github.com/chainfire/cfseed/internal/state/auth"
	"github.com/chainfire/cfseed/internal/state/member"
	"github.com/chainfire/cfseed/internal/state/mvcc"
	"github.com/chainfire/cfseed/internal/state/store"
	entryv1 "github.com/chainfire/cfseed/proto/chainfire/entry/v1"
)

// openState opens the state that the log points to and compares it with the
// identity and, when nothing was applied since, with the seed's manifest.
func (v *verifier) openState(context.Context) (string, error) {
	if v.stateDir == "" {
		return "", errSkip("the log does not say which state is current")
	}
	s, err := guarded(func() (*store.Store, error) {
		return store.Open(v.stateDir, store.Options{FS: v.fs, ReadOnly: true, Logger: v.o.Logger})
	})
	if err != nil {
		return "", v.storeDamage(err)
	}
	v.store, v.view = s, s.View()
	r := v.report
	r.Position, r.Digest = s.Position(), s.Digest()
	r.Revision, _ = s.Revisions()
	cluster, err := member.Cluster(v.view)
	if err != nil {
		return "", v.storeDamage(err)
	}
	if cluster != nil && v.identity != nil {
		genesis, err := ident.NonceFrom(cluster.GetGenesisNonce())
		if err != nil {
			v.find(fault.Corrupt, v.stateDir, "cluster row: %v", err)
		} else if !v.identity.Cluster.Same(ident.Cluster{ID: cluster.GetClusterId(), Genesis: genesis}) {
			v.find(fault.Different, v.stateDir, "the state is of cluster %016x/%s, the identity of %016x/%s",
				cluster.GetClusterId(), genesis, v.identity.Cluster.ID, v.identity.Cluster.Genesis)
		}
	}
	v.compareSeed()
	return fmt.Sprintf("applied to %s, revision %d", r.Position, r.Revision), nil
}

// compareSeed: a state at the seed's position is the seed.
func (v *verifier) compareSeed() {
	m := v.manifest
	if m == nil || v.stateDir != v.dir.State(1) {
		return
	}
	r := v.report
	switch {
	case r.Position.Index < m.position.Index:
		v.find(fault.Corrupt, v.stateDir, "the state is at %s, before the seed at %s", r.Position, m.position)
	case r.Position == m.position && (r.Digest != m.digest || r.Revision != m.revision):
		v.find(fault.Different, v.stateDir, "the state at %s has digest %x, the seed had %x", r.Position, r.Digest, m.digest)
	}
}

// storeDamage turns an error of the store into a finding, or gives it back when
// it does not speak of damage.
func (v *verifier) storeDamage(err error) error {
	switch fault.CodeOf(err) {
	case fault.Corrupt, fault.Internal: // what Pebble does not call corruption is a missing or torn file
		path := fileNamed(v.fs, v.stateDir, err)
		v.find(fault.Corrupt, path, "%v", err)
		return nil
	}
	return err
}

// members compares the member table with the configuration, and this directory
// with its own record.
func (v *verifier) members(context.Context) (string, error) {
	if v.view == nil {
		return "", errSkip("the state could not be read")
	}
	diff, err := member.Differences(v.view, v.store.ConfState())
	if err != nil {
		return "", v.storeDamage(err)
	}
	for _, d := range diff {
		v.find(fault.Corrupt, v.stateDir, "%s", d)
	}
	conf := v.store.ConfState()
	detail := fmt.Sprintf("%d voters, %d learners", len(conf.GetVoters()), len(conf.GetLearners()))
	own, err := v.ownRecord()
	if own != "" {
		detail += "; " + own
	}
	return detail, err
}

// leases compares etcd's leases with the keys attached to them.
func (v *verifier) leases(context.Context) (string, error) {
	if v.view == nil {
		return "", errSkip("the state could not be read")
	}
	diff, leases, keys, err := mvcc.LeaseDifferences(v.view)
	if err != nil {
		return "", v.storeDamage(err)
	}
	for _, d := range diff {
		v.find(fault.Corrupt, v.stateDir, "%s", d)
	}
	return fmt.Sprintf("%d leases, %d keys attached", leases, keys), nil
}

// users reads users, roles and whether permissions are asked for.
func (v *verifier) users(context.Context) (string, error) {
	if v.view == nil {
		return "", errSkip("the state could not be read")
	}
	diff, users, roles, enabled, err := auth.Differences(v.view)
	if err != nil {
		return "", v.storeDamage(err)
	}
	for _, d := range diff {
		v.find(fault.Corrupt, v.stateDir, "%s", d)
	}
	detail := fmt.Sprintf("%d users, %d roles", users, roles)
	if enabled {
		detail += ", permissions are asked for"
	}
	return detail, nil
}

// alarms reads the alarms that stand.
func (v *verifier) alarms(context.Context) (string, error) {
	if v.view == nil {
		return "", errSkip("the state could not be read")
	}
	all, err := alarm.All(v.view)
	if err != nil {
		return "", v.storeDamage(err)
	}
	if len(all) == 0 {
		return "none", nil
	}
	var texts []string
	for _, a := range all {
		texts = append(texts, fmt.Sprintf("%s of member %016x", a.GetAlarm(), a.GetMemberID()))
	}
	return strings.Join(texts, ", "), nil
}

// ownRecord says what the table knows of this directory's member.
func (v *verifier) ownRecord() (string, error) {
	id := v.identity
	if id == nil || id.MemberID == 0 {
		return "", nil
	}
	rec, err := member.Member(v.view, id.MemberID)
	if err != nil {
		return "", v.storeDamage(err)
	}
	// A seed may be older than the reservation of its member.
	joining := id.Seed != nil && !id.Seed.Joined
	switch {
	case rec == nil && (joining || v.report.Position.Index == 0):
		return "not yet in the table", nil
	case rec == nil:
		v.find(fault.Corrupt, v.stateDir, "member %016x of the identity file is not in the member table", id.MemberID)
		return "", nil
	}
	if n := rec.GetDirectoryNonce(); len(n) > 0 && !bytes.Equal(n, id.Directory[:]) {
		v.find(fault.Different, v.dir.Identity(), "member %016x is bound to directory %x, this is %s", id.MemberID, n, id.Directory)
	}
	state := strings.ToLower(strings.TrimPrefix(rec.GetState().String(), "MEMBER_STATE_"))
	if rec.GetState() == entryv1.MemberState_MEMBER_STATE_REMOVED {
		return "this member was removed and can not start again", nil
	}
	return "this member is " + state, nil
}

// digest compares the running digest with that of a full scan.
func (v *verifier) digest(ctx context.Context) (string, error) {
	switch {
	case v.o.Quick:
		return "", errSkip("quick")
	case v.view == nil:
		return "", errSkip("the state could not be read")
	}
	scanned, err := guarded(func() ([16]byte, error) { return v.view.ScanDigest(ctx) })
	switch {
	case ctx.Err() != nil:
		return "", ctx.Err()
	case err != nil:
		return "", v.storeDamage(err)
	case scanned != v.report.Digest:
		v.find(fault.Corrupt, v.stateDir, "a full scan gives digest %x, the running one is %x", scanned, v.report.Digest)
		return "", nil
	}
	return fmt.Sprintf("%x", scanned), nil
}

// blockChecksums reads every block of both stores.
func (v *verifier) blockChecksums(ctx context.Context) (string, error) {
	if v.o.Quick {
		return "", errSkip("quick")
	}
	if err := v.openEngines(); err != nil {
		return "", err
	}
	total := 0
	for _, e := range v.engines {
		n, err := e.checksums(ctx, func(path string, err error) { v.find(fault.Corrupt, path, "%v", err) })
		total += n
		if err != nil {
			return "", err
		}
	}
	return fmt.Sprintf("%d tables", total), nil
}

// levels checks the order of keys in both stores.
func (v *verifier) levels(context.Context) (string, error) {
	if v.o.Quick {
		return "", errSkip("quick")
	}
	if v.broken {
		return "", errSkip("a store could not be opened")
	}
	var total int64
	for _, e := range v.engines {
		n, err := e.levels()
		if err != nil {
			v.findAt(err)
			continue
		}
		total += n
	}
	return fmt.Sprintf("%d records", total), nil
}

// findAt adds a finding at the path that err carries.
func (v *verifier) findAt(err error) {
	path := v.dir.Path()
	var fe *fault.Error
	if errors.As(err, &fe) && fe.Path != "" {
		path = fe.Path
	}
	v.find(fault.Corrupt, path, "%v", err)
}
