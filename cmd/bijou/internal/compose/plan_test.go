package compose_test

import (
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"bijou.dev/cmd/bijou/internal/compose"
	"bijou.dev/platform/names"
	"github.com/google/go-cmp/cmp"
)

// plan loads a compose file and plans it. Ports count up from 20001; the wanted ones are free unless taken.
func plan(t *testing.T, file string, opts compose.Options, taken ...int) (*compose.Plan, error) {
	t.Helper()
	path := filepath.Join(t.TempDir(), compose.FileName)
	if err := os.WriteFile(path, []byte(file), 0o600); err != nil {
		t.Fatal(err)
	}
	project, err := compose.Load(t.Context(), path, []string{"EDGE=8080"})
	if err != nil {
		t.Fatal(err)
	}
	last := 20000
	opts.Dir = "/v"
	opts.Port = func(wanted int) (int, error) {
		if wanted > 0 && !slices.Contains(taken, wanted) {
			return wanted, nil
		}
		last++
		return last, nil
	}
	return compose.NewPlan(project, opts)
}

func mustPlan(t *testing.T, file string, taken ...int) *compose.Plan {
	t.Helper()
	p, err := plan(t, file, compose.Options{}, taken...)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func find(t *testing.T, p *compose.Plan, name string) compose.Process {
	t.Helper()
	i := slices.IndexFunc(p.Processes, func(p compose.Process) bool { return p.Name == name })
	if i < 0 {
		t.Fatalf("no process %s", name)
	}
	return p.Processes[i]
}

// header is a compose file with a service to refer to: store, two replicas on 7000 (20001, 20002).
const header = `
name: test
services:
  store:
    build: {args: {SERVICE: store/cmd/store}}
    deploy: {replicas: 2}
    environment: {LISTEN: "grpc=:7000"}
`

func TestRewrite(t *testing.T) {
	const stores = "127.0.0.1:20001,127.0.0.1:20002"
	for value, want := range map[string]string{
		// its own listeners
		":8080":                           "127.0.0.1:20003",
		"grpc=:7000,admin=:9090":          "grpc=127.0.0.1:20003,admin=127.0.0.1:20004",
		"0.0.0.0:2379":                    "127.0.0.1:20003",
		"[::]:2379":                       "127.0.0.1:20003",
		"http://localhost:2379/x?y=1":     "http://127.0.0.1:20003/x?y=1",
		"--listen=http://0.0.0.0:2379":    "--listen=http://127.0.0.1:20003",
		`{"listen":":8080"}`:              `{"listen":"127.0.0.1:20003"}`,
		"own=http://web:8080 other=:8080": "own=http://127.0.0.1:20003 other=127.0.0.1:20003",
		// other services, each replica
		"store:7000":                    stores,
		"http://store:7000":             "http://127.0.0.1:20001,http://127.0.0.1:20002",
		"http://store:7000/a":           "http://127.0.0.1:20001/a,http://127.0.0.1:20002/a",
		"x:1,store:7000":                "x:1," + stores,
		"etcd://store:7000 store:7000":  "etcd://127.0.0.1:20001,etcd://127.0.0.1:20002 " + stores,
		"-peers=store:7000,-other=true": "-peers=" + stores + ",-other=true",
		// folders
		"/data":          "/v/named",
		"/data/db/x":     "/v/named/db/x",
		"-dir=/data":     "-dir=/v/named",
		"/data/deeper/x": "/v/web-1/data-deeper/x",
		"/database":      "/database",
		"/state":         "/v/web-1/state",
		"http://x/data":  "http://x/data",
		"/tmp":           "/v/web-1/tmp",
		"-d=/other":      "-d=/other",
		// neither
		"":                     "",
		"10:30:00":             "10:30:00",
		"unknown:7000":         "unknown:7000",
		"bijou:///store":       "bijou:///store",
		"sha256:7000":          "sha256:7000",
		"store:7000s":          "store:7000s",
		"my-store:7000":        "my-store:7000",
		"store.example.com:80": "store.example.com:80",
		`{"weight":80,"x":1}`:  `{"weight":80,"x":1}`,
		":0":                   ":0",
		":99999":               ":99999",
	} {
		t.Run(value, func(t *testing.T) {
			p := mustPlan(t, header+`
  web:
    build: {args: {SERVICE: app}}
    volumes: ["named:/data", "/data/deeper", "/state"]
    tmpfs: [/tmp]
    environment:
      VALUE: '`+value+`'
      ZLATER: ':8080'
volumes: {named: }
`)
			got := find(t, p, "web-1")
			if i := slices.Index(got.Env, "VALUE="+want); i < 0 {
				t.Errorf("environment is\n%s\nwant VALUE=%s", strings.Join(got.Env, "\n"), want)
			}
		})
	}
}

// vault is a service with one replica and more names than its own.
const vault = `
  vault:
    build: {args: {SERVICE: vault}}
    hostname: vault.internal
    container_name: the-vault
    networks: {default: {aliases: [safe]}}
    environment: {LISTEN: "grpc=:7000,amqp=:5672,web=:80"}
`

// client is a service with one setting, planned before the services that it refers to.
func client(value string) string {
	return `
name: test
services:
  client:
    build: {args: {SERVICE: app}}
    links: ["vault:linked"]
    environment:
      VALUE: '` + value + `'` + strings.TrimPrefix(header, "\nname: test\nservices:") + vault
}

func TestRewriteForms(t *testing.T) {
	for value, want := range map[string]string{
		// with user and password
		"user:pass@vault:7000":         "user:pass@127.0.0.1:20001",
		"http://u:p@vault:7000/x":      "http://u:p@127.0.0.1:20001/x",
		"redis://:secret@vault:7000/0": "redis://:secret@127.0.0.1:20001/0",
		"user@store:7000":              "user@127.0.0.1:20001,user@127.0.0.1:20002",
		// the port of the scheme
		"amqp://u:p@vault":            "amqp://u:p@127.0.0.1:20001",
		"http://vault/x":              "http://127.0.0.1:20001/x",
		"http://vault?x=1":            "http://127.0.0.1:20001?x=1",
		"see http://vault, http://no": "see http://127.0.0.1:20001, http://no",
		// a URL that names one server, and one that names several
		"redis://store:7000/0":            "redis://127.0.0.1:20001/0",
		"mongodb://vault:7000,store:7000": "mongodb://127.0.0.1:20001,127.0.0.1:20002,127.0.0.1:20003",
		// targets of gRPC
		"dns:///vault:7000": "dns:///127.0.0.1:20001",
		"dns:///store:7000": "ipv4:127.0.0.1:20001,127.0.0.1:20002",
		// other names of the service
		"safe:7000":             "127.0.0.1:20001",
		"vault.internal:7000":   "127.0.0.1:20001",
		"the-vault:7000":        "127.0.0.1:20001",
		"linked:7000":           "127.0.0.1:20001",
		"http://vault.internal": "http://127.0.0.1:20001",
	} {
		t.Run(value, func(t *testing.T) {
			got := find(t, mustPlan(t, client(value)), "client-1")
			if !slices.Contains(got.Env, "VALUE="+want) {
				t.Errorf("environment is\n%s\nwant VALUE=%s", strings.Join(got.Env, "\n"), want)
			}
		})
	}
}

func TestWarnings(t *testing.T) {
	for name, test := range map[string]struct{ file, want string }{
		"scheme without a known port": {
			client("ftp://vault/x"),
			`service client: VALUE names vault in a form that is not rewritten`,
		},
		"user without a port": {
			client("git@vault"),
			`service client: VALUE names vault in a form that is not rewritten`,
		},
		"one server, two replicas": {
			client("redis://store:7000"),
			"service client: VALUE names one server, but there are 2 replicas",
		},
		"dependency with its profile off": {
			header +
				"  a: {build: {args: {SERVICE: a}}, depends_on: [b]}\n  b: {build: {args: {SERVICE: b}}, profiles: [extra]}\n",
			"service a depends on b, whose profile extra is off",
		},
		"extra_hosts": {
			header + "  a: {build: {args: {SERVICE: a}}, extra_hosts: [\"far:10.0.0.1\"]}\n",
			"service a: extra_hosts far is not applied",
		},
		"external_links": {
			header + "  a: {build: {args: {SERVICE: a}}, external_links: [other]}\n",
			"service a: external_links other is not resolved",
		},
	} {
		t.Run(name, func(t *testing.T) {
			p := mustPlan(t, test.file)
			if len(p.Warnings) != 1 || !strings.Contains(p.Warnings[0], test.want) {
				t.Errorf("warnings %q, want one with %q", p.Warnings, test.want)
			}
		})
	}
	for _, value := range []string{"bijou:///store", "store", "a@example.com", "http://example.com", "http://store:7000"} {
		if p := mustPlan(t, client(value)); len(p.Warnings) > 0 {
			t.Errorf("%s: warnings %q, want none", value, p.Warnings)
		}
	}
}

func TestANamedServiceEnablesItsProfile(t *testing.T) {
	file := filepath.Join(t.TempDir(), compose.FileName)
	content := header + "  a: {build: {args: {SERVICE: a}}, profiles: [extra]}\n"
	if err := os.WriteFile(file, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	for profiles, want := range map[string][]string{"": {"store"}, "extra": {"a", "store"}, "*": {"a", "store"}} {
		project, err := compose.Load(t.Context(), file, []string{"COMPOSE_PROFILES=" + profiles})
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, project.ServiceNames()); diff != "" {
			t.Errorf("COMPOSE_PROFILES=%s: services (-want +got):\n%s", profiles, diff)
		}
	}
	project, err := compose.Load(t.Context(), file, nil, "a")
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"a"}, project.ServiceNames()); diff != "" {
		t.Errorf("services when a is named (-want +got):\n%s", diff)
	}
}

