package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// used is the memory and CPU time of one container, from the kernel.
type used struct {
	charged  int64 // charged to the limit of the container, without inactive file cache: as in `docker stats`
	resident int64 // of its process, with shared pages divided by the processes that share them (Pss)
	whole    int64 // of its process, with shared pages counted in full (Rss)
	cpu      time.Duration
}

func usage(all []container) ([]used, error) {
	var out []used
	for _, c := range all {
		u, err := usageOf(c.State.Pid)
		if err != nil {
			return nil, fmt.Errorf("reading the memory and CPU time of %s: %w", c.Name, err)
		}
		out = append(out, u)
	}
	return out, nil
}

const groups = "/sys/fs/cgroup"

func usageOf(pid int) (u used, err error) {
	maps, err := table(fmt.Sprintf("/proc/%d/smaps_rollup", pid))
	if err != nil {
		return u, err
	}
	u.resident, u.whole = maps["Pss:"]<<10, maps["Rss:"]<<10
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", pid))
	if err != nil {
		return u, err
	}
	// Version 2 has one line, "0::/path"; version 1 has one per controller, "5:memory:/path".
	paths := map[string]string{}
	for line := range strings.Lines(string(b)) {
		if f := strings.SplitN(strings.TrimSpace(line), ":", 3); len(f) == 3 {
			for _, controller := range strings.Split(f[1], ",") {
				paths[controller] = f[2]
			}
		}
	}
	if path, ok := paths["memory"]; ok {
		return u, u.version1(filepath.Join(groups, "memory", path), filepath.Join(groups, "cpuacct", paths["cpuacct"]))
	}
	return u, u.version2(filepath.Join(groups, paths[""]))
}

func (u *used) version1(memory, cpu string) error {
	total, err := number(filepath.Join(memory, "memory.usage_in_bytes"))
	if err != nil {
		return err
	}
	stat, err := table(filepath.Join(memory, "memory.stat"))
	if err != nil {
		return err
	}
	spent, err := number(filepath.Join(cpu, "cpuacct.usage"))
	u.charged, u.cpu = total-stat["total_inactive_file"], time.Duration(spent)
	return err
}

func (u *used) version2(group string) error {
	total, err := number(filepath.Join(group, "memory.current"))
	if err != nil {
		return err
	}
	memory, err := table(filepath.Join(group, "memory.stat"))
	if err != nil {
		return err
	}
	cpu, err := table(filepath.Join(group, "cpu.stat"))
	u.charged, u.cpu = total-memory["inactive_file"], time.Duration(cpu["usage_usec"])*time.Microsecond
	return err
}

func number(file string) (int64, error) {
	b, err := os.ReadFile(file)
	if err != nil {
		return 0, err
	}
	return strconv.ParseInt(strings.TrimSpace(string(b)), 10, 64)
}

// table reads a file with lines of a name and a number. It ignores other lines.
func table(file string) (map[string]int64, error) {
	b, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	all := map[string]int64{}
	for line := range strings.Lines(string(b)) {
		if f := strings.Fields(line); len(f) > 1 {
			if n, err := strconv.ParseInt(f[1], 10, 64); err == nil {
				all[f[0]] = n
			}
		}
	}
	return all, nil
}

// processor returns the model name of the CPU, or "unknown".
func processor() string {
	b, _ := os.ReadFile("/proc/cpuinfo")
	for line := range strings.Lines(string(b)) {
		if name, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(name) == "model name" {
			return strings.TrimSpace(value)
		}
	}
	return "unknown"
}
