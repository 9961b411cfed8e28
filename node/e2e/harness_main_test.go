//go:build e2e

package e2e

import (
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"
)

// maxParallel bounds the tests that run at a time: each has several processes
// that fsync.
const maxParallel = 2

// binary is the cfseed under test, set once by TestMain.
var binary string

func TestMain(m *testing.M) { os.Exit(runSuite(m)) }

func runSuite(m *testing.M) int {
	flag.Parse()
	if f := flag.Lookup("test.parallel"); f != nil {
		if n, err := strconv.Atoi(f.Value.String()); err != nil || n > maxParallel {
			if err := f.Value.Set(strconv.Itoa(maxParallel)); err != nil {
				fmt.Fprintln(os.Stderr, err)
				return 1
			}
		}
	}
	if binary = os.Getenv("CFSEED_E2E_BINARY"); binary != "" {
		return m.Run()
	}
	dir, err := os.MkdirTemp("", "cfseed-e2e-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir) //nolint:errcheck // a temporary directory
	binary = filepath.Join(dir, "cfseed")
	build := exec.Command("go", "build", "-race=false", "-o", binary, "github.com/chainfire/cfseed/cmd/cfseed")
	if out, err := build.CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "build: %v\n%s", err, out)
		return 1
	}
	return m.Run()
}
