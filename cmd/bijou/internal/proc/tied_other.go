//go:build !linux

package proc

import (
	"os/exec"
	"syscall"
)

// runTied runs cmd in a process group of its own, so that the terminal sends Ctrl-C to this process only. If this
// process is killed, the child keeps running until the next `bijou up` kills it.
func runTied(cmd *exec.Cmd, started func()) error {
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	return runGroup(cmd, started)
}
