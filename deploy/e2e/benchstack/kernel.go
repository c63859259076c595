package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// used is what the kernel says of one container.
type used struct {
	charged  int64 // to the container and its limit, without the cache of files that nobody used lately: as `docker stats`
	resident int64 // of its process, pages shared with others counted in part, so that sums are true
	whole    int64 // the same with every page counted in full: VmRSS
	cpu      time.Duration
}

func usage(all []container) ([]used, error) {
	var out []used
	for _, c := range all {
		u, err := usageOf(c.State.Pid)
		if err != nil {
			return nil, fmt.Errorf("asking the kernel about %s: %w", c.Name, err)
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

// table reads lines of a name and a number; others do not count.
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

// processor is the name of this machine's, as far as the kernel knows.
func processor() string {
	b, _ := os.ReadFile("/proc/cpuinfo")
	for line := range strings.Lines(string(b)) {
		if name, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(name) == "model name" {
			return strings.TrimSpace(value)
		}
	}
	return "unknown"
}
