package stack

import (
	"bufio"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// PortHolder returns the name and the process id of the program that listens on a TCP port of this machine, or "another
// process" if that cannot be found.
func PortHolder(port int) string {
	inodes := map[string]bool{}
	for _, table := range []string{"/proc/net/tcp", "/proc/net/tcp6"} {
		listeners(table, port, inodes)
	}
	links, _ := filepath.Glob("/proc/[0-9]*/fd/*")
	for _, link := range links {
		target, err := os.Readlink(link)
		if err != nil || !strings.HasPrefix(target, "socket:[") || !inodes[strings.Trim(target, "socket:[]")] {
			continue
		}
		pid := strings.Split(link, "/")[2]
		comm, _ := os.ReadFile("/proc/" + pid + "/comm")
		return fmt.Sprintf("%s (pid %s)", strings.TrimSpace(string(comm)), pid)
	}
	return "another process"
}

// listeners adds the inodes of the sockets that listen on port.
func listeners(table string, port int, inodes map[string]bool) {
	file, err := os.Open(table)
	if err != nil {
		return
	}
	defer file.Close()
	const stateListen = "0A"
	suffix := fmt.Sprintf(":%04X", port)
	for lines := bufio.NewScanner(file); lines.Scan(); {
		// sl local_address rem_address st tx:rx tr:tm retrnsmt uid timeout inode
		f := strings.Fields(lines.Text())
		if len(f) > 9 && strings.HasSuffix(f[1], suffix) && f[3] == stateListen {
			inodes[f[9]] = true
		}
	}
}

// measureMemory fills in the resident memory of the instances that run.
func measureMemory(all []Instance) {
	for i := range all {
		if all[i].PID == 0 {
			continue
		}
		statm, err := os.ReadFile(fmt.Sprintf("/proc/%d/statm", all[i].PID))
		if f := strings.Fields(string(statm)); err == nil && len(f) > 1 {
			pages, _ := strconv.ParseInt(f[1], 10, 64)
			all[i].Memory = pages * int64(os.Getpagesize())
		}
	}
}
