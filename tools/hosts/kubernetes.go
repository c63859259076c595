package main

import (
	"encoding/json"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/compose-spec/compose-go/v2/types"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	kustomize "sigs.k8s.io/kustomize/api/types"
)

const (
	nameLabel    = "app.kubernetes.io/name"
	networkLabel = "network.bijou.dev/" // + the name of the network in compose.yaml: "true" on its members
)

// diskOf and scratchOf are the sizes of volumes. compose.yaml has no sizes.
var (
	diskOf    = resource.MustParse("1Gi")
	scratchOf = resource.MustParse("64Mi")
)

// kubernetes returns one file per service, one with the networks, and the list of them all.
func kubernetes(p *types.Project) (map[string][]byte, error) {
	files := map[string][]byte{}
	add := func(name, comment string, objects ...any) (err error) {
		files["kubernetes/"+name+".yaml"], err = document(comment, objects...)
		return err
	}
	list := kustomize.Kustomization{
		TypeMeta:  kustomize.TypeMeta{APIVersion: kustomize.KustomizationVersion, Kind: kustomize.KustomizationKind},
		Namespace: p.Name,
		Labels: []kustomize.Label{{
			Pairs: map[string]string{"app.kubernetes.io/part-of": p.Name}, IncludeTemplates: true,
		}},
	}
	addressed := addressedPorts(p)
	images := map[string]bool{}
	for _, name := range p.ServiceNames() {
		s := p.Services[name]
		objects, err := workload(s)
		if err != nil {
			return nil, fmt.Errorf("service %s: %w", name, err)
		}
		if ports := addressed[name]; len(ports) > 0 {
			objects = append(objects, serviceOf(s, ports))
		}
		if err := add(name, "", objects...); err != nil {
			return nil, err
		}
		images[s.Image] = true
		list.Resources = append(list.Resources, name+".yaml")
	}
	policies, err := policiesOf(p)
	if err != nil {
		return nil, err
	}
	if err := add("networks", "# The networks of compose.yaml. The policy default-deny denies all "+
		"traffic except DNS. Each other policy allows\n"+
		"# the traffic of one network. A network plug-in that enforces policies is needed.\n", policies...); err != nil {
		return nil, err
	}
	space := object{
		"apiVersion": "v1", "kind": "Namespace",
		"metadata": object{"name": p.Name, "labels": object{"pod-security.kubernetes.io/enforce": "restricted"}},
	}
	if err := add("namespace", "", space); err != nil {
		return nil, err
	}
	list.Resources = append(list.Resources, "namespace.yaml", "networks.yaml")
	for _, image := range slices.Sorted(maps.Keys(images)) {
		list.Images = append(list.Images, kustomize.Image{Name: image, NewTag: "latest"})
	}
	return files, add("kustomization", "# kubectl apply -k deploy/kubernetes\n"+
		"# An overlay of your own names your registry and your release under images.\n", list)
}

type object = map[string]any

// address finds host:port in a value.
var address = regexp.MustCompile(`([a-z][a-z0-9-]*):(\d+)`)

// addressedPorts returns which ports of which service are called by name, by services or by users. All others are found
// through the registry, by the address of the pod, and need no Service.
func addressedPorts(p *types.Project) map[string]map[int32]string {
	ports := map[string]map[int32]string{}
	note := func(service string, port int32, name string) {
		if ports[service] == nil {
			ports[service] = map[int32]string{}
		}
		if ports[service][port] == "" {
			ports[service][port] = strings.ReplaceAll(name, " ", "-")
		}
	}
	for name, s := range p.Services {
		for _, port := range s.Ports {
			note(name, int32(port.Target), port.Name)
		}
	}
	for _, s := range p.Services {
		for _, value := range s.Environment {
			if value == nil {
				continue
			}
			for _, m := range address.FindAllStringSubmatch(*value, -1) {
				if port, err := strconv.ParseInt(m[2], 10, 32); err == nil && p.Services[m[1]].Name != "" {
					note(m[1], int32(port), "port-"+m[2])
				}
			}
		}
	}
	return ports
}

