package datadir

import (
	"errors"
	"os"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/chainfire/cfseed/internal/fault"
)

// Names below fixtures/, etcd's.
const (
	fixturesName = "fixtures"
	certName     = "cert.pem"
	keyName      = "key.pem"
)

// Certificate gives the files of the certificate that a node made for one side,
// "client" or "peer", and whether both are there.
func (d *Dir) Certificate(side string) (cert, key string, there bool, err error) {
	dir := d.fs.PathJoin(d.join(fixturesName), side)
	cert, key = d.fs.PathJoin(dir, certName), d.fs.PathJoin(dir, keyName)
	for _, path := range []string{cert, key} {
		if _, err := d.fs.Stat(path); errors.Is(err, os.ErrNotExist) {
			return cert, key, false, nil
		} else if err != nil {
			return cert, key, false, fault.New(fault.FileCode(err), "find certificate", err).At(path)
		}
	}
	return cert, key, true, nil
}

// WriteCertificate keeps a side's certificate and key, which only the owner may
// read. The certificate comes last: after a crash the two that are there belong
// together. The data directory must exist; the slices are not kept.
func (d *Dir) WriteCertificate(side string, certPEM, keyPEM []byte) error {
	const private = 0o700
	cert, key, _, err := d.Certificate(side)
	if err != nil {
		return err
	}
	dir := d.fs.PathDir(cert)
	if err := mkdirAllSynced(d.fs, dir, private); err != nil {
		return err
	}
	if err := d.fs.Remove(cert); err == nil {
		err = SyncDir(d.fs, dir)
		if err != nil {
			return err
		}
	} else if !errors.Is(err, os.ErrNotExist) {
		return fault.New(fault.FileCode(err), "replace certificate", err).At(cert)
	}
	if err := writeFileSynced(d.fs, key, keyPEM, ownerOnly); err != nil {
		return err
	}
	return WriteFileSynced(d.fs, cert, certPEM)
}

// ownerOnly keeps others from reading a file that is still empty. vfs has no
// modes: other file systems than the system's are in memory.
func ownerOnly(fs vfs.FS, path string) error {
	if vfs.Root(fs) != vfs.Default {
		return nil
	}
	return os.Chmod(path, 0o600)
}
