package member

import (
	"bytes"

	"github.com/chainfire/cfseed/internal/fault"
	"github.com/chainfire/cfseed/internal/ident"
	"github.com/chainfire/cfseed/internal/state/store"
	entryv1 "github.com/chainfire/cfseed/proto/chainfire/entry/v1"
)

// MaxClusterVersion is the newest cluster version this program can apply.
const MaxClusterVersion = 1

const nonceSize = len(ident.Nonce{})

// initCluster writes the cluster row. The first leader commits it; of two
// leaders that both tried, the first entry wins.
func initCluster(b Tables, _ uint64, m *entryv1.ClusterInit) (*entryv1.ClusterRecord, error) {
	const op = "initialise cluster"
	if err := knownVersion(op, m.GetClusterVersion()); err != nil {
		return nil, err
	}
	if m.GetClusterId() == 0 || len(m.GetGenesisNonce()) != nonceSize || m.GetClusterVersion() == 0 {
		return nil, refuse(fault.Usage, op, nil, "cluster ID, nonce of %d bytes and version are required", nonceSize)
	}
	have, err := Cluster(b)
	if err != nil {
		return nil, err
	}
	want := &entryv1.ClusterRecord{
		ClusterId:      m.GetClusterId(),
		GenesisNonce:   m.GetGenesisNonce(),
		ClusterVersion: m.GetClusterVersion(),
	}
	if have == nil {
		return want, put(b, store.Cluster, []byte(clusterKey), want)
	}
	switch {
	case have.GetClusterId() != want.GetClusterId():
		return nil, refuse(fault.Different, op, ErrClusterExists, "cluster %016x, not %016x",
			have.GetClusterId(), want.GetClusterId())
	case !bytes.Equal(have.GetGenesisNonce(), want.GetGenesisNonce()),
		have.GetClusterVersion() != want.GetClusterVersion():
		return nil, refuse(fault.Refused, op, ErrClusterExists, "")
	}
	return have, nil
}

// setClusterVersion raises the cluster version, never lowers it.
func setClusterVersion(b Tables, _ uint64, m *entryv1.SetClusterVersion) (*entryv1.ClusterRecord, error) {
	const op = "set cluster version"
	if err := knownVersion(op, m.GetClusterVersion()); err != nil {
		return nil, err
	}
	rec, err := Cluster(b)
	switch {
	case err != nil:
		return nil, err
	case rec == nil:
		return nil, refuse(fault.Refused, op, ErrNoCluster, "")
	case m.GetClusterVersion() < rec.GetClusterVersion():
		return nil, refuse(fault.Refused, op, nil, "version %d is below the cluster's %d",
			m.GetClusterVersion(), rec.GetClusterVersion())
	}
	rec.ClusterVersion = m.GetClusterVersion()
	return rec, put(b, store.Cluster, []byte(clusterKey), rec)
}

// knownVersion stops a member that is too old for the cluster. That is not a
// refusal: newer members accept the very same entry.
func knownVersion(op string, v uint32) error {
	if v > MaxClusterVersion {
		return fault.Newf(fault.Internal, op, "cluster version %d, this program knows up to %d", v, MaxClusterVersion).
			WithHint("start this member with a newer cfseed")
	}
	return nil
}
