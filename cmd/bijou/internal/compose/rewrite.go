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

// endpoint finds addresses in a value: what precedes them, an optional scheme, the host, the port, and the path after
// it. What may precede and follow keeps "10:30:00" and "sha256:1234" out: only a known host makes an address.
var endpoint = regexp.MustCompile(`(^|[\s,;="'|(\[{])([A-Za-z][A-Za-z0-9+.-]*://)?([A-Za-z0-9_.-]*|\[::1?\]|\*):([0-9]{1,5})\b(/[^\s,;"']*)?`)

// ownHosts are the ways to say "all of my addresses" or "myself".
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
	// What these say in a container, if anything, is about its networks.
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
	var out strings.Builder
	rest := 0
	for _, m := range endpoint.FindAllStringSubmatchIndex(value, -1) {
		part := func(i int) string {
			if m[2*i] < 0 {
				return ""
			}
			return value[m[2*i]:m[2*i+1]]
		}
		if unquoted(part(1), part(3), value[m[1]:]) {
			continue
		}
		addrs, err := w.addrs(setting, part(3), part(4))
		if err != nil {
			return "", err
		}
		if addrs == nil {
			continue
		}
		for i := range addrs {
			addrs[i] = part(2) + addrs[i] + part(5)
		}
		out.WriteString(value[rest:m[0]] + part(1) + strings.Join(addrs, ","))
		rest = m[1]
	}
	out.WriteString(value[rest:])
	return w.paths(out.String()), nil
}

// unquoted tells the number of a JSON field, {"weight":80}, from an address in quotes, {"listen":":80"}.
func unquoted(before, host, after string) bool {
	return host == "" && (before == `"` || before == "'") && !strings.HasPrefix(after, before)
}

// addrs are the addresses that stand for host:port: one for the instance itself, one per replica for a service, none
// for a host that is not ours.
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
	service, ok := pl.project.Services[host]
	if !ok {
		return nil, nil
	}
	pl.refs = append(pl.refs, reference{from: w.service, setting: setting, to: host, port: port})
	var addrs []string
	for n := range service.GetScale() {
		addr, err := pl.addr(host, instanceName(host, n+1), port, 0)
		if err != nil {
			return nil, err
		}
		addrs = append(addrs, addr)
	}
	if len(addrs) == 0 {
		return nil, fmt.Errorf("%s refers to %s, which has no replicas", setting, host)
	}
	return addrs, nil
}

// paths translates words that are, or are below, the path of a volume: "/data", "-dir=/data/db".
func (w rewriter) paths(value string) string {
	flag, word := "", value
	if before, after, ok := strings.Cut(value, "="); ok && strings.HasPrefix(after, "/") {
		flag, word = before+"=", after
	}
	if !path.IsAbs(word) {
		return value
	}
	// The deepest volume that holds the path wins.
	best := ""
	for target := range w.folders {
		if (word == target || strings.HasPrefix(word, target+"/")) && len(target) > len(best) {
			best = target
		}
	}
	if best == "" {
		return value
	}
	return flag + filepath.Join(w.folders[best].Path, filepath.FromSlash(strings.TrimPrefix(word, best)))
}
