package compose

import (
	"fmt"
	"maps"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/compose-spec/compose-go/v2/types"
)

// endpoint finds addresses in a value: what precedes them, an optional scheme, user and password, the host, the port,
// and the path after it. What may precede and follow keeps "10:30:00" and "sha256:1234" out: only a known host makes an
// address.
var endpoint = regexp.MustCompile(`(^|[\s,;="'|(\[{])([A-Za-z][A-Za-z0-9+.-]*:///?)?((?:[^\s@/,;="'|(\[{]*@)?)` +
	`([A-Za-z0-9_.-]*|\[::1?\]|\*):([0-9]{1,5})\b(/[^\s,;"']*)?`)

// urlWithoutPort finds URLs whose port follows from the scheme: http://web/home, redis://:secret@cache.
var urlWithoutPort = regexp.MustCompile(`\b([A-Za-z][A-Za-z0-9+.-]*)(:///?(?:[^\s@/,;="'|(\[{]*@)?)` +
	`([A-Za-z0-9_.-]+)([^A-Za-z0-9_.:@-]|$)`)

// hostLike finds hosts where only a host can be, for warnings about addresses that the two expressions above do not
// match.
var hostLike = regexp.MustCompile(`(?:([A-Za-z][A-Za-z0-9+.-]*):///?|@)([A-Za-z0-9_.-]+)`)

// defaultPorts are the ports that a URL without one means.
var defaultPorts = map[string]string{
	"http": "80", "https": "443", "ws": "80", "wss": "443", "dns": "443", "amqp": "5672", "amqps": "5671",
	"etcd": "2379", "memcached": "11211", "mongodb": "27017", "mysql": "3306", "nats": "4222", "postgres": "5432",
	"postgresql": "5432",
	"redis":      "6379", "rediss": "6379",
}

// oneServer are the schemes of URLs that name one server. A comma-separated list of them has no meaning.
var oneServer = []string{"amqp", "amqps", "mongodb", "mysql", "postgres", "postgresql", "redis", "rediss"}

// ownScheme is the scheme of names that the registry of the platform resolves.
const ownScheme = "bijou"

// ownHosts are the hosts that mean the instance itself, or all its addresses.
var ownHosts = []string{"", "*", "0.0.0.0", "[::]", "127.0.0.1", "[::1]", "localhost"}

// rewriter translates the settings of one instance.
type rewriter struct {
	planner           *planner
	service, instance string
	folders           map[string]Folder // path in the container -> folder here
}

func (w rewriter) args(command []string) ([]string, error) {
	args := make([]string, 0, len(command))
	for _, arg := range command {
		value, err := w.value("command", arg)
		if err != nil {
			return nil, err
		}
		args = append(args, value)
	}
	return args, nil
}

func (w rewriter) env(env types.MappingWithEquals) ([]string, error) {
	all := make(map[string]string, len(env)+2)
	for _, name := range slices.Sorted(maps.Keys(env)) { // in order: the same file gives the same plan
		value := env[name]
		if value == nil { // "- NAME" without a value, and not set where we run
			continue
		}
		rewritten, err := w.value(name, *value)
		if err != nil {
			return nil, err
		}
		all[name] = rewritten
	}
	// In a container these two refer to its network; a process gets other values.
	all["BIJOU_INSTANCE"], all["BIJOU_ADVERTISE"] = w.instance, "127.0.0.1"
	maps.Copy(all, w.planner.opts.Env)
	pairs := make([]string, 0, len(all))
	for name, value := range all {
		pairs = append(pairs, name+"="+value)
	}
	slices.Sort(pairs)
	return pairs, nil
}

// value translates addresses and folders in one value.
func (w rewriter) value(setting, value string) (string, error) {
	value = w.withPorts(value)
	var out strings.Builder
	rest := 0
	for _, m := range endpoint.FindAllStringSubmatchIndex(value, -1) {
		part := func(i int) string {
			if m[2*i] < 0 {
				return ""
			}
			return value[m[2*i]:m[2*i+1]]
		}
		if unquoted(part(1), part(4), value[m[1]:]) {
			continue
		}
		addrs, err := w.addrs(setting, part(4), part(5))
		if err != nil {
			return "", err
		}
		if addrs == nil {
			continue
		}
		out.WriteString(value[rest:m[0]] + part(1) + w.join(setting, addrs, part(2), part(3), part(6)))
		rest = m[1]
	}
	out.WriteString(value[rest:])
	w.warnOfHosts(setting, out.String())
	return w.paths(out.String()), nil
}

