package measure

import (
	"fmt"
	"io"
	"os"
	"runtime"
	"strings"
)

// Machine is where the benchmark ran; what could not be found out is empty.
type Machine struct {
	Cores       int    `json:"cores"`
	CPU         string `json:"cpu"`
	Memory      string `json:"memory"`
	Kernel      string `json:"kernel"`
	FileSystem  string `json:"file_system"`
	Go          string `json:"go"`
	PageCache   string `json:"page_cache"`
	LoadAverage string `json:"load_average"` // at the start
}

// MachineAt describes the machine and the file system of a directory.
func MachineAt(dir string) Machine {
	return Machine{
		Cores:       runtime.NumCPU(),
		CPU:         field(read("/proc/cpuinfo"), "model name"),
		Memory:      field(read("/proc/meminfo"), "MemTotal"),
		Kernel:      strings.TrimSpace(read("/proc/sys/kernel/osrelease")),
		FileSystem:  fileSystem(read("/proc/self/mounts"), dir),
		Go:          runtime.Version(),
		PageCache:   "warm for what is read (written or read by the same run before), on both sides",
		LoadAverage: LoadAverageNow(),
	}
}

// Write prints the facts of the machine as two lines.
func (m Machine) Write(w io.Writer) {
	fmt.Fprintf(w, "machine     %d cores, %s, %s memory, Linux %s, %s, %s\n", m.Cores, m.CPU, m.Memory, m.Kernel, m.FileSystem, m.Go)
	fmt.Fprintf(w, "page cache  %s\n", m.PageCache)
}

func read(path string) string {
	b, err := os.ReadFile(path)
	if err != nil {
		return ""
	}
	return string(b)
}

// LoadAverageNow is the load of the machine over 1, 5 and 15 minutes.
func LoadAverageNow() string {
	f := strings.Fields(read("/proc/loadavg"))
	return strings.Join(f[:min(3, len(f))], " ")
}

// fileSystem gives type and device of the mount that holds dir.
func fileSystem(mounts, dir string) string {
	best, found := "", ""
	for line := range strings.Lines(mounts) {
		f := strings.Fields(line)
		if len(f) < 3 || len(f[1]) < len(best) {
			continue
		}
		if f[1] == "/" || dir == f[1] || strings.HasPrefix(dir, f[1]+"/") {
			best, found = f[1], fmt.Sprintf("%s on %s", f[2], f[0])
		}
	}
	return found
}

// field finds "name: value" in a file of lines; empty when it is not there.
func field(text, name string) string {
	for line := range strings.Lines(text) {
		if key, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(key) == name {
			return strings.TrimSpace(value)
		}
	}
	return ""
}
