package cli

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"

	configv1 "bijou.dev/platform/api/config/v1"
	"bijou.dev/platform/errs"
)

type routeCmd struct {
	Add    routeAddCmd    `cmd:"" help:"Lead requests to a program, a service, a folder or another URL."`
	Remove routeRemoveCmd `cmd:"" help:"Remove a route."`
	Key    routeKeyCmd    `cmd:"" help:"Make an API key for routes with auth."`
}

// Help is what `bijou route --help` prints before the flags.
func (routeCmd) Help() string {
	return `The routes are the setting gateway.routes, which has more than these commands can say: see docs/api/gateway.md.
"bijou routes" lists them; "bijou config rollback" takes a change back.`
}

type routeAddCmd struct {
	Name     string   `arg:"" optional:"" help:"What to call it (default: \"app\")."`
	To       []string `sep:"none" placeholder:"TARGET" required:"" xor:"kind" help:"A URL (http://127.0.0.1:3000) or a service of the registry. Several share the requests equally."`
	Redirect string   `placeholder:"URL" required:"" xor:"kind" help:"Send clients to this URL; {path} and {query} are those of the request."`
	Files    string   `placeholder:"DIR" required:"" xor:"kind" help:"Serve the files of this folder of the gateway."`

	Host        string `help:"Only requests for this host (default, without --prefix and --path: NAME.localhost)."`
	Prefix      string `xor:"path" help:"Only requests for this path and those below it."`
	Path        string `xor:"path" help:"Only requests for this path."`
	StripPrefix bool   `help:"Take the prefix off the path."`
	Replace     bool   `help:"Replace the route of this name."`
	publishFlags
}

// Help is what `bijou route add --help` prints before the flags.
func (routeAddCmd) Help() string {
	return `For example, for a program that listens on port 3000 of this machine:

    bijou route add --to http://127.0.0.1:3000
    curl http://app.localhost:8080/

    bijou route add shop --to http://127.0.0.1:3000 --prefix /shop --strip-prefix
    bijou route add old --host old.example.org --redirect 'https://example.org{path}{query}'`
}

// route is what this command writes of a route: see services/gateway/routes.
type route struct {
	Name  string `json:"name"`
	Match struct {
		Host   string `json:"host,omitempty"`
		Path   string `json:"path,omitempty"`
		Prefix string `json:"prefix,omitempty"`
	} `json:"match,omitzero"`
	To       []routeTarget  `json:"to,omitempty"`
	Redirect *routeRedirect `json:"redirect,omitempty"`
	Files    *routeFiles    `json:"files,omitempty"`
	Rewrite  *routeRewrite  `json:"rewrite,omitempty"`
}

type routeTarget struct {
	URL     string `json:"url,omitempty"`
	Service string `json:"service,omitempty"`
	Weight  int    `json:"weight,omitempty"`
}

type routeRedirect struct {
	To string `json:"to"`
}

type routeFiles struct {
	Dir string `json:"dir"`
}

type routeRewrite struct {
	Prefix string `json:"prefix"`
}

// route makes the route of the flags.
func (c *routeAddCmd) route() *route {
	r := &route{Name: cmp.Or(c.Name, "app")}
	r.Match.Host, r.Match.Path, r.Match.Prefix = c.Host, c.Path, c.Prefix
	if c.Host+c.Path+c.Prefix == "" {
		r.Match.Host = strings.ReplaceAll(strings.ToLower(r.Name), "_", "-") + ".localhost"
	}
	for _, to := range c.To {
		t := routeTarget{Service: to}
		if strings.Contains(to, "://") {
			t = routeTarget{URL: to}
		}
		if len(c.To) > 1 {
			t.Weight = 1
		}
		r.To = append(r.To, t)
	}
	if c.Redirect != "" {
		r.Redirect = &routeRedirect{c.Redirect}
	}
	if c.Files != "" {
		r.Files = &routeFiles{c.Files}
	}
	if c.StripPrefix {
		r.Rewrite = &routeRewrite{"/"}
	}
	return r
}

// Validate refuses flags of `bijou route add` that do not go together.
func (c *routeAddCmd) Validate() error {
	if c.StripPrefix && c.Prefix == "" {
		return fmt.Errorf("--strip-prefix needs --prefix")
	}
	return nil
}

// Run is `bijou route add`.
func (c *routeAddCmd) Run(ctx context.Context, e *env) error {
	r := c.route()
	text, err := json.Marshal(r)
	if err != nil {
		return fmt.Errorf("writing the route: %w", err)
	}
	c.Reason = cmp.Or(c.Reason, "bijou route add "+r.Name)
	err = c.change(ctx, e, func(list []namedRoute) ([]namedRoute, error) {
		at := slices.IndexFunc(list, func(n namedRoute) bool { return n.name == r.Name })
		switch {
		case at < 0:
			return append(list, namedRoute{r.Name, text}), nil
		case c.Replace:
			list[at].text = text
			return list, nil
		}
		return nil, errs.Errorf(errs.Exists, "the route %q exists already; --replace replaces it", r.Name)
	})
	if err == nil && !c.DryRun {
		c.printURL(ctx, e, r)
	}
	return err
}

