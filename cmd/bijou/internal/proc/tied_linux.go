package proc

import (
	"os/exec"
	"runtime"
	"syscall"
)

// runTied runs cmd in a process group of its own, so that the terminal sends Ctrl-C to this process only. The kernel
// kills cmd when the thread that started it ends, also if this process is killed by SIGKILL. So this goroutine keeps
// its thread until the child has ended.
func runTied(cmd *exec.Cmd, started func()) error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	return runGroup(cmd, started)
}
