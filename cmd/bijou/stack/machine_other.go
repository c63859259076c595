//go:build !linux

package stack

import (
	"fmt"
	"os/exec"
	"strconv"
	"strings"
)

// PortHolder returns the name and the process id of the program that listens on a TCP port of this machine, or "another
// process" if that cannot be found.
func PortHolder(port int) string {
	out, _ := exec.Command("lsof", "-nP", "-iTCP:"+strconv.Itoa(port), "-sTCP:LISTEN", "-Fpc").Output()
	var pid, command string
	for line := range strings.Lines(string(out)) {
		switch line = strings.TrimSpace(line); {
		case strings.HasPrefix(line, "p"):
			pid = line[1:]
		case strings.HasPrefix(line, "c"):
			command = line[1:]
		}
	}
	if pid == "" {
		return "another process"
	}
	return fmt.Sprintf("%s (pid %s)", command, pid)
}

// measureMemory fills in the resident memory of the instances that run.
func measureMemory(all []Instance) {
	byPID := map[string]*Instance{}
	var pids []string
	for i := range all {
		if all[i].PID != 0 {
			pids = append(pids, strconv.Itoa(all[i].PID))
			byPID[pids[len(pids)-1]] = &all[i]
		}
	}
	out, _ := exec.Command("ps", "-o", "pid=,rss=", "-p", strings.Join(pids, ",")).Output()
	for line := range strings.Lines(string(out)) {
		if f := strings.Fields(line); len(f) == 2 && byPID[f[0]] != nil {
			kib, _ := strconv.ParseInt(f[1], 10, 64)
			byPID[f[0]].Memory = kib << 10
		}
	}
}