// printURL says where the route can be tried.
func (c *routeAddCmd) printURL(ctx context.Context, e *env, r *route) {
	addrs, err := e.addresses(ctx, "gateway", "http", edgePort)
	if err != nil {
		return // the route is published all the same
	}
	at := addrs[0]
	path := cmp.Or(r.Match.Path, r.Match.Prefix, "/")
	switch host := r.Match.Host; {
	case host == "":
		e.notef("try: curl http://%s%s\n", at, path)
	case strings.HasSuffix(host, ".localhost"):
		_, port, _ := strings.Cut(at, ":")
		e.notef("try: curl http://%s:%s%s\n", host, port, path)
	default:
		e.notef("try: curl -H 'Host: %s' http://%s%s\n", strings.Replace(host, "*", "any", 1), at, path)
	}
}

type routeRemoveCmd struct {
	Name string `arg:"" help:"The route."`
	publishFlags
}

// Run is `bijou route remove`.
func (c *routeRemoveCmd) Run(ctx context.Context, e *env) error {
	c.Reason = cmp.Or(c.Reason, "bijou route remove "+c.Name)
	return c.change(ctx, e, func(list []namedRoute) ([]namedRoute, error) {
		left := slices.DeleteFunc(slices.Clone(list), func(n namedRoute) bool { return n.name == c.Name })
		if len(left) == len(list) {
			return nil, errs.Errorf(errs.NotFound, "there is no route %q; `bijou routes` lists them", c.Name)
		}
		return left, nil
	})
}

const (
	routesSetting = "gateway.routes"
	edgePort      = 8080
)

// namedRoute is a route as it was published: what this program does not know of it stays.
type namedRoute struct {
	name string
	text json.RawMessage
}

// change calls edit with the routes that are in use and publishes the list that it returns. Nothing is published if a
// gateway refuses the list, or if the routes were changed after they were read.
func (p *publishFlags) change(ctx context.Context, e *env, edit func([]namedRoute) ([]namedRoute, error)) error {
	var list []namedRoute
	err := e.withConfig(ctx, func(client configv1.ConfigClient) (err error) {
		list, err = p.currentRoutes(ctx, client)
		return err
	})
	if err == nil {
		list, err = edit(list)
	}
	if err != nil {
		return err
	}
	texts := make([]json.RawMessage, len(list))
	for i := range list {
		texts[i] = list[i].text
	}
	value, err := json.Marshal(texts)
	if err == nil {
		err = checkRoutes(ctx, e, value)
	}
	if err != nil {
		return err
	}
	return p.publish(ctx, e, &configv1.Change{
		Name: routesSetting, Value: string(value),
		Scope: &configv1.Scope{Layer: configv1.Layer_LAYER_APP, App: "gateway"},
	})
}

// currentRoutes returns the routes that gateways use, and sets Expected so that a change by others is not undone.
func (p *publishFlags) currentRoutes(ctx context.Context, client configv1.ConfigClient) ([]namedRoute, error) {
	answer, err := ask(ctx, client.Explain, &configv1.ExplainRequest{
		Name: routesSetting, Identity: &configv1.Identity{App: "gateway"},
	})
	if err != nil {
		return nil, err
	}
	at := slices.IndexFunc(answer.GetCandidates(), (*configv1.Candidate).GetWins)
	if at < 0 {
		return nil, errs.Errorf(errs.NotFound, "no gateway has declared the setting %s yet; is one running?",
			routesSetting)
	}
	v := answer.GetCandidates()[at].GetValue()
	switch v.GetLayer() {
	case configv1.Layer_LAYER_DEFAULT, configv1.Layer_LAYER_APP:
	default:
		return nil, errs.Errorf(errs.Precondition, "%s has a value in the layer %s, which wins over the one that this "+
			"command changes; use `bijou config set` for it", routesSetting, scopeText(v.GetLayer(), v.GetScope()))
	}
	if p.Expected == 0 {
		p.Expected = v.GetRevision()
	}
	var texts []json.RawMessage
	if err := json.Unmarshal([]byte(v.GetValue()), &texts); err != nil {
		return nil, fmt.Errorf("reading %s: %w", routesSetting, err)
	}
	list := make([]namedRoute, len(texts))
	for i, text := range texts {
		var r struct{ Name string }
		if err := json.Unmarshal(text, &r); err != nil {
			return nil, fmt.Errorf("reading %s: %w", routesSetting, err)
		}
		list[i] = namedRoute{r.Name, text}
	}
	return list, nil
}

// checkRoutes asks a gateway whether it would use the routes: the config service has only their schema.
func checkRoutes(ctx context.Context, e *env, value []byte) error {
	addrs, err := e.addresses(ctx, "gateway", "admin", adminPort)
	if err != nil {
		return err
	}
	body := append(append([]byte(`{"routes":`), value...), '}')
	answer, err := askAdmin(ctx, http.MethodPost, addrs[0], "/routes/check", body)
	switch {
	case err != nil:
		return fmt.Errorf("asking a gateway to check the routes: %w", err)
	case answer.problem != nil:
		return fmt.Errorf("checking the routes: %w", answer.problem)
	}
	return nil
}