// workload is a StatefulSet for a service with a volume of its own, else a Deployment.
func workload(s types.ServiceConfig) ([]any, error) {
	pod, claims, err := podOf(s)
	if err != nil {
		return nil, err
	}
	labels := map[string]string{nameLabel: s.Name}
	meta := metav1.ObjectMeta{Name: s.Name, Labels: labels}
	replicas := int32(s.GetScale())
	selector := &metav1.LabelSelector{MatchLabels: labels}
	pod.Labels = map[string]string{nameLabel: s.Name}
	for n := range s.Networks {
		pod.Labels[networkLabel+n] = "true"
	}
	if len(claims) > 0 {
		return []any{clean(&appsv1.StatefulSet{
			TypeMeta: metav1.TypeMeta{APIVersion: "apps/v1", Kind: "StatefulSet"}, ObjectMeta: meta,
			Spec: appsv1.StatefulSetSpec{
				Replicas: &replicas, Selector: selector, ServiceName: s.Name, Template: pod,
				VolumeClaimTemplates: claims,
			},
		})}, nil
	}
	none, one := intstr.FromInt32(0), intstr.FromInt32(1)
	return []any{clean(&appsv1.Deployment{
		TypeMeta: metav1.TypeMeta{APIVersion: "apps/v1", Kind: "Deployment"}, ObjectMeta: meta,
		Spec: appsv1.DeploymentSpec{
			Replicas: &replicas, Selector: selector, Template: pod,
			Strategy: appsv1.DeploymentStrategy{
				Type: appsv1.RollingUpdateDeploymentStrategyType,
				// The new instance starts before the old one stops.
				RollingUpdate: &appsv1.RollingUpdateDeployment{MaxUnavailable: &none, MaxSurge: &one},
			},
		},
	})}, nil
}