func TestPublishedRange(t *testing.T) {
	p := mustPlan(t, header+`
  edge:
    build: {args: {SERVICE: edge}}
    scale: 3
    environment: {LISTEN: ":8080"}
    ports: ["8090-8091:8080"]
`)
	var got []string
	for _, name := range []string{"edge-1", "edge-2", "edge-3"} {
		got = append(got, find(t, p, name).Ports[8080])
	}
	if diff := cmp.Diff([]string{"127.0.0.1:8090", "127.0.0.1:8091", "127.0.0.1:20001"}, got); diff != "" {
		t.Errorf("addresses of the instances (-want +got):\n%s", diff)
	}
	for _, bad := range []string{"8091-8090", "x-8090", "0-70000"} {
		if _, _, err := compose.PortRange(bad); err == nil {
			t.Errorf("port range %q was accepted", bad)
		}
	}
}

func TestReplicas(t *testing.T) {
	p := mustPlan(t, header+`
  app:
    build: {args: {SERVICE: cinema/cmd/app}}
    scale: 2
    command: [-listen, ":80"]
    depends_on: [store]
    volumes: ["shared:/data", "/state"]
    environment: {DATA: /data, STATE: /state, BIJOU_ADVERTISE: app}
volumes: {shared: }
`)
	var names []string
	for _, p := range p.Processes {
		names = append(names, p.Name)
	}
	if diff := cmp.Diff([]string{"store-1", "store-2", "app-1", "app-2"}, names); diff != "" {
		t.Errorf("order (-want +got):\n%s", diff)
	}
	one, two := find(t, p, "app-1"), find(t, p, "app-2")
	if one.Main != "cinema/cmd/app" || one.Level != 1 {
		t.Errorf("Main = %q, Level = %d", one.Main, one.Level)
	}
	if one.Args[1] == two.Args[1] || one.Ports[80] != one.Args[1] || two.Ports[80] != two.Args[1] {
		t.Errorf("ports %v %v for arguments %v %v", one.Ports, two.Ports, one.Args, two.Args)
	}
	for _, want := range []string{
		"DATA=/v/shared", "STATE=/v/app-2/state", "BIJOU_INSTANCE=app-2",
		"BIJOU_ADVERTISE=127.0.0.1",
	} {
		if !slices.Contains(two.Env, want) {
			t.Errorf("environment %v lacks %s", two.Env, want)
		}
	}
}

