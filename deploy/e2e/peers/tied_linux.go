package peers

import (
	"os/exec"
	"runtime"
	"syscall"
)

// runTied runs cmd until it ends. The kernel ends cmd when the thread that started it ends, also if this process is
// killed. So this goroutine keeps its thread until then.
func runTied(cmd *exec.Cmd, started chan<- error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGTERM}
	run(cmd, started)
}
