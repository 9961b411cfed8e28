// Package datadir is the layout of a member's data directory, its identity
// file and its lock.
//
// # Layout
//
//	<data-dir>/
//	  LOCK           held by the process that uses the directory
//	  identity       who this member is; written last: the commit point
//	  seed-manifest  what the member was seeded from
//	  raft/          the Raft log
//	  state-<n>/     the state store
//	  seeds/         checkpoints being served
//	  staging/       a seed on its way in; the sign of an install under way
//	  fixtures/      certificates that the node made for itself, never part of a
//	                 seed: client/ and peer/, each with cert.pem and key.pem
//
// # Committing an install
//
// Whoever fills a directory first creates staging/ (Begin), then everything
// else, then commits with CommitIdentity, and only then removes staging/.
// Before the commit the directory holds no node and RemoveUncommitted clears
// it; after it the directory holds a whole one. A raft/ or state-<n>/ without
// identity AND without staging/ is not a leftover of ours but a member that
// lost its identity, perhaps the last copy of something: it is Foreign and
// never removed.
//
// # Identity file, format version 1
//
// Integers are big endian. The frame (magic, version, length, checksum) stays
// the same in every version.
//
//	offset  size  field
//	0       8     magic "CFSEEDID"
//	8       2     format version, 1
//	10      4     payload length p, at most 2048
//	14      p     payload
//	14+p    32    BLAKE3-256 of bytes 0 to 14+p
//
//	payload
//	0       8     cluster ID
//	8       16    genesis nonce, zero: not known
//	24      8     member ID, zero: not reserved yet
//	32      16    directory nonce
//	48      8     inode of the directory, zero: not known
//	56      2     name length n, at most 1024
//	58      n     name, UTF-8
//	58+n    1     0: not seeded, the payload ends here; 1: a seed follows
//	59+n    8     seed: term of the position
//	67+n    8     seed: index of the position
//	75+n    32    seed: manifest root
//	107+n   8     seed: lease ID
//	115+n   1     seed: 1 once the member was admitted, else 0
package datadir

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/chainfire/cfseed/internal/fault"
)

// Names in a data directory; part of the format.
const (
	lockName     = "LOCK"
	identityName = "identity"
	manifestName = "seed-manifest"
	raftName     = "raft"
	statePrefix  = "state-"
	seedsName    = "seeds"
	stagingName  = "staging"
	lostFound    = "lost+found" // made by mkfs at the root of a mounted disk
	tmpSuffix    = ".tmp"
)

// Dir is a data directory. It holds no resources; its methods may be used from
// several goroutines as long as one process holds the lock.
type Dir struct {
	fs   vfs.FS
	path string
}

// At names the data directory at path in fs. Nothing is read or created.
func At(fs vfs.FS, path string) *Dir { return &Dir{fs: fs, path: path} }

// FS is the file system the directory lives in.
func (d *Dir) FS() vfs.FS { return d.fs }

// Path is the directory itself, as given to At.
func (d *Dir) Path() string { return d.path }

// Raft is the directory of the Raft log.
func (d *Dir) Raft() string { return d.join(raftName) }

// State is the directory of the n-th state store.
func (d *Dir) State(n uint64) string { return d.join(statePrefix + strconv.FormatUint(n, 10)) }

// States lists the numbers of the state stores that are there, in no order.
func (d *Dir) States() ([]uint64, error) {
	names, err := d.fs.List(d.path)
	if err != nil {
		return nil, fault.New(fault.Internal, "list data directory", err).At(d.path)
	}
	var out []uint64
	for _, name := range names {
		if rest, ok := strings.CutPrefix(name, statePrefix); ok {
			if n, err := strconv.ParseUint(rest, 10, 64); err == nil {
				out = append(out, n)
			}
		}
	}
	return out, nil
}

// Seeds is the directory of the checkpoints being served.
func (d *Dir) Seeds() string { return d.join(seedsName) }

// Staging is the directory of a seed on its way in.
func (d *Dir) Staging() string { return d.join(stagingName) }

// Identity is the identity file.
func (d *Dir) Identity() string { return d.join(identityName) }

// Manifest is the manifest of the seed the member came from.
func (d *Dir) Manifest() string { return d.join(manifestName) }

func (d *Dir) join(name string) string { return d.fs.PathJoin(d.path, name) }

// Class says what a directory holds.
type Class int

// The classes.
const (
	Empty    Class = iota // absent, or nothing but LOCK, fixtures/, lost+found or a temporary identity
	Staged                // an install that was not committed
	Complete              // an identity file: a node
	Foreign               // something this package did not put there
)

