package bench

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"

	"github.com/chainfire/cfseed/internal/fault"
)

// Usage is what a process used of the machine over a span of time.
type Usage struct {
	CPUSeconds float64 `json:"cpu_seconds"`
	PeakRSS    uint64  `json:"peak_rss_bytes"`
}

// ticks of CPU time are in a second; fixed in Linux's interface.
const ticks = 100

// meter measures one process from a moment on.
type meter struct {
	pid   int
	began float64 // CPU seconds used before
}

// watch begins to measure: the peak of the resident set counts anew.
func watch(pid int) (meter, error) {
	// Linux: 5 resets the peak.
	if err := os.WriteFile(procFile(pid, "clear_refs"), []byte("5"), 0); err != nil {
		return meter{}, fault.New(fault.Internal, "measure process", err).
			WithHint("the benchmark reads /proc, which only Linux has")
	}
	cpu, err := cpuSeconds(pid)
	return meter{pid: pid, began: cpu}, err
}

// usage is what the process has used since.
func (m meter) usage() (Usage, error) {
	cpu, err := cpuSeconds(m.pid)
	if err != nil {
		return Usage{}, err
	}
	peak, err := peakRSS(m.pid)
	return Usage{CPUSeconds: cpu - m.began, PeakRSS: peak}, err
}

func procFile(pid int, name string) string { return filepath.Join("/proc", strconv.Itoa(pid), name) }

func cpuSeconds(pid int) (float64, error) {
	text, err := os.ReadFile(procFile(pid, "stat"))
	if err != nil {
		return 0, fault.New(fault.Internal, "measure process", err)
	}
	return parseStat(string(text))
}

// parseStat gives user and system time of /proc/PID/stat, in seconds. The
// second field is a name in brackets that may hold anything.
func parseStat(text string) (float64, error) {
	fields := strings.Fields(text[strings.LastIndexByte(text, ')')+1:])
	if len(fields) < 13 {
		return 0, fault.Newf(fault.Internal, "measure process", "unexpected /proc stat %q", text)
	}
	user, uerr := strconv.ParseUint(fields[11], 10, 64)
	system, serr := strconv.ParseUint(fields[12], 10, 64)
	if uerr != nil || serr != nil {
		return 0, fault.Newf(fault.Internal, "measure process", "unexpected /proc stat %q", text)
	}
	return float64(user+system) / ticks, nil
}

// busySeconds is the time that all processors of the machine were busy.
func busySeconds() (float64, error) {
	text, err := os.ReadFile("/proc/stat")
	if err != nil {
		return 0, fault.New(fault.Internal, "measure machine", err)
	}
	return parseBusy(string(text))
}

// parseBusy adds up the first line of /proc/stat, without idle and iowait.
func parseBusy(text string) (float64, error) {
	line, _, _ := strings.Cut(text, "\n")
	fields := strings.Fields(line)
	if len(fields) < 9 || fields[0] != "cpu" {
		return 0, fault.Newf(fault.Internal, "measure machine", "unexpected /proc/stat %q", line)
	}
	var sum uint64
	for _, i := range []int{1, 2, 3, 6, 7, 8} { // user, nice, system, irq, softirq, steal
		n, err := strconv.ParseUint(fields[i], 10, 64)
		if err != nil {
			return 0, fault.New(fault.Internal, "measure machine", err)
		}
		sum += n
	}
	return float64(sum) / ticks, nil
}

func peakRSS(pid int) (uint64, error) {
	text, err := os.ReadFile(procFile(pid, "status"))
	if err != nil {
		return 0, fault.New(fault.Internal, "measure process", err)
	}
	return parsePeak(string(text))
}

// parsePeak gives VmHWM of /proc/PID/status, in bytes.
func parsePeak(text string) (uint64, error) {
	fields := strings.Fields(field(text, "VmHWM"))
	if len(fields) != 2 || fields[1] != "kB" {
		return 0, fault.Newf(fault.Internal, "measure process", "no VmHWM in /proc status")
	}
	kib, err := strconv.ParseUint(fields[0], 10, 54)
	if err != nil {
		return 0, fault.New(fault.Internal, "measure process", err)
	}
	return kib << 10, nil
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

func machine(dir string) Machine {
	return Machine{
		Cores:       runtime.NumCPU(),
		CPU:         field(read("/proc/cpuinfo"), "model name"),
		Memory:      field(read("/proc/meminfo"), "MemTotal"),
		Kernel:      strings.TrimSpace(read("/proc/sys/kernel/osrelease")),
		FileSystem:  fileSystem(read("/proc/self/mounts"), dir),
		Go:          runtime.Version(),
		PageCache:   "warm for what is read (written or read by the same run before), on both sides",
		LoadAverage: loadAverage(),
	}
}

func read(path string) string {
	b, err := os.ReadFile(path)
	if err != nil {
		return ""
	}
	return string(b)
}

func loadAverage() string {
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
