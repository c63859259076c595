//go:build !linux

package peers

import "os/exec"

// runTied runs cmd until it ends.
func runTied(cmd *exec.Cmd, started chan<- error) { run(cmd, started) }