// String names the class.
func (c Class) String() string {
	switch c {
	case Empty:
		return "empty"
	case Staged:
		return "staged"
	case Complete:
		return "complete"
	case Foreign:
		return "foreign"
	}
	return fmt.Sprintf("class %d", int(c))
}

// Classify looks at the names in the directory; it reads no file.
func (d *Dir) Classify() (Class, error) {
	c, _, err := d.classify()
	return c, err
}

// classify also gives the first name that makes a directory Foreign.
func (d *Dir) classify() (Class, string, error) {
	names, err := d.fs.List(d.path)
	if errors.Is(err, os.ErrNotExist) {
		return Empty, "", nil
	}
	if err != nil {
		return Foreign, "", fault.New(fault.FileCode(err), "list data directory", err).At(d.path)
	}
	class := Empty
	var left, foreign string // least names, so that the answer does not depend on list order
	for _, name := range names {
		switch {
		case name == identityName:
			return Complete, "", nil
		case name == stagingName:
			class = Staged
		case ignorable(name):
		case leftover(name):
			left = least(left, name)
		default:
			foreign = least(foreign, name)
		}
	}
	switch {
	case foreign != "":
		return Foreign, foreign, nil
	case left != "" && class != Staged:
		return Foreign, left, nil
	}
	return class, "", nil
}

func least(a, b string) string {
	if a == "" || b < a {
		return b
	}
	return a
}

// ignorable names carry nothing of a member, whoever left them. A node that is
// to be seeded has made its certificates already: its addresses come first.
// etcd's own directory has other names beside fixtures/, and stays Foreign.
func ignorable(name string) bool {
	return name == lockName || name == fixturesName || name == lostFound || name == identityName+tmpSuffix
}

// leftover names are what an install writes besides staging/.
func leftover(name string) bool {
	return name == raftName || name == manifestName || name == manifestName+tmpSuffix || isState(name)
}

func isState(name string) bool {
	n, ok := strings.CutPrefix(name, statePrefix)
	if !ok {
		return false
	}
	v, err := strconv.ParseUint(n, 10, 64)
	return err == nil && strconv.FormatUint(v, 10) == n
}

// Begin marks the start of an install: it creates the directory and staging/,
// durably. Until the identity is committed, RemoveUncommitted undoes it. A
// directory that holds a node or anything foreign is refused with
// fault.NotEmpty. Beginning again is allowed.
func (d *Dir) Begin() error {
	class, name, err := d.classify()
	if err != nil {
		return err
	}
	if class == Complete || class == Foreign {
		return d.notEmpty("begin install", class, name)
	}
	return MkdirAllSynced(d.fs, d.Staging())
}

// RemoveUncommitted clears what an install that was not committed left:
// raft/, state-*/, the manifest, temporary files, and staging/ last, so that a
// crash on the way leaves a directory that is still Staged. It does nothing in
// an Empty directory and refuses a Complete or Foreign one with
// fault.NotEmpty.
func (d *Dir) RemoveUncommitted() error {
	const op = "remove uncommitted install"
	class, name, err := d.classify()
	if err != nil {
		return err
	}
	switch class {
	case Empty:
		return nil
	case Complete, Foreign:
		return d.notEmpty(op, class, name)
	}
	names, err := d.fs.List(d.path)
	if err != nil {
		return fault.New(fault.FileCode(err), op, err).At(d.path)
	}
	for _, name := range names {
		if !leftover(name) && name != identityName+tmpSuffix {
			continue
		}
		if err := d.fs.RemoveAll(d.join(name)); err != nil {
			return fault.New(fault.FileCode(err), op, err).At(d.join(name))
		}
	}
	// The removals above must not be lost after that of staging/ was kept.
	if err := SyncDir(d.fs, d.path); err != nil {
		return err
	}
	return d.RemoveStaging()
}

// RemoveStaging removes staging/, durably. After a commit it is the last step
// of an install; an absent staging/ is fine.
func (d *Dir) RemoveStaging() error {
	if err := d.fs.RemoveAll(d.Staging()); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fault.New(fault.FileCode(err), "remove staging directory", err).At(d.Staging())
	}
	return SyncDir(d.fs, d.path)
}

func (d *Dir) notEmpty(op string, class Class, name string) error {
	if class == Complete {
		return fault.Newf(fault.NotEmpty, op, "the directory holds a member").At(d.path).
			WithHint("choose another --data-dir; a member's directory is never overwritten")
	}
	return fault.Newf(fault.NotEmpty, op, "the directory holds %q without an identity", name).At(d.path).
		WithHint("choose an empty --data-dir, or move %q away if nobody needs it", name)
}
