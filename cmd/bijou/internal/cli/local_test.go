package cli_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"bijou.dev/cmd/bijou/internal/cli"
	"bijou.dev/cmd/bijou/stack"
	"github.com/google/go-cmp/cmp"
)

// localStack is a folder with the record of a stack, and its socket.
type localStack struct {
	dir    string
	run    stack.Run
	answer http.HandlerFunc // of orders
	orders []string         // "POST /instances/web-1/kill"
}

// start serves the stack until the test ends.
func (s *localStack) start(t *testing.T) *localStack {
	t.Helper()
	var err error
	if s.dir, err = os.MkdirTemp("", "cli"); err != nil { // short: the name of a socket has a limit
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(s.dir) })
	s.run.Socket = filepath.Join(s.dir, "bijou.sock")
	l, err := net.Listen("unix", s.run.Socket)
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/run" {
			_ = json.NewEncoder(w).Encode(s.run)
			return
		}
		s.orders = append(s.orders, r.Method+" "+r.URL.Path)
		if s.answer != nil {
			s.answer(w, r)
		}
	})}
	go func() { _ = server.Serve(l) }() // ends with Close
	t.Cleanup(func() { _ = server.Close() })
	text, err := json.Marshal(s.run)
	if err != nil {
		t.Fatal(err)
	}
	s.write(t, "run.json", string(text))
	return s
}

