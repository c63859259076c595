//go:build !linux

package proc

import (
	"os/exec"
	"syscall"
)

// runTied runs cmd in a process group of its own, so that Ctrl-C in a terminal reaches only us. Nothing here ends the
// child when we are killed: the next `bijou up` does.
func runTied(cmd *exec.Cmd, started func()) error {
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	return runGroup(cmd, started)
}