// withPorts writes the port of the scheme into URLs of our services that have none.
func (w rewriter) withPorts(value string) string {
	var out strings.Builder
	rest := 0
	for _, m := range urlWithoutPort.FindAllStringSubmatchIndex(value, -1) {
		scheme, host := value[m[2]:m[3]], value[m[6]:m[7]]
		if port := defaultPorts[scheme]; port != "" && w.planner.servicesOf(w.service, host) != nil {
			out.WriteString(value[rest:m[7]] + ":" + port)
			rest = m[7]
		}
	}
	return out.String() + value[rest:]
}

// join writes the addresses of a service in the form of the one that they replace: a list of addresses or URLs, gRPC's
// own list, or the first one where a list has no meaning.
func (w rewriter) join(setting string, addrs []string, scheme, user, path string) string {
	name, _, _ := strings.Cut(scheme, ":")
	switch {
	case strings.HasSuffix(scheme, ":///") && len(addrs) > 1:
		return "ipv4:" + strings.Join(addrs, ",") + path
	case slices.Contains(oneServer, name) && len(addrs) > 1:
		w.planner.warn("service %s: %s names one server, but there are %d replicas: it gets the first", w.service,
			setting, len(addrs))
		addrs = addrs[:1]
	}
	for i := range addrs {
		addrs[i] = scheme + user + addrs[i] + path
	}
	return strings.Join(addrs, ",")
}

// warnOfHosts warns of names of services that are left in a value: for processes nothing resolves them.
func (w rewriter) warnOfHosts(setting, value string) {
	for _, m := range hostLike.FindAllStringSubmatch(value, -1) {
		if scheme, host := m[1], m[2]; scheme != ownScheme && w.planner.servicesOf(w.service, host) != nil {
			w.planner.warn("service %s: %s names %s in a form that is not rewritten for processes, in %q; write "+
				"host:port", w.service, setting, host, m[0])
		}
	}
}

// unquoted distinguishes the number of a JSON field, {"weight":80}, from an address in quotes, {"listen":":80"}.
func unquoted(before, host, after string) bool {
	return host == "" && (before == `"` || before == "'") && !strings.HasPrefix(after, before)
}

// addrs returns the addresses that replace host:port: one for the instance itself, one per replica for a service, none
// for a host outside the compose file.
func (w rewriter) addrs(setting, host, digits string) ([]string, error) {
	pl := w.planner
	port, _ := strconv.Atoi(digits)
	if port == 0 || port > 65535 {
		return nil, nil
	}
	if slices.Contains(ownHosts, host) {
		pl.listen(w.service, port)
		addr, err := pl.addr(w.service, w.instance, port, 0)
		return []string{addr}, err
	}
	services := pl.servicesOf(w.service, host)
	var addrs []string
	for _, name := range services {
		pl.refs = append(pl.refs, reference{from: w.service, setting: setting, to: name, port: port})
		service := pl.project.Services[name]
		for n := range service.GetScale() {
			addr, err := pl.addr(name, instanceName(name, n+1), port, 0)
			if err != nil {
				return nil, err
			}
			addrs = append(addrs, addr)
		}
	}
	if len(addrs) == 0 && services != nil {
		return nil, fmt.Errorf("%s refers to %s, which has no replicas", setting, host)
	}
	return addrs, nil
}

// paths translates words that are, or are below, the path of a volume: "/data", "-dir=/data/db".
func (w rewriter) paths(value string) string {
	flag, file := "", value
	if before, after, ok := strings.Cut(value, "="); ok && strings.HasPrefix(after, "/") {
		flag, file = before+"=", after
	}
	if !path.IsAbs(file) {
		return value
	}
	// The deepest volume that holds the path wins.
	best := ""
	for target := range w.folders {
		if (file == target || strings.HasPrefix(file, target+"/")) && len(target) > len(best) {
			best = target
		}
	}
	if best == "" {
		return value
	}
	return flag + filepath.Join(w.folders[best].Path, filepath.FromSlash(strings.TrimPrefix(file, best)))
}
