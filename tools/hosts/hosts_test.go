package main

import (
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/compose-spec/compose-go/v2/types"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	"sigs.k8s.io/kustomize/api/krusty"
	"sigs.k8s.io/kustomize/kyaml/filesys"
	"sigs.k8s.io/yaml"
)

const (
	composeFile = "../../compose.yaml"
	written     = "../../deploy"
)

func project(t *testing.T) *types.Project {
	t.Helper()
	p, err := load(t.Context(), composeFile)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestWrittenFilesAreThoseOfCompose(t *testing.T) {
	want, err := files(t.Context(), composeFile)
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range slices.Sorted(maps.Keys(want)) {
		if got, err := os.ReadFile(filepath.Join(written, name)); err != nil || string(got) != string(want[name]) {
			t.Errorf("%s does not match compose.yaml (%v): run `make generate`", name, err)
		}
	}
	for _, dir := range []string{"kubernetes", "swarm"} {
		err := fs.WalkDir(os.DirFS(written), dir, func(path string, d fs.DirEntry, err error) error {
			if err == nil && !d.IsDir() && want[path] == nil {
				t.Errorf("%s is not generated from compose.yaml: remove it", path)
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
}

// cluster has the objects that `kubectl apply -k` would send. A field that Kubernetes does not have is an error.
type cluster struct {
	deployments map[string]*appsv1.Deployment
	sets        map[string]*appsv1.StatefulSet
	services    map[string]*corev1.Service
	policies    map[string]*networkingv1.NetworkPolicy
	namespaces  int
}

func build(t *testing.T) cluster {
	t.Helper()
	all, err := krusty.MakeKustomizer(krusty.MakeDefaultOptions()).Run(filesys.MakeFsOnDisk(),
		filepath.Join(written, "kubernetes"))
	if err != nil {
		t.Fatalf("kustomize build: %v", err)
	}
	c := cluster{
		map[string]*appsv1.Deployment{},
		map[string]*appsv1.StatefulSet{},
		map[string]*corev1.Service{},
		map[string]*networkingv1.NetworkPolicy{},
		0,
	}
	for _, r := range all.Resources() {
		b, err := r.AsYAML()
		if err != nil {
			t.Fatal(err)
		}
		switch kind := r.GetKind(); kind {
		case "Deployment":
			c.deployments[r.GetName()] = strict[appsv1.Deployment](t, b)
		case "StatefulSet":
			c.sets[r.GetName()] = strict[appsv1.StatefulSet](t, b)
		case "Service":
			c.services[r.GetName()] = strict[corev1.Service](t, b)
		case "NetworkPolicy":
			c.policies[r.GetName()] = strict[networkingv1.NetworkPolicy](t, b)
		case "Namespace":
			strict[corev1.Namespace](t, b)
			c.namespaces++
		default:
			t.Errorf("a %s, which this test does not check", kind)
		}
		if r.GetKind() != "Namespace" && r.GetNamespace() != "bijou" {
			t.Errorf("%s %s is in namespace %q", r.GetKind(), r.GetName(), r.GetNamespace())
		}
	}
	return c
}

func strict[T any](t *testing.T, b []byte) *T {
	t.Helper()
	v := new(T)
	if err := yaml.UnmarshalStrict(b, v); err != nil {
		t.Fatalf("%v in\n%s", err, b)
	}
	return v
}

func TestKubernetesRunsWhatComposeRuns(t *testing.T) {
	p, c := project(t), build(t)
	if len(c.deployments)+len(c.sets) != len(p.Services) || c.namespaces != 1 {
		t.Errorf("%d deployments, %d sets and %d namespaces for %d services", len(c.deployments), len(c.sets),
			c.namespaces, len(p.Services))
	}
	for name, s := range p.Services {
		t.Run(name, func(t *testing.T) {
			var pod corev1.PodTemplateSpec
			var replicas int32
			var selector map[string]string
			var claims []string
			switch d, set := c.deployments[name], c.sets[name]; {
			case hasState(s) && set != nil:
				pod, replicas, selector = set.Spec.Template, *set.Spec.Replicas, set.Spec.Selector.MatchLabels
				for _, claim := range set.Spec.VolumeClaimTemplates {
					claims = append(claims, claim.Name)
				}
			case !hasState(s) && d != nil:
				pod, replicas, selector = d.Spec.Template, *d.Spec.Replicas, d.Spec.Selector.MatchLabels
			default:
				t.Fatalf("it has state: %v; a deployment: %v; a set: %v", hasState(s), d != nil, set != nil)
			}
			if int(replicas) != s.GetScale() {
				t.Errorf("%d replicas, want %d", replicas, s.GetScale())
			}
			for key, value := range selector {
				if pod.Labels[key] != value {
					t.Errorf("the selector wants %s=%s, the pod has %v", key, value, pod.Labels)
				}
			}
			checkPod(t, s, pod, claims)
		})
	}
}

func checkPod(t *testing.T, s types.ServiceConfig, pod corev1.PodTemplateSpec, claims []string) {
	t.Helper()
	one := pod.Spec.Containers[0]
	security, user := one.SecurityContext, pod.Spec.SecurityContext
	if !*security.ReadOnlyRootFilesystem || *security.AllowPrivilegeEscalation ||
		!slices.Equal(security.Capabilities.Drop, []corev1.Capability{"ALL"}) ||
		!*user.RunAsNonRoot || fmt.Sprintf("%d:%d", *user.RunAsUser, *user.RunAsGroup) != s.User ||
		user.SeccompProfile.Type != corev1.SeccompProfileTypeRuntimeDefault {
		t.Errorf("the container has more rights than in compose.yaml: %+v %+v", security, user)
	}
	if *pod.Spec.AutomountServiceAccountToken || *pod.Spec.EnableServiceLinks {
		t.Error("the pod has a service account token or service links, want neither")
	}
	if got := one.Resources.Limits.Memory().Value(); got != int64(s.MemLimit) {
		t.Errorf("its memory is limited to %d, want %d", got, s.MemLimit)
	}
	if image, _, _ := strings.Cut(one.Image, ":"); image != s.Image {
		t.Errorf("it runs %s, want %s", one.Image, s.Image)
	}
	got := map[string]string{}
	for _, e := range one.Env {
		got[e.Name] = e.Value
		if e.ValueFrom != nil && e.ValueFrom.FieldRef != nil {
			got[e.Name] = ownAlias(s)
		}
	}
	for key, value := range s.Environment {
		if got[key] != *value {
			t.Errorf("%s is %q, want %q", key, got[key], *value)
		}
	}
	if len(got) != len(s.Environment) {
		t.Errorf("it gets %v, want %v", got, s.Environment)
	}
	volumes := claims
	for _, v := range pod.Spec.Volumes {
		volumes = append(volumes, v.Name)
	}
	if len(one.VolumeMounts) != len(s.Volumes) {
		t.Errorf("it mounts %v, want %v", one.VolumeMounts, s.Volumes)
	}
	for _, m := range one.VolumeMounts {
		if !slices.Contains(volumes, m.Name) {
			t.Errorf("it mounts %s, but the pod has only the volumes %v", m.Name, volumes)
		}
	}
	if !slices.Equal(one.ReadinessProbe.Exec.Command, s.HealthCheck.Test[1:]) {
		t.Errorf("its probe is %v, want %v", one.ReadinessProbe.Exec, s.HealthCheck.Test)
	}
	for n := range s.Networks {
		if pod.Labels[networkLabel+n] != "true" {
			t.Errorf("it is not in network %s: %v", n, pod.Labels)
		}
	}
}

// Every host:port in an environment variable must be a port of a Service.
func TestKubernetesNamesResolve(t *testing.T) {
	p, c := project(t), build(t)
	seen := 0
	for name, s := range p.Services {
		for key, value := range s.Environment {
			for _, m := range address.FindAllStringSubmatch(*value, -1) {
				if _, ok := p.Services[m[1]]; !ok {
					continue
				}
				seen++
				service := c.services[m[1]]
				if service == nil || !slices.ContainsFunc(service.Spec.Ports,
					func(p corev1.ServicePort) bool { return fmt.Sprint(p.Port) == m[2] }) {
					t.Errorf("%s: %s=%s: no Service has %s", name, key, *value, m[0])
				}
			}
		}
	}
	if seen < len(p.Services) {
		t.Errorf("%d addresses were checked, want at least one per service", seen)
	}
	for name, s := range c.services {
		if s.Spec.Selector[nameLabel] != name {
			t.Errorf("service %s selects %v", name, s.Spec.Selector)
		}
	}
}

func TestKubernetesIsolatesEtcd(t *testing.T) {
	c := build(t)
	if got := c.policies["default-deny"]; got == nil || len(got.Spec.PodSelector.MatchLabels) != 0 ||
		len(got.Spec.Ingress) != 0 || len(got.Spec.PolicyTypes) != 2 {
		t.Errorf("the policy that denies all other traffic is %+v", got)
	}
	if got := c.policies["control"]; got == nil || len(got.Spec.Ingress) != 1 || len(got.Spec.Ingress[0].From) != 1 ||
		got.Spec.Ingress[0].From[0].PodSelector.MatchLabels[networkLabel+"control"] != "true" ||
		got.Spec.Ingress[0].From[0].NamespaceSelector != nil {
		t.Errorf("etcd can be reached from outside the network control: %+v", got)
	}
	var in []string
	for name, set := range c.sets {
		if set.Spec.Template.Labels[networkLabel+"control"] != "" {
			in = append(in, name)
		}
	}
	for name, d := range c.deployments {
		if d.Spec.Template.Labels[networkLabel+"control"] != "" {
			in = append(in, name)
		}
	}
	slices.Sort(in)
	if !slices.Equal(in, []string{"config", "discovery", "etcd"}) {
		t.Errorf("the members of the network control are %v, want config, discovery and etcd", in)
	}
}

// The stack file is read with the library of Compose: its format is an older version of that of compose.yaml.
func TestSwarmRunsWhatComposeRuns(t *testing.T) {
	p := project(t)
	stack, err := load(t.Context(), filepath.Join(written, "swarm/stack.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	if len(stack.Services) != len(p.Services) {
		t.Errorf("%d services, want %d", len(stack.Services), len(p.Services))
	}
	if pool := stack.Networks["data"].Ipam.Config; len(pool) != 1 || pool[0].Subnet != subnet {
		t.Errorf("network data has the addresses %v, and its instances expect %s", pool, subnet)
	}
	for name, want := range p.Services {
		got := stack.Services[name]
		if got.Image != want.Image || got.GetScale() != want.GetScale() || got.User != want.User || !got.ReadOnly ||
			!slices.Equal(got.CapDrop, want.CapDrop) ||
			int64(got.Deploy.Resources.Limits.MemoryBytes) != int64(want.MemLimit) ||
			got.Deploy.Resources.Limits.Pids != want.PidsLimit {
			t.Errorf("%s is %+v", name, got)
		}
		if !maps.EqualFunc(got.Environment, want.Environment, func(a, b *string) bool {
			return *a == *b || *a == subnet &&
				*b == ownAlias(want)
		}) {
			t.Errorf("%s gets %v, want %v", name, got.Environment, want.Environment)
		}
		if len(got.Volumes) != len(want.Volumes) || len(got.Ports) != len(want.Ports) ||
			len(got.Networks) != len(want.Networks) {
			t.Errorf("%s: %d volumes, %d ports, %d networks", name, len(got.Volumes), len(got.Ports), len(got.Networks))
		}
		if hasState(want) && got.Deploy.UpdateConfig.Order != "stop-first" {
			t.Errorf("%s: two instances would share a volume while one replaces the other", name)
		}
	}
}

// Keys and values that cannot be translated must be refused.
func TestUnknownIsRefused(t *testing.T) {
	for _, c := range []struct{ add, want string }{
		{"sysctls: {net.core.somaxconn: 1024}", "sysctls"},
		{"environment: {FROM_SHELL: }", "FROM_SHELL"},
		{"user: root", "root"},
		{"volumes: [\"/etc:/data\"]", "bind"},
		{"ports: [\"8000-8001:80\"]", "8000"},
	} {
		file := filepath.Join(t.TempDir(), "compose.yaml")
		text := "name: x\nservices:\n  one:\n    image: x\n" +
			map[bool]string{false: "    user: \"1:1\"\n"}[strings.HasPrefix(c.add, "user")] + "    " + c.add + "\n"
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := files(t.Context(), file); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: got %v, want an error that names %q", c.add, err, c.want)
		}
	}
}
