//go:build e2e && linux

package e2e

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/chainfire/cfseed/internal/shape"
)

// smallDisk makes dir a file system of its own with so many MiB; the test is
// skipped where that is not permitted.
func smallDisk(t *testing.T, dir string, mib int) {
	t.Helper()
	if err := os.MkdirAll(dir, 0o750); err != nil {
		t.Fatal(err)
	}
	err := syscall.Mount("tmpfs", dir, "tmpfs", 0, fmt.Sprintf("size=%dm", mib))
	if errors.Is(err, syscall.EPERM) {
		t.Skip("no permission to mount a tmpfs")
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(dir, syscall.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
}

// fillDisk writes a file below dir until nothing more fits.
func fillDisk(t *testing.T, path string) {
	t.Helper()
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close() //nolint:errcheck // ballast
	for block := make([]byte, 64<<10); ; {
		if _, err := f.Write(block); errors.Is(err, syscall.ENOSPC) {
			if len(block) == 1<<10 {
				return
			}
			block = block[:1<<10]
		} else if err != nil {
			t.Fatal(err)
		}
	}
}

// bytesIn adds up the files below dir.
func bytesIn(t *testing.T, dir string) (sum int64) {
	t.Helper()
	err := filepath.WalkDir(dir, func(_ string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		info, err := d.Info()
		if err == nil {
			sum += info.Size()
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return sum
}

// TestTargetDiskFull pulls onto a disk that is too small, which is known before
// the first chunk, and onto one that fills up on the way: what is staged is
// kept and used when there is room again.
func TestTargetDiskFull(t *testing.T) {
	t.Parallel()
	c := NewCluster(t)
	source, line := c.behind("n1")
	data := c.load(32)

	small := c.New("small")
	smallDisk(t, small.DataDir, 24)
	line.Recount()
	ended(t, "pull onto a small disk", c.pull(small, line.Addr()).wait(60*time.Second), 1, "no_space")
	notANode(t, small.DataDir)
	if sent, kept := line.Bytes(shape.Down), bytesIn(t, small.DataDir); sent > 1<<20 || kept > 1<<20 {
		t.Errorf("%d bytes were sent and %d are kept of a seed that does not fit", sent, kept)
	}

	n := c.New("n2")
	n.DataDir = filepath.Join(c.Dir, "disk", "n2")
	smallDisk(t, filepath.Dir(n.DataDir), 72)
	line.Rate(shape.Down, 8<<20)
	pull := c.pull(n, line.Addr())
	pull.await(line.NoticeAfter(12<<20), "the first bytes")
	line.Rate(shape.Down, 1<<20) // until the disk is full
	ballast := filepath.Join(filepath.Dir(n.DataDir), "ballast")
	fillDisk(t, ballast)
	ended(t, "pull onto a disk that fills up", pull.wait(60*time.Second), 1, "no_space")
	notANode(t, n.DataDir)
	if err := os.Remove(ballast); err != nil {
		t.Fatal(err)
	}
	line.Rate(shape.Down, 0)
	r := c.pull(n, line.Addr()).ok(60 * time.Second)
	t.Logf("%.1f of %.1f MiB were kept", r.Num("bytes_reused")/(1<<20), r.Num("bytes_total")/(1<<20))
	if r.Num("bytes_reused") < 4<<20 {
		t.Errorf("what was staged was not used: %s", r)
	}
	n.joins(source)
	data.checkOn(source, n)
}

// TestDiskFullEndsMember fills the disk of one of three members. Its log can
// not be written any more: the process ends with a class and does not hang, the
// others go on, and with more room it is back with all it ever acknowledged.
func TestDiskFullEndsMember(t *testing.T) {
	t.Parallel()
	c := NewCluster(t)
	nodes := []*Node{c.New("n1"), c.New("n2"), c.New("n3")}
	n, others := nodes[0], nodes[1:]
	n.DataDir = filepath.Join(c.Dir, "disk", "n1")
	disk := filepath.Dir(n.DataDir)
	smallDisk(t, disk, 256)
	for _, n := range nodes {
		n.Spawn("--initial-cluster", initialCluster(nodes))
	}
	for _, n := range nodes {
		n.WaitReady(startPatience)
	}
	data := c.load(8)
	w := c.StartWriter(4, 16<<10)
	w.AwaitMore(100)
	t.Logf("the disk of %s fills up, %s leads", n.Name, c.Leader().Name)
	fillDisk(t, filepath.Join(disk, "ballast"))
	code, text := n.WaitExit(60 * time.Second)
	if code != 1 || !strings.Contains(text, "no space left") {
		t.Errorf("a member on a full disk: exit %d\n%s", code, text)
	}
	if strings.Contains(text, "goroutine ") {
		t.Errorf("it has ended in a panic:\n%s", text)
	}
	w.Use(others...)
	w.AwaitMore(200)
	for _, other := range others {
		if !other.Running() {
			t.Errorf("%s has ended, too", other.Name)
		}
	}
	if err := os.Remove(filepath.Join(disk, "ballast")); err != nil {
		t.Fatal(err)
	}
	n.Restart()
	w.CheckOn(nodes...)
	data.checkOn(nodes...)
}

// TestLostDirectoryEndsProcess deletes the directory of a member that runs.
// Sooner or later it can not make a file: it ends with an error and does not
// hang.
func TestLostDirectoryEndsProcess(t *testing.T) {
	t.Parallel()
	c := NewCluster(t)
	n := c.Start("n1")
	client := c.Client(n)
	if err := os.RemoveAll(n.DataDir); err != nil {
		t.Fatal(err)
	}
	until := time.Now().Add(60 * time.Second)
	for i := 0; n.Running() && time.Now().Before(until); i++ {
		put(client, cargoKey(i), cargoBytes(i)) // to its end, whatever becomes of the puts
	}
	code, text := n.WaitExit(time.Second)
	if code == 0 || strings.Contains(text, "goroutine ") || !strings.Contains(text, "cfseed: ") {
		t.Errorf("a member without a directory: exit %d\n%s", code, text)
	}
	t.Logf("exit %d: %s", code, lastLine(text))
}

func put(client *clientv3.Client, key string, value []byte) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	_, _ = client.Put(ctx, key, string(value)) // the caller does not mind
}
