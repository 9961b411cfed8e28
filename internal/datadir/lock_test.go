package datadir

import (
	"bufio"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"

	"github.com/chainfire/cfseed/internal/fault"
)

// lockPath names the directory that a child process is to lock.
const lockPath = "CFSEED_TEST_LOCK"

// TestMain is also the child: it locks a directory and holds it until it is
// killed.
func TestMain(m *testing.M) {
	path := os.Getenv(lockPath)
	if path == "" {
		os.Exit(m.Run())
	}
	lock, err := At(vfs.Default, path).Lock()
	if err != nil {
		os.Exit(3)
	}
	_, _ = os.Stdout.WriteString("locked\n")
	_, _ = io.Copy(io.Discard, os.Stdin)
	_ = lock.Close()
}

// TestLockExcludesProcesses: a second process is refused, and the lock of one
// that was killed is free.
func TestLockExcludesProcesses(t *testing.T) {
	path := filepath.Join(t.TempDir(), "a", "data")
	child := exec.Command(os.Args[0])
	child.Env = append(os.Environ(), lockPath+"="+path)
	stdin, err1 := child.StdinPipe()
	stdout, err2 := child.StdoutPipe()
	if err := errors.Join(err1, err2, child.Start()); err != nil {
		t.Fatal(err)
	}
	if line, err := bufio.NewReader(stdout).ReadString('\n'); line != "locked\n" {
		t.Fatalf("child said %q, %v", line, err)
	}
	d := At(vfs.Default, path)
	_, err := d.Lock()
	wantCode(t, err, fault.InUse)
	if err := child.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = child.Wait() // "signal: killed"
	_ = stdin.Close()
	lock, err := d.Lock()
	if err != nil {
		t.Fatalf("after the holder was killed: %v", err)
	}
	if err := lock.Close(); err != nil {
		t.Fatal(err)
	}
}

func TestLockExcludesItself(t *testing.T) {
	dir := t.TempDir()
	link := filepath.Join(t.TempDir(), "link")
	if err := os.Symlink(dir, link); err != nil {
		t.Fatal(err)
	}
	t.Chdir(filepath.Dir(dir))
	for name, c := range map[string]struct {
		fs     vfs.FS
		first  string
		second []string
	}{
		"disk": {vfs.Default, dir, []string{dir, dir + "/", link, filepath.Base(dir), dir + "/../" + filepath.Base(dir)}},
		"wrapped disk": {errorfs.Wrap(vfs.Default, errorfs.InjectorFunc(func(errorfs.Op) error { return nil })),
			dir, []string{dir, link}},
		"memory":           {vfs.NewMem(), testPath, []string{testPath}},
		"memory, relative": {vfs.NewMem(), "data", []string{"data"}},
	} {
		t.Run(name, func(t *testing.T) {
			for range 2 { // the second time after a release
				lock, err := At(c.fs, c.first).Lock()
				if err != nil {
					t.Fatal(err)
				}
				for _, path := range c.second {
					_, err := At(c.fs, path).Lock()
					wantCode(t, err, fault.InUse)
				}
				if err := lock.Close(); err != nil {
					t.Fatal(err)
				}
			}
		})
	}
}

func TestLockFailures(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := At(vfs.Default, file).Lock(); err == nil || fault.Is(err, fault.InUse) {
		t.Errorf("a file: %v", err)
	}
	boom := &os.PathError{Op: "open", Path: "LOCK", Err: os.ErrPermission}
	fs := errorfs.Wrap(vfs.NewMem(), errorfs.InjectorFunc(func(op errorfs.Op) error {
		if op.Kind == errorfs.OpLock {
			return boom
		}
		return nil
	}))
	_, err := At(fs, testPath).Lock()
	wantCode(t, err, fault.Permission)
}
