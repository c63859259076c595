package compose_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"bijou.dev/cmd/bijou/internal/compose"
	"bijou.dev/platform/errs"
	"github.com/google/go-cmp/cmp"
)

// write writes a compose file, and more files beside it, and returns its path.
func write(t *testing.T, file string, more map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	path := filepath.Join(dir, compose.FileName)
	if err := os.WriteFile(path, []byte(file), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, text := range more {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return path
}

func TestLoadNamesTheFileAndWhatIsWrong(t *testing.T) {
	for name, test := range map[string]struct{ file, want string }{
		"no YAML":             {"services:\n  a: {image: [", "yaml"},
		"tab":                 {"services:\n\ta: {image: x}", "line 2"},
		"a list of services":  {"services: [a]", "services"},
		"an unknown key":      {"services: {a: {image: x, porst: []}}", "porst"},
		"a bad port":          {"services: {a: {image: x, ports: [\"x:80\"]}}", "Invalid hostPort: x"},
		"a bad duration":      {"services: {a: {image: x, stop_grace_period: soon}}", "soon"},
		"a required variable": {"services: {a: {image: \"${X:?set X}\"}}", "set X"},
		"a broken variable":   {"services: {a: {image: \"${X\"}}", "${X"},
		"a circle":            {"services: {a: {image: x, depends_on: [a]}}", "a"},
		"a missing env_file":  {"services: {a: {image: x, env_file: none.env}}", "none.env"},
		"an unknown anchor":   {"services: {a: *b}", "unknown anchor"},
	} {
		t.Run(name, func(t *testing.T) {
			path := write(t, test.file, nil)
			_, err := compose.Load(t.Context(), path, nil)
			if err == nil || !strings.HasPrefix(err.Error(), "reading "+path+": ") || !strings.Contains(err.Error(), test.want) {
				t.Errorf("Load = %v, want the path and %q", err, test.want)
			}
			if errs.KindOf(err) != errs.Internal {
				t.Errorf("the kind of %v is %v; a file that is there must not be reported as missing", err, errs.KindOf(err))
			}
		})
	}
}

func TestLoadOfAMissingFileIsNotFound(t *testing.T) {
	path := filepath.Join(t.TempDir(), compose.FileName)
	if _, err := compose.Load(t.Context(), path, nil); errs.KindOf(err) != errs.NotFound ||
		err.Error() != "reading "+path+": there is no such file" {
		t.Errorf("Load = %v, want NotFound with the path", err)
	}
}

func TestVariablesComeFromTheEnvironmentThenFromDotEnv(t *testing.T) {
	const file = `
services:
  a:
    image: x
    env_file: more.env
    environment:
      SHELL_WINS: "${SHELL_WINS}"
      ONLY_DOT_ENV: "${ONLY_DOT_ENV}"
      DEFAULT: "${UNSET:-otherwise}"
      EMPTY: "${UNSET_TOO}"
      DOLLAR: "$$HOME"
      PASSED_ON:
      NOT_PASSED_ON:
`
	path := write(t, file, map[string]string{
		".env":     "SHELL_WINS=dotenv\nONLY_DOT_ENV=größe\n",
		"more.env": "FROM_FILE=1\nDEFAULT=from the file\n",
	})
	project, err := compose.Load(t.Context(), path, []string{"SHELL_WINS=shell", "PASSED_ON=yes"})
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]string{}
	for name, value := range project.Services["a"].Environment {
		got[name] = "(unset)"
		if value != nil {
			got[name] = *value
		}
	}
	want := map[string]string{
		"SHELL_WINS": "shell", "ONLY_DOT_ENV": "größe", "DEFAULT": "otherwise", "EMPTY": "", "DOLLAR": "$HOME",
		"PASSED_ON": "yes", "NOT_PASSED_ON": "(unset)", "FROM_FILE": "1",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("environment (-want +got):\n%s", diff)
	}
}

func TestAVariableWithoutAValueIsNotPassedToProcesses(t *testing.T) {
	p := mustPlan(t, "services: {a: {build: {args: {SERVICE: a}}, environment: [NOT_SET, SET=]}}")
	want := []string{"BIJOU_ADVERTISE=127.0.0.1", "BIJOU_INSTANCE=a-1", "SET="}
	if diff := cmp.Diff(want, p.Processes[0].Env); diff != "" {
		t.Errorf("environment (-want +got):\n%s", diff)
	}
}

func TestADependencyOnAServiceThatIsOffIsOptional(t *testing.T) {
	path := write(t, header+"  a: {build: {args: {SERVICE: a}}, depends_on: [b, store]}\n"+
		"  b: {build: {args: {SERVICE: b}}, profiles: [extra]}\n", nil)
	for profiles, want := range map[string][]string{"": {"a", "store"}, " extra , other ": {"a", "b", "store"}} {
		project, err := compose.Load(t.Context(), path, []string{"COMPOSE_PROFILES=" + profiles})
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, project.ServiceNames()); diff != "" {
			t.Errorf("COMPOSE_PROFILES=%q: services (-want +got):\n%s", profiles, diff)
		}
	}
	if _, err := compose.Load(t.Context(), path, nil, "a", "nothing"); errs.KindOf(err) != errs.NotFound ||
		!strings.Contains(err.Error(), `has no service "nothing", only [a b store]`) {
		t.Errorf("Load of an unknown service = %v, want NotFound and the services", err)
	}
}