func (s *localStack) write(t *testing.T, name, text string) {
	t.Helper()
	path := filepath.Join(s.dir, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// expect runs a command and requires its exit code and a text on standard error, and returns standard output.
func (s *localStack) expect(t *testing.T, code int, problem string, args ...string) string {
	t.Helper()
	stdout, stderr, got := runCommand(t, []string{"BIJOU_DIR=" + s.dir}, args...)
	if got != code || !strings.Contains(stderr, problem) {
		t.Errorf("bijou %s: exit code %d with %q on standard error, want %d with %q", strings.Join(args, " "), got, stderr,
			code, problem)
	}
	return stdout
}

func TestStatusShowsEachInstance(t *testing.T) {
	s := (&localStack{run: stack.Run{
		Started: time.Now(),
		Instances: []stack.Instance{
			{
				Name: "web-1", Service: "web", Phase: "healthy", PID: 12, Started: time.Now(), Memory: 5 << 20,
				Ports: map[int]string{9090: "127.0.0.1:20001", 8080: "127.0.0.1:20002"},
			},
			{Name: "web-2", Service: "web", Phase: "held", Problem: "held down", Restarts: 3},
			{Name: "web-3", Service: "web", Phase: "unhealthy", PID: 13, Problem: "health check: größe\x1b[2J\n"},
			{Name: "web-4", Service: "web", Phase: "exited", Problem: "exit status 2"},
			{Name: "web-5", Service: "web", Phase: "starting"},
		},
	}}).start(t)
	out := s.expect(t, cli.ExitFailed, "not healthy: web-2, web-3, web-4, web-5\n", "status")
	got := rows(out)
	for _, row := range got[1:] { // without the time since the start
		if len(row) > 4 && (row[0] == "web-1" || row[0] == "web-3") {
			row[3] = "UP"
		}
	}
	want := [][]string{
		{"INSTANCE", "HEALTH", "PID", "UP", "RESTARTS", "MEMORY", "ADMIN", "PROBLEM"},
		{"web-1", "healthy", "12", "UP", "0", "5", "MiB", "http://127.0.0.1:20001"},
		{"web-2", "held", "3", "held", "down"},
		{"web-3", "unhealthy", "13", "UP", "0", "0", "KiB", "health", "check:", `größe\x1b[2J\n`},
		{"web-4", "exited", "0", "exit", "status", "2"},
		{"web-5", "starting", "0"},
		{},
	}
	if diff := cmp.Diff(want, got[:len(want)]); diff != "" {
		t.Errorf("bijou status (-want +got):\n%s", diff)
	}
	last := strings.Join(got[len(got)-1], " ")
	if want := "5 instances, 5 MiB of memory, running since "; !strings.HasPrefix(last, want) {
		t.Errorf("the last line is %q, want it to begin with %q", last, want)
	}
	var shown stack.Run
	if err := json.Unmarshal([]byte(s.expect(t, cli.ExitFailed, "not healthy", "status", "--json")), &shown); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(s.run.Instances[1:], shown.Instances[1:]); diff != "" {
		t.Errorf("with --json (-record +shown):\n%s", diff)
	}
}

func TestStatusCountsASuccessfulEndAsHealthy(t *testing.T) {
	s := (&localStack{run: stack.Run{Instances: []stack.Instance{
		{Name: "migrate-1", Service: "migrate", Phase: "exited", Problem: "exit status 0"},
	}}}).start(t)
	s.expect(t, cli.ExitOK, "", "status")
}

func TestOrdersToAnInstance(t *testing.T) {
	for args, test := range map[string]struct{ order, note string }{
		"kill web-1": {
			"POST /instances/web-1/kill", "killed web-1; its restart policy decides whether it starts again\n",
		},
		"kill web-1 --hold": {"POST /instances/web-1/hold", "killed web-1; `bijou restart web-1` starts it again\n"},
		"restart web-1":     {"POST /instances/web-1/restart", "restarted web-1\n"},
	} {
		t.Run(args, func(t *testing.T) {
			s := (&localStack{}).start(t)
			if out := s.expect(t, cli.ExitOK, test.note, strings.Fields(args)...); out != "" {
				t.Errorf("standard output is %q, want nothing", out)
			}
			if diff := cmp.Diff([]string{test.order}, s.orders); diff != "" {
				t.Errorf("orders (-want +got):\n%s", diff)
			}
			s.answer = func(w http.ResponseWriter, _ *http.Request) {
				http.Error(w, "signalling web-1: it is not running (held)", http.StatusConflict)
			}
			s.expect(t, cli.ExitFailed, "bijou: signalling web-1: it is not running (held)\n", strings.Fields(args)...)
			s.answer = http.NotFound
			s.expect(t, cli.ExitNotFound, `no such instance: "web-1"`, strings.Fields(args)...)
		})
	}
}

func TestCommandsWithTheRecordOfAKilledStack(t *testing.T) {
	s := (&localStack{}).start(t)
	if err := os.Remove(s.run.Socket); err != nil {
		t.Fatal(err)
	}
	for _, args := range []string{"status", "down", "kill web-1", "restart web-1", "services", "map", "config history"} {
		s.expect(t, cli.ExitUnreachable, "no stack is running here: start it with `bijou up`", strings.Fields(args)...)
	}
}

func TestDownOfAStackThatEnds(t *testing.T) {
	s := (&localStack{}).start(t)
	s.answer = func(http.ResponseWriter, *http.Request) { _ = os.Remove(filepath.Join(s.dir, "run.json")) }
	s.expect(t, cli.ExitOK, "", "down")
	s.expect(t, cli.ExitUnreachable, "no stack is running here", "down")
}

func TestLogsAreReadable(t *testing.T) {
	s := (&localStack{}).start(t)
	const at = "2026-01-01T00:00:00.000000Z"
	s.write(t, "logs/web-1.log", at+` | {"level":"WARN","msg":"größe\u001b[2J","service":"web","took":1500000}`+"\n"+
		at+" | plain\x1b[31m\ttext\n"+at+" * held down\n")
	want := []string{
		`web-1 | WARN größe\x1b[2J took=1.5ms`, `web-1 | plain\x1b[31m    text`, "web-1 | -- held down",
	}
	if diff := cmp.Diff(strings.Join(want, "\n")+"\n", s.expect(t, cli.ExitOK, "", "logs")); diff != "" {
		t.Errorf("bijou logs (-want +got):\n%s", diff)
	}
	wantRaw := "web-1 | plain\x1b[31m\ttext\nweb-1 | -- held down\n"
	if out := s.expect(t, cli.ExitOK, "", "logs", "--raw", "-n", "2"); out != wantRaw {
		t.Errorf("with --raw it prints %q, want the line as it was written: %q", out, wantRaw)
	}
	wantJSON := `{"time":"2026-01-01T00:00:00Z","instance":"web-1","text":"held down","note":true}` + "\n"
	if out := s.expect(t, cli.ExitOK, "", "logs", "--json", "-n", "1", "web"); out != wantJSON {
		t.Errorf("with --json it prints %q, want %q", out, wantJSON)
	}
	s.expect(t, cli.ExitNotFound, `there is no log of "api"`, "logs", "api")
}

func TestLogsWithoutLogs(t *testing.T) {
	s := (&localStack{}).start(t)
	s.expect(t, cli.ExitNotFound, "there are no logs in", "logs")
	s.expect(t, cli.ExitNotFound, "there are no logs in", "logs", "-f")
}

func TestCompletionOffersTheNamesOfWhatRuns(t *testing.T) {
	s := (&localStack{run: stack.Run{Instances: []stack.Instance{
		{Name: "web-1", Service: "web"}, {Name: "web-2", Service: "web"}, {Name: "größe-1", Service: "größe"},
	}}}).start(t)
	for words, want := range map[string]string{
		"kill w":                    "web-1 web-2",
		"restart g":                 "größe-1",
		"logs web":                  "web web-1 web-2",
		"circuits w":                "web",
		"config set a b --app w":    "web",
		"config set a --instance w": "web-1 web-2",
		"kill x":                    "",
		"trace w":                   "",
		"completion z":              "zsh",
		"--j":                       "--json",
	} {
		out := s.expect(t, cli.ExitOK, "", append([]string{"__complete", "--"}, strings.Split(words, " ")...)...)
		var got []string
		for line := range strings.Lines(out) {
			word, _, _ := strings.Cut(line, "\t")
			got = append(got, word)
		}
		if strings.Join(got, " ") != want {
			t.Errorf("bijou %s<Tab> offers %q, want %q", words, got, want)
		}
	}
}

// upOutput is the standard output of `bijou up`, which ends the command when a text appears.
type upOutput struct {
	mu   sync.Mutex
	text bytes.Buffer
	at   map[string]func() // text -> what happens once it was printed
}

func (o *upOutput) Write(b []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.text.Write(b)
	for text, do := range o.at {
		if strings.Contains(o.text.String(), text) {
			do()
			delete(o.at, text)
		}
	}
	return len(b), nil
}

// project is a folder with a compose file and the module services/demo, whose program waits for SIGTERM.
func project(t *testing.T, service string) (composeFile, dir string) {
	t.Helper()
	dir, err := os.MkdirTemp("", "up") // short: the name of a socket has a limit
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	s := &localStack{dir: dir}
	s.write(t, "compose.yaml", "services:\n  demo:\n    build: {args: {SERVICE: demo}}\n    "+service+"\n")
	s.write(t, "services/demo/go.mod", "module demo\n\ngo 1.26\n")
	s.write(t, "services/demo/main.go", `package main

import (
	"os"
	"os/signal"
	"syscall"
	"time"
)

func main() {
	stop := make(chan os.Signal, 1)
	if len(os.Args) > 1 {
		signal.Ignore(syscall.SIGTERM)
		time.AfterFunc(time.Hour, func() {}) // else the runtime would end the program: nothing can wake it
	} else {
		signal.Notify(stop, syscall.SIGTERM)
	}
	println("running")
	<-stop
}
`)
	return filepath.Join(dir, "compose.yaml"), filepath.Join(dir, "data")
}

// up runs `bijou up` and calls the functions when standard output has their text.
func up(t *testing.T, at func(interrupt, again func()) map[string]func(), args ...string) (stdout, stderr string,
	code int,
) {
	t.Helper()
	ctx, interrupt := context.WithCancel(t.Context())
	now, again := context.WithCancel(t.Context())
	defer interrupt()
	defer again()
	out, problems := &upOutput{at: at(interrupt, again)}, &bytes.Buffer{}
	code = cli.Main(ctx, cli.World{
		Args: append([]string{"up"}, args...), Stdout: out, Stderr: problems, Environ: os.Environ(), Now: now,
	})
	return out.text.String(), problems.String(), code
}

func TestUpNamesTheProgramThatHasThePort(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	_, port, err := net.SplitHostPort(l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	file, dir := project(t, "ports: [{name: shop, target: 80, published: '"+port+"', app_protocol: http}]")
	out, problem, code := up(t, func(interrupt, _ func()) map[string]func() {
		return map[string]func(){"Ctrl-C stops it.": interrupt}
	}, "--file", file, "--dir", dir)
	if code != cli.ExitOK {
		t.Fatalf("exit code %d: %s", code, problem)
	}
	for _, want := range []string{
		"[1/1] built demo\n", "1 instances healthy in ",
		"\nstopping; Ctrl-C again kills\nstopped in ",
	} {
		if !strings.Contains(out, want) {
			t.Errorf("it prints\n%s\nwant %q in it", out, want)
		}
	}
	table := rows(out)
	row := slices.IndexFunc(table, func(words []string) bool { return len(words) > 0 && words[0] == "shop" })
	if row < 0 || len(table[row]) < 3 || strings.HasSuffix(table[row][1], ":"+port) ||
		!strings.HasPrefix(strings.Join(table[row][2:], " "), "port "+port+" is taken by ") ||
		!strings.HasSuffix(strings.Join(table[row], " "), "(pid "+strconv.Itoa(os.Getpid())+")") {
		t.Errorf("it prints\n%s\nwant another port for shop, and that this process has port %s", out, port)
	}
}

func TestUpKillsWhatDoesNotStopAtTheSecondSignal(t *testing.T) {
	file, dir := project(t, "command: [ignore]\n    stop_grace_period: 1h")
	out, problem, code := up(t, func(interrupt, again func()) map[string]func() {
		return map[string]func(){"| running": interrupt, "stopping; ": again}
	}, "--file", file, "--dir", dir)
	if code != cli.ExitFailed || !strings.Contains(problem, "stopping demo-1: killed: context canceled") ||
		strings.Contains(out, "stopped in") {
		t.Errorf("exit code %d, %q; want %d and that demo-1 was killed", code, problem, cli.ExitFailed)
	}
}

func TestUpWithoutTheSources(t *testing.T) {
	file, dir := project(t, "restart: always")
	if err := os.RemoveAll(filepath.Join(filepath.Dir(file), "services")); err != nil {
		t.Fatal(err)
	}
	_, problem, code := up(t, func(_, _ func()) map[string]func() { return nil }, "--file", file, "--dir", dir)
	if code != cli.ExitFailed || !strings.Contains(problem, "building demo: ") {
		t.Errorf("exit code %d, %q; want %d and what could not be built", code, problem, cli.ExitFailed)
	}
}

func TestUpOfABrokenComposeFile(t *testing.T) {
	for name, test := range map[string]struct {
		service, want string
		code          int
	}{
		"not YAML":           {"restart: [", "compose.yaml", cli.ExitFailed},
		"unknown key":        {"restrat: always", "restrat", cli.ExitFailed},
		"unknown policy":     {"restart: sometimes", `restart "sometimes": must be no, always`, cli.ExitFailed},
		"shell health check": {"healthcheck: {test: curl localhost}", "healthcheck.test", cli.ExitFailed},
	} {
		t.Run(name, func(t *testing.T) {
			file, dir := project(t, test.service)
			out, problem, code := up(t, func(_, _ func()) map[string]func() { return nil }, "--file", file, "--dir", dir)
			if code != test.code || out != "" || !strings.HasPrefix(problem, "bijou: ") ||
				!strings.Contains(problem, test.want) {
				t.Errorf("exit code %d, it prints %q and %q; want %d and %q", code, out, problem, test.code, test.want)
			}
		})
	}
}

func TestUpThatIsInterruptedWhileItBuilds(t *testing.T) {
	file, dir := project(t, "restart: always")
	_, problem, code := up(t, func(interrupt, _ func()) map[string]func() {
		return map[string]func(){"building demo": interrupt}
	}, "--file", file, "--dir", dir)
	if code != cli.ExitFailed || problem != "bijou: interrupted before the stack was started\n" {
		t.Errorf("exit code %d, %q; want %d and that it was interrupted", code, problem, cli.ExitFailed)
	}
}

func TestUpAsJSONIsOneObjectPerLine(t *testing.T) {
	file, dir := project(t, "extra_hosts: ['far:10.0.0.1']")
	out, problem, code := up(t, func(interrupt, _ func()) map[string]func() {
		return map[string]func(){`"ready"`: interrupt}
	}, "--json", "--file", file, "--dir", dir)
	if code != cli.ExitOK || problem != "" {
		t.Errorf("exit code %d, standard error is %q", code, problem)
	}
	kinds := map[string]int{}
	for line := range strings.Lines(out) {
		var event map[string]any
		if err := json.Unmarshal([]byte(line), &event); err != nil || len(event) != 1 {
			t.Errorf("the line %q is no JSON object with one field (%v)", line, err)
		}
		for kind := range event {
			kinds[kind]++
		}
	}
	if kinds["step"] != 2 || kinds["ready"] != 1 || kinds["note"] != 3 {
		t.Errorf("it prints %v, want two steps, ready, and notes of the warning, the stop and its end:\n%s", kinds, out)
	}
}

func TestAMissingComposeFileIsNotFound(t *testing.T) {
	missing := filepath.Join(t.TempDir(), "compose.yaml")
	for _, args := range [][]string{{"up", "--file", missing}, {"up", "web", "--file", missing}} {
		if _, problem, code := runCommand(t, nil, args...); code != cli.ExitNotFound ||
			problem != fmt.Sprintf("bijou: reading %s: there is no such file\n", missing) {
			t.Errorf("%v: exit code %d, %q; want %d and the path", args, code, problem, cli.ExitNotFound)
		}
	}
}