func TestPublished(t *testing.T) {
	file := header + `
  edge:
    build: {args: {SERVICE: edge}}
    environment: {LISTEN: ":8080"}
    ports:
      - {name: shop, target: 8080, published: "${EDGE}", app_protocol: http}
      - "127.0.0.1:9411:9411"
`
	p := mustPlan(t, file, 9411)
	want := []compose.Published{
		{Service: "edge", Instance: "edge-1", Name: "shop", Protocol: "http", Target: 8080, Wanted: 8080, Got: 8080},
		{Service: "edge", Instance: "edge-1", Name: "edge:9411", Protocol: "tcp", Target: 9411, Wanted: 9411, Got: 20001},
	}
	if diff := cmp.Diff(want, p.Published); diff != "" {
		t.Errorf("published (-want +got):\n%s", diff)
	}
	if got := find(t, p, "edge-1"); !slices.Contains(got.Env, "LISTEN=127.0.0.1:8080") {
		t.Errorf("the published port is not where it listens: %v", got.Env)
	}
}

func TestPolicies(t *testing.T) {
	always, failure := compose.Restart{Always: true}, compose.Restart{OnFailure: true}
	for policy, want := range map[string]compose.Restart{
		"": {}, `restart: "no"`: {}, "restart: always": always, "restart: unless-stopped": always,
		"restart: on-failure": failure, "restart: on-failure:3": {OnFailure: true, Max: 3},
	} {
		p := mustPlan(t, "services:\n  a:\n    build: {args: {SERVICE: a}}\n    "+policy)
		if got := p.Processes[0]; got.Restart != want || got.Grace != 10*time.Second || got.Health != nil {
			t.Errorf("%q: %+v", policy, got)
		}
	}
	p := mustPlan(t, `
services:
  a:
    build: {args: {SERVICE: a}}
    stop_grace_period: 3s
    healthcheck: {test: [CMD, /service, healthcheck, -x], interval: 2s, timeout: 1s, retries: 4, start_period: 9s}
`)
	want := &compose.Health{
		Args: []string{
			"healthcheck",
			"-x",
		}, Interval: 2 * time.Second, Timeout: time.Second, Retries: 4, StartPeriod: 9 * time.Second,
	}
	if diff := cmp.Diff(want, p.Processes[0].Health); diff != "" || p.Processes[0].Grace != 3*time.Second {
		t.Errorf("grace %v, health (-want +got):\n%s", p.Processes[0].Grace, diff)
	}
}

