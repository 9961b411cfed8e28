package member

import (
	"maps"
	"strings"
	"testing"

	"github.com/cockroachdb/datadriven"

	"github.com/chainfire/cfseed/internal/state/store"
	entryv1 "github.com/chainfire/cfseed/proto/chainfire/entry/v1"
)

// found founds a cluster of the voters in the input, one "NAME ID URL..." a
// line. As a batch is, the tables are left alone by a failure.
func (s *script) found(d *datadriven.TestData) error {
	var voters []*entryv1.BootstrapVoter
	for line := range strings.Lines(d.Input) {
		f := strings.Fields(line)
		id := s.numOf(d, f[1])
		if _, taken := s.alias[f[0]]; !taken {
			s.alias[f[0]] = id
		}
		voters = append(voters, &entryv1.BootstrapVoter{Id: id, Name: f[0], PeerUrls: f[2:]})
	}
	s.index++
	batch := maps.Clone(s.tables)
	conf, err := Found(batch, s.index, voters)
	if err == nil {
		s.tables, s.conf = batch, conf
	}
	return err
}

// TestFoundLeavesOtherTables: who the cluster is goes, and nothing else.
func TestFoundLeavesOtherTables(t *testing.T) {
	tables := memTables{}
	for _, of := range []store.Table{store.Cluster, store.Members, store.SeedLeases, store.MVCC, store.Revisions, store.Lease, store.LeaseKeys, store.Alarms, store.AuthUsers, store.AuthRoles, store.AuthMeta} {
		tables[tableKey(of, []byte("somebody"))] = "something"
	}
	delete(tables, tableKey(store.Members, []byte("somebody"))) // it would have to be a record
	rest := maps.Clone(tables)
	delete(rest, tableKey(store.Cluster, []byte("somebody")))
	delete(rest, tableKey(store.SeedLeases, []byte("somebody")))
	conf, err := Found(tables, 9, []*entryv1.BootstrapVoter{{Id: 5, Name: "a", PeerUrls: []string{"http://a"}}})
	if err != nil || len(conf.GetVoters()) != 1 {
		t.Fatal(conf, err)
	}
	if rec, err := Member(tables, 5); err != nil || rec.GetAddedAt() != 9 || !rec.GetVoterIntent() {
		t.Errorf("%v, %v", rec, err)
	}
	delete(tables, tableKey(store.Members, idKey(5)))
	if !maps.Equal(tables, rest) {
		t.Errorf("left %q, want %q", tables, rest)
	}
}