func podOf(s types.ServiceConfig) (pod corev1.PodTemplateSpec, claims []corev1.PersistentVolumeClaim, err error) {
	user, group, err := userOf(s.User)
	if err != nil {
		return pod, nil, err
	}
	limit := *resource.NewQuantity(int64(s.MemLimit), resource.BinarySI)
	share := *resource.NewQuantity(int64(s.MemLimit)/4, resource.BinarySI) // what an instance needs when it is idle
	c := corev1.Container{
		Name: "service", Image: s.Image, ImagePullPolicy: corev1.PullIfNotPresent,
		Resources: corev1.ResourceRequirements{
			Limits:   corev1.ResourceList{corev1.ResourceMemory: limit},
			Requests: corev1.ResourceList{corev1.ResourceMemory: share, corev1.ResourceCPU: resource.MustParse("10m")},
		},
		SecurityContext: &corev1.SecurityContext{
			ReadOnlyRootFilesystem: &s.ReadOnly, AllowPrivilegeEscalation: new(!slices.Contains(s.SecurityOpt,
				"no-new-privileges:true")),
			Capabilities: &corev1.Capabilities{},
		},
	}
	for _, capability := range s.CapDrop {
		c.SecurityContext.Capabilities.Drop = append(c.SecurityContext.Capabilities.Drop, corev1.Capability(capability))
	}
	if h := s.HealthCheck; h != nil && len(h.Test) > 1 && h.Test[0] == "CMD" {
		// Only readiness: a process that must be replaced exits by itself.
		check := corev1.ProbeHandler{Exec: &corev1.ExecAction{Command: h.Test[1:]}}
		c.ReadinessProbe = &corev1.Probe{ProbeHandler: check}
		if h.Interval != nil {
			c.ReadinessProbe.PeriodSeconds = int32(asSeconds(*h.Interval))
		}
		if h.Timeout != nil {
			c.ReadinessProbe.TimeoutSeconds = int32(asSeconds(*h.Timeout))
		}
	}
	own := ownAlias(s)
	for _, key := range slices.Sorted(maps.Keys(s.Environment)) {
		switch value := s.Environment[key]; {
		case value == nil:
			return pod, nil, fmt.Errorf("environment: %s has no value in compose.yaml; a cluster needs one", key)
		case own != "" && *value == own:
			c.Env = append(c.Env,
				corev1.EnvVar{
					Name:      key,
					ValueFrom: &corev1.EnvVarSource{FieldRef: &corev1.ObjectFieldSelector{FieldPath: "status.podIP"}},
				})
		default:
			c.Env = append(c.Env, corev1.EnvVar{Name: key, Value: strings.ReplaceAll(*value, "$(", "$$(")})
		}
	}
	pod.Spec = corev1.PodSpec{
		// Variables like ETCD_PORT, which Kubernetes sets for every Service, would be read as settings.
		EnableServiceLinks: new(false), AutomountServiceAccountToken: new(false),
		SecurityContext: &corev1.PodSecurityContext{
			RunAsNonRoot: new(user != 0), RunAsUser: &user, RunAsGroup: &group, FSGroup: &group,
			SeccompProfile: &corev1.SeccompProfile{Type: corev1.SeccompProfileTypeRuntimeDefault},
		},
	}
	if s.StopGracePeriod != nil {
		pod.Spec.TerminationGracePeriodSeconds = new(asSeconds(*s.StopGracePeriod))
	}
	for _, v := range s.Volumes {
		name, ok := named(v)
		if v.Type != types.VolumeTypeVolume {
			return pod, nil, fmt.Errorf("volumes: %s is a %s; only volumes can be translated", v.Target, v.Type)
		}
		if !ok {
			name = strings.ReplaceAll(strings.Trim(v.Target, "/"), "/", "-")
			pod.Spec.Volumes = append(pod.Spec.Volumes, corev1.Volume{
				Name:         name,
				VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{SizeLimit: &scratchOf}},
			})
		} else {
			size := corev1.ResourceList{corev1.ResourceStorage: diskOf}
			claims = append(claims, corev1.PersistentVolumeClaim{
				ObjectMeta: metav1.ObjectMeta{Name: name},
				Spec: corev1.PersistentVolumeClaimSpec{
					AccessModes: []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce},
					Resources:   corev1.VolumeResourceRequirements{Requests: size},
				},
			})
		}
		c.VolumeMounts = append(c.VolumeMounts, corev1.VolumeMount{Name: name, MountPath: v.Target})
	}
	pod.Spec.Containers = []corev1.Container{c}
	return pod, claims, nil
}

// serviceOf returns the Service of a compose service. As in compose.yaml its name resolves to the addresses of the
// instances, also of those that are not ready: callers try other addresses, and replicas must find each other before
// they are ready. A service with published ports gets one virtual address, for a load balancer of your choice.
func serviceOf(s types.ServiceConfig, ports map[int32]string) any {
	spec := corev1.ServiceSpec{
		Selector: map[string]string{nameLabel: s.Name}, ClusterIP: corev1.ClusterIPNone,
		PublishNotReadyAddresses: true,
	}
	if len(s.Ports) > 0 {
		spec.ClusterIP, spec.PublishNotReadyAddresses = "", false
	}
	for _, number := range slices.Sorted(maps.Keys(ports)) {
		spec.Ports = append(spec.Ports, corev1.ServicePort{
			Name: ports[number], Port: number,
			TargetPort: intstr.FromInt32(number),
		})
	}
	return clean(&corev1.Service{
		TypeMeta:   metav1.TypeMeta{APIVersion: "v1", Kind: "Service"},
		ObjectMeta: metav1.ObjectMeta{Name: s.Name}, Spec: spec,
	})
}

