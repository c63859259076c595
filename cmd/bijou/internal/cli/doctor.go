package cli

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"

	"bijou.dev/cmd/bijou/internal/compose"
	"bijou.dev/cmd/bijou/internal/term"
	"bijou.dev/cmd/bijou/stack"
)

// What the stack needs of a machine.
const (
	neededGo     = 26 // Go 1.26
	neededMemory = 2 << 30
	neededDisk   = 3 << 30
)

type doctorCmd struct{}

// Help is what `bijou doctor --help` prints before the flags.
func (doctorCmd) Help() string {
	return `Exits with 1 when something is missing without which "bijou up" cannot work. Containers are optional.`
}

// finding is the result of one check.
type finding struct {
	What string `json:"what"`
	// Level is ok, note (`bijou up` works, perhaps in another way) or missing (it does not work).
	Level string `json:"level"`
	Found string `json:"found"`
	// Do says what to do about it.
	Do string `json:"do,omitempty"`
}

const (
	levelOK      = "ok"
	levelNote    = "note"
	levelMissing = "missing"
)

// Run is `bijou doctor`.
func (doctorCmd) Run(ctx context.Context, e *env) error {
	findings := append([]finding{checkGo(ctx), checkMemory(ctx), e.checkDisk()}, e.checkPorts(ctx)...)
	findings = append(findings, checkDocker(ctx), checkCompose(ctx))
	var missing []string
	t := term.Table{Header: []string{"", "WHAT", "FOUND", "WHAT TO DO"}}
	marks := map[string]term.Painted{
		levelOK: e.style.Green("ok"), levelNote: e.style.Yellow("note"),
		levelMissing: e.style.Red("missing"),
	}
	for _, f := range findings {
		t.Add(marks[f.Level], f.What, f.Found, f.Do)
		if f.Level == levelMissing {
			missing = append(missing, f.What)
		}
	}
	var err error
	if e.program.JSON {
		err = e.printJSON(findings)
	} else {
		err = e.table(&t)
	}
	if err == nil && len(missing) > 0 {
		return fmt.Errorf("missing: %s", strings.Join(missing, ", "))
	}
	return err
}

// output runs a command for at most 5 s and returns the first line that it prints.
func output(ctx context.Context, name string, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	out, err := exec.CommandContext(ctx, name, args...).Output()
	line, _, _ := strings.Cut(strings.TrimSpace(string(out)), "\n")
	return line, err
}

var goVersion = regexp.MustCompile(`^go1\.(\d+)`)

func checkGo(ctx context.Context) finding {
	f := finding{What: "Go", Level: levelOK, Do: ""}
	found, err := output(ctx, "go", "env", "GOVERSION")
	f.Found = found
	m := goVersion.FindStringSubmatch(found)
	if err != nil || m == nil {
		f.Level, f.Found, f.Do = levelMissing, "no go command", "install Go 1.26 or newer from https://go.dev/dl"
		return f
	}
	if minor, _ := strconv.Atoi(m[1]); minor < neededGo {
		f.Level, f.Do = levelMissing, "install Go 1.26 or newer from https://go.dev/dl"
	}
	return f
}

func checkMemory(ctx context.Context) finding {
	f := finding{What: "memory", Level: levelOK}
	total, err := totalMemory(ctx)
	if err != nil {
		f.Level, f.Found = levelNote, "unknown: "+err.Error()
		return f
	}
	f.Found = term.Bytes(total)
	if total < neededMemory {
		f.Level, f.Do = levelNote, "2 GiB are comfortable: \"bijou up SERVICE...\" runs a part"
	}
	return f
}

func (e *env) checkDisk() finding {
	f := finding{What: "disk", Level: levelOK}
	dir, err := e.dir()
	if err != nil {
		dir = "."
	}
	var fs syscall.Statfs_t
	for ; syscall.Statfs(dir, &fs) != nil; dir = filepath.Dir(dir) {
		if dir == filepath.Dir(dir) {
			f.Level, f.Found = levelNote, "unknown"
			return f
		}
	}
	free := int64(fs.Bavail) * int64(fs.Bsize) //nolint:unconvert // the types differ between systems
	f.Found = term.Bytes(free) + " free in " + dir
	if free < neededDisk {
		f.Level, f.Do = levelMissing, "free 3 GiB: binaries, Go's build cache and data need them"
	}
	return f
}

// checkPorts checks whether the published ports are free. If a stack runs here, it uses them, and they are not checked.
func (e *env) checkPorts(ctx context.Context) []finding {
	file, err := e.composeFile()
	if err != nil {
		return []finding{{
			What: compose.FileName, Level: levelMissing, Found: "none here or above",
			Do: "run inside the repository, or pass --file",
		}}
	}
	project, err := compose.Load(ctx, file, e.Environ)
	if err != nil {
		return []finding{{What: compose.FileName, Level: levelMissing, Found: err.Error(), Do: "correct the file"}}
	}
	if _, err := e.running(ctx); err == nil {
		return []finding{{What: "ports", Level: levelOK, Found: "a stack is running here"}}
	} else if !errors.Is(err, stack.ErrNotRunning) {
		return []finding{{What: "ports", Level: levelNote, Found: err.Error()}}
	}
	var all []finding
	for _, name := range project.ServiceNames() {
		for _, port := range project.Services[name].Ports {
			first, last, err := compose.PortRange(port.Published)
			if err != nil {
				all = append(all, finding{
					What: "port " + port.Published, Level: levelMissing, Found: err.Error(),
					Do: "correct it in " + file,
				})
				continue
			}
			for number := first; number <= last && number > 0; number++ {
				all = append(all, checkPort(ctx, name, number))
			}
		}
	}
	return all
}

func checkPort(ctx context.Context, service string, port int) finding {
	f := finding{What: fmt.Sprintf("port %d", port), Level: levelOK, Found: "free for " + service}
	l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", fmt.Sprintf("127.0.0.1:%d", port))
	if err != nil {
		f.Level, f.Found = levelNote, "taken by "+stack.PortHolder(port)
		f.Do = "end that program, or use the port that \"bijou up\" takes instead and prints"
		return f
	}
	_ = l.Close()
	return f
}

func checkDocker(ctx context.Context) finding {
	f := finding{What: "Docker engine", Level: levelOK}
	version, err := output(ctx, "docker", "version", "--format", "{{.Server.Version}}")
	f.Found = version
	if err != nil || version == "" {
		f.Level, f.Found = levelNote, "none answers"
		f.Do = "needed only for containers; \"make up\" runs processes without it"
	}
	return f
}

func checkCompose(ctx context.Context) finding {
	f := finding{What: "docker compose", Level: levelOK}
	version, err := output(ctx, "docker", "compose", "version", "--short")
	f.Found = version
	if err != nil || version == "" {
		f.Level, f.Found = levelNote, "none"
		f.Do = "needed only for containers: https://docs.docker.com/compose/install"
	}
	return f
}

// totalMemory is the memory of this machine in bytes.
func totalMemory(ctx context.Context) (int64, error) {
	if runtime.GOOS == "linux" {
		return linuxMemory()
	}
	text, err := output(ctx, "sysctl", "-n", "hw.memsize")
	if err != nil {
		return 0, fmt.Errorf("asking sysctl for hw.memsize: %w", err)
	}
	return strconv.ParseInt(text, 10, 64)
}
