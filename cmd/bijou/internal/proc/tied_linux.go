package proc

import (
	"os/exec"
	"runtime"
	"syscall"
)

// runTied runs cmd in a process group of its own, so that Ctrl-C in a terminal reaches only us, and ties its life to
// ours: the kernel kills it when we die, even by SIGKILL. The tie is to the thread that starts the child, so this
// goroutine keeps its thread until the child has ended.
func runTied(cmd *exec.Cmd, started func()) error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	return runGroup(cmd, started)
}
