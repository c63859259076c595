package e2e

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"bijou.dev/cmd/bijou/stack"
)

// TestBrowser shows the console to a real Chromium, over the stack as processes: every view, the tour, axe, and a picture of
// each view in artifacts/console. With "screenshots" it makes only the pictures, also those of the documents. It needs Node.js 20 and Chromium; CHROMIUM says where, if not /usr/bin/chromium.
func TestBrowser(t *testing.T) {
	if os.Getenv("BIJOU_TEST_BROWSER") == "" {
		t.Skip("set BIJOU_TEST_BROWSER=1: it needs Node.js and Chromium")
	}
	p := startProcesses(t, stack.Options{})
	wholeHome(t, p)
	artefacts := filepath.Join(root, "artifacts", "console")
	steps := [][]string{{"npm", "ci", "--no-audit", "--no-fund"}, {"npm", "run", "check"}, {"npm", "test"}, {"node", "test/screenshots.mjs"}}
	if only := os.Getenv("BIJOU_TEST_BROWSER"); only == "screenshots" {
		steps = [][]string{steps[0], append(steps[3], "--docs")}
	}
	for _, step := range steps {
		cmd := exec.CommandContext(t.Context(), step[0], step[1:]...)
		cmd.Dir = filepath.Join(root, "services", "console", "ui")
		cmd.Env = append(os.Environ(), "CONSOLE_URL=http://"+p.addr("console", 8080), "CONSOLE_ARTEFACTS="+artefacts)
		out, err := cmd.CombinedOutput()
		t.Logf("%v\n%s", step, out)
		if err != nil {
			t.Fatalf("%v: %v", step, err)
		}
	}
}
