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
	artefacts := filepath.Join(root, "artifacts", "console")
	run := func(address string, steps ...[]string) {
		t.Helper()
		for _, step := range steps {
			cmd := exec.CommandContext(t.Context(), step[0], step[1:]...)
			cmd.Dir = filepath.Join(root, "services", "console", "ui")
			cmd.Env = append(os.Environ(), "CONSOLE_URL=http://"+address, "CONSOLE_ARTEFACTS="+artefacts)
			out, err := cmd.CombinedOutput()
			t.Logf("%v\n%s", step, out)
			if err != nil {
				t.Fatalf("%v: %v", step, err)
			}
		}
	}
	run("", []string{"npm", "ci", "--no-audit", "--no-fund"}, []string{"npm", "run", "check"}, []string{"npm", "run", "build"}) // the program holds it
	p := startProcesses(t, stack.Options{})
	wholeHome(t, p)
	if os.Getenv("BIJOU_TEST_BROWSER") == "screenshots" {
		run(p.addr("console", 8080), []string{"node", "test/screenshots.mjs", "--docs"})
		return
	}
	run(p.addr("console", 8080), []string{"npm", "test"}, []string{"node", "test/screenshots.mjs"})
}
