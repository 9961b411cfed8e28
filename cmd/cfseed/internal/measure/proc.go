package measure

import (
	"os"
	"path/filepath"
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

// Meter measures one process from a moment on.
type Meter struct {
	pid   int
	began float64 // CPU seconds used before
}

// Watch begins to measure: the peak of the resident set counts anew.
func Watch(pid int) (Meter, error) {
	// Linux: 5 resets the peak.
	if err := os.WriteFile(procFile(pid, "clear_refs"), []byte("5"), 0); err != nil {
		return Meter{}, fault.New(fault.Internal, "measure process", err).
			WithHint("the benchmark reads /proc, which only Linux has")
	}
	cpu, err := CPUSeconds(pid)
	return Meter{pid: pid, began: cpu}, err
}

// Usage is what the process has used since.
func (m Meter) Usage() (Usage, error) {
	cpu, err := CPUSeconds(m.pid)
	if err != nil {
		return Usage{}, err
	}
	peak, err := PeakRSS(m.pid)
	return Usage{CPUSeconds: cpu - m.began, PeakRSS: peak}, err
}

// ReadBytes is how many bytes a process has read, from files
// (also where the kernel had them in memory) and from connections.
func ReadBytes(pid int) (uint64, error) {
	text, err := os.ReadFile(procFile(pid, "io"))
	if err != nil {
		return 0, fault.New(fault.Internal, "measure process", err)
	}
	n, err := strconv.ParseUint(field(string(text), "rchar"), 10, 64)
	if err != nil {
		return 0, fault.New(fault.Internal, "measure process", err)
	}
	return n, nil
}

func procFile(pid int, name string) string { return filepath.Join("/proc", strconv.Itoa(pid), name) }

// CPUSeconds is the processor time that a process has used, in seconds.
func CPUSeconds(pid int) (float64, error) {
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

// BusySeconds is the time that all processors of the machine were busy.
func BusySeconds() (float64, error) {
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

// PeakRSS is the highest resident set of a process, in bytes: since it began,
// or since Watch.
func PeakRSS(pid int) (uint64, error) {
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