func TestFolders(t *testing.T) {
	p := mustPlan(t, `
services:
  a:
    build: {args: {SERVICE: a}}
    volumes: ["./beside:/conf:ro", "/state"]
    tmpfs: ["/run/x:size=1m"]
    environment: {CONF: /conf/file}
`)
	got := p.Processes[0]
	fresh := map[string]bool{}
	for _, f := range got.Folders {
		fresh[filepath.Base(f.Path)] = f.Fresh
	}
	if diff := cmp.Diff(map[string]bool{"beside": false, "state": false, "run-x": true}, fresh); diff != "" {
		t.Errorf("folders (-want +got):\n%s", diff)
	}
	if !slices.ContainsFunc(got.Env, func(e string) bool { return strings.HasSuffix(e, "/beside/file") }) {
		t.Errorf("environment %v does not point into the folder", got.Env)
	}
}

func TestRefusals(t *testing.T) {
	build := "    build: {args: {SERVICE: a}}\n"
	for _, test := range []struct{ name, file, want string }{
		{"name", build + "  B.x:\n" + build, `service "B.x": its name ` + names.Service.Must},
		{"no main package", "    image: nginx\n", "service a: no build.args.SERVICE"},
		{"main outside", "    build: {args: {SERVICE: ../a}}\n", "must be the path of a main package"},
		{"entrypoint", build + "    entrypoint: [/bin/sh]\n", "a process always runs /service"},
		{"shell check", build + "    healthcheck: {test: curl localhost}\n", "healthcheck.test"},
		{"restart", build + "    restart: sometimes\n", "restart"},
		{
			"wrong port", build + "    environment: {X: 'store:7001'}\n",
			"service a: X refers to store:7001, but store listens only on [7000]",
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			_, err := plan(t, header+"  a:\n"+test.file, compose.Options{})
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("error = %v, want one with %q", err, test.want)
			}
		})
	}
}

func TestExtraVariablesWin(t *testing.T) {
	p, err := plan(t, header, compose.Options{Env: map[string]string{"LISTEN": "mine", "MORE": "x"}})
	if err != nil {
		t.Fatal(err)
	}
	want := []string{"BIJOU_ADVERTISE=127.0.0.1", "BIJOU_INSTANCE=store-1", "LISTEN=mine", "MORE=x"}
	if diff := cmp.Diff(want, p.Processes[0].Env); diff != "" {
		t.Errorf("environment (-want +got):\n%s", diff)
	}
}

func TestLoadSelection(t *testing.T) {
	file := filepath.Join(t.TempDir(), compose.FileName)
	content := header +
		"  app: {build: {args: {SERVICE: app}}, depends_on: [store]}\n  other: {build: {args: {SERVICE: other}}}\n"
	if err := os.WriteFile(file, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	project, err := compose.Load(t.Context(), file, nil, "app")
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"app", "store"}, project.ServiceNames()); diff != "" {
		t.Errorf("services (-want +got):\n%s", diff)
	}
	if _, err := compose.Load(t.Context(), file, nil, "ap"); err == nil ||
		!strings.Contains(err.Error(), "only [app other store]") {
		t.Errorf("error for an unknown service = %v", err)
	}
}

func TestFind(t *testing.T) {
	root := t.TempDir()
	deep := filepath.Join(root, "a", "b")
	if err := os.MkdirAll(deep, 0o700); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(root, compose.FileName)
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if got, err := compose.Find(deep); err != nil || got != file {
		t.Errorf("Find = %q, %v", got, err)
	}
	if _, err := compose.Find("/"); !os.IsNotExist(err) && !strings.Contains(err.Error(), fs.ErrNotExist.Error()) {
		t.Errorf("error at the top = %v", err)
	}
}

// FuzzRewrite: no value makes the plan fail or panic, and one without a colon or slash is not changed.
func FuzzRewrite(f *testing.F) {
	for _, seed := range []string{
		":80", "a=:80,b=:90", "store:7000", "http://store:7000/x", "[::]:1", "/data/x",
		"x=/data", "::::", "[:::80", "u:p@store:7000", "dns:///store:1", "http://store",
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, value string) {
		got, err := compose.Rewrite("store", value)
		if err != nil && !strings.Contains(value, "store:") {
			t.Errorf("%q: %v", value, err)
		}
		if !strings.ContainsAny(value, ":/") && got != value {
			t.Errorf("%q became %q", value, got)
		}
	})
}