// policiesOf returns network policies that separate the networks of compose.yaml in a cluster, which has only one.
func policiesOf(p *types.Project) ([]any, error) {
	policy := func(name string, spec networkingv1.NetworkPolicySpec) any {
		return clean(&networkingv1.NetworkPolicy{
			TypeMeta: metav1.TypeMeta{
				APIVersion: "networking.k8s.io/v1",
				Kind:       "NetworkPolicy",
			}, ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: spec,
		})
	}
	both := []networkingv1.PolicyType{networkingv1.PolicyTypeIngress, networkingv1.PolicyTypeEgress}
	udp, tcp, dns := corev1.ProtocolUDP, corev1.ProtocolTCP, intstr.FromInt32(53)
	all := []any{policy("default-deny", networkingv1.NetworkPolicySpec{
		PolicyTypes: both,
		Egress: []networkingv1.NetworkPolicyEgressRule{{Ports: []networkingv1.NetworkPolicyPort{
			{Protocol: &udp, Port: &dns}, {Protocol: &tcp, Port: &dns},
		}}},
	})}
	for _, name := range slices.Sorted(maps.Keys(p.Networks)) {
		members := metav1.LabelSelector{MatchLabels: map[string]string{networkLabel + name: "true"}}
		peers := []networkingv1.NetworkPolicyPeer{{PodSelector: &members}}
		if p.Networks[name].Internal {
			all = append(all, policy(name, networkingv1.NetworkPolicySpec{
				PodSelector: members, PolicyTypes: both,
				Ingress: []networkingv1.NetworkPolicyIngressRule{{From: peers}},
				Egress:  []networkingv1.NetworkPolicyEgressRule{{To: peers}},
			}))
			continue
		}
		// A network with a route to the outside: all can reach the published ports of its members, and no others.
		for _, service := range p.ServiceNames() {
			s := p.Services[service]
			if _, in := s.Networks[name]; !in {
				continue
			}
			var ports []networkingv1.NetworkPolicyPort
			for _, port := range s.Ports {
				ports = append(ports, networkingv1.NetworkPolicyPort{
					Protocol: &tcp,
					Port:     new(intstr.FromInt32(int32(port.Target))),
				})
			}
			if len(ports) == 0 {
				return nil, fmt.Errorf("service %s is in network %s, which is not internal, but publishes no port",
					service, name)
			}
			pods := metav1.LabelSelector{MatchLabels: map[string]string{nameLabel: service}}
			all = append(all, policy(name+"-"+service, networkingv1.NetworkPolicySpec{
				PodSelector: pods, PolicyTypes: both,
				Ingress: []networkingv1.NetworkPolicyIngressRule{{Ports: ports}},
			}))
		}
	}
	return all, nil
}

// userOf reads "65532:65532". A name would need a file that images do not have.
func userOf(s string) (user, group int64, err error) {
	u, g, _ := strings.Cut(s, ":")
	if user, err = strconv.ParseInt(u, 10, 64); err == nil {
		group, err = strconv.ParseInt(g, 10, 64)
	}
	if err != nil {
		return 0, 0, fmt.Errorf("user: %q is not two numbers with a colon between: %w", s, err)
	}
	return user, group, nil
}

func asSeconds(d types.Duration) int64 { return int64(time.Duration(d) / time.Second) }

// clean removes the fields that the cluster fills in.
func clean(o any) any {
	b, err := json.Marshal(o)
	if err != nil {
		panic(err) // types of Kubernetes can be marshaled
	}
	var m object
	if err := json.Unmarshal(b, &m); err != nil {
		panic(err)
	}
	prune(m)
	return m
}

// prune removes fields that are empty because they were not set. An empty podSelector stays: it selects all pods.
func prune(m object) {
	delete(m, "status")
	for key, value := range m {
		switch value := value.(type) {
		case object:
			prune(value)
			if len(value) == 0 && key != "podSelector" {
				delete(m, key)
			}
		case []any:
			for _, one := range value {
				if one, ok := one.(object); ok {
					prune(one)
				}
			}
		}
	}
}