func TestStartOrderFollowsDependencies(t *testing.T) {
	p := mustPlan(t, `
services:
  d: {build: {args: {SERVICE: d}}, depends_on: [c, b]}
  c: {build: {args: {SERVICE: c}}, depends_on: [b]}
  b: {build: {args: {SERVICE: b}}, depends_on: [a]}
  a: {build: {args: {SERVICE: a}}}
  e: {build: {args: {SERVICE: e}}}
`)
	levels := map[string]int{}
	last := 0
	for _, process := range p.Processes {
		levels[process.Service] = process.Level
		if process.Level < last {
			t.Errorf("%s of level %d stands behind level %d", process.Name, process.Level, last)
		}
		last = process.Level
	}
	if diff := cmp.Diff(map[string]int{"a": 0, "b": 1, "c": 2, "d": 3, "e": 0}, levels); diff != "" {
		t.Errorf("levels (-want +got):\n%s", diff)
	}
}

func TestTheSameFileGivesTheSamePlan(t *testing.T) {
	file := client("http://vault, store:7000 and safe:7000")
	first := mustPlan(t, file)
	for range 20 {
		if diff := cmp.Diff(first.Processes, mustPlan(t, file).Processes); diff != "" {
			t.Fatalf("two plans of one file differ (-first +second):\n%s", diff)
		}
	}
}

func TestServicesWithoutReplicas(t *testing.T) {
	none := "  none: {build: {args: {SERVICE: none}}, scale: 0, environment: {LISTEN: ':80'}}\n"
	p := mustPlan(t, header+none)
	if len(p.Processes) != 2 {
		t.Errorf("%d processes, want those of store only", len(p.Processes))
	}
	caller := "  a: {build: {args: {SERVICE: a}}, environment: {PEER: 'none:80'}}\n"
	_, err := plan(t, header+none+caller, compose.Options{})
	if err == nil || err.Error() != "service a: PEER refers to none, which has no replicas" {
		t.Errorf("an address of a service without replicas: %v", err)
	}
	if _, err := plan(t, "services:\n"+none, compose.Options{}); err == nil ||
		err.Error() != "the compose file has no services to run" {
		t.Errorf("a file whose only service has no replicas: %v", err)
	}
}

func TestAPlanFailsWhenThereIsNoFreePort(t *testing.T) {
	project, err := compose.Load(t.Context(), write(t, header, nil), nil)
	if err != nil {
		t.Fatal(err)
	}
	none := func(int) (int, error) { return 0, os.ErrDeadlineExceeded }
	_, err = compose.NewPlan(project, compose.Options{Dir: "/v", Port: none})
	if err == nil || !strings.Contains(err.Error(), "finding a free port for store-1:7000: ") {
		t.Errorf("NewPlan = %v, want the instance and the port", err)
	}
}

func TestHealthChecksThatAreOff(t *testing.T) {
	for _, check := range []string{"{disable: true}", "{test: [NONE]}", "{interval: 3s}"} {
		p := mustPlan(t, "services: {a: {build: {args: {SERVICE: a}}, healthcheck: "+check+"}}")
		if p.Processes[0].Health != nil {
			t.Errorf("healthcheck %s: %+v, want none", check, p.Processes[0].Health)
		}
	}
}

func TestRestartPoliciesThatAreRefused(t *testing.T) {
	for _, policy := range []string{"on-failure:x", "on-failure:-1", "always:3", "never"} {
		project, err := compose.Load(t.Context(), write(t, "services: {a: {build: {args: {SERVICE: a}}}}", nil), nil)
		if err != nil {
			t.Fatal(err)
		}
		service := project.Services["a"]
		service.Restart = policy
		project.Services["a"] = service
		_, err = compose.NewPlan(project, compose.Options{Dir: "/v", Port: func(int) (int, error) { return 1, nil }})
		if err == nil || !strings.Contains(err.Error(), `restart "`+policy+`"`) {
			t.Errorf("restart %q: %v, want that it is refused", policy, err)
		}
	}
}
