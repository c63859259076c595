package cli

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"bijou.dev/cmd/bijou/internal/term"
	configv1 "bijou.dev/platform/api/config/v1"
	discoveryv1 "bijou.dev/platform/api/discovery/v1"
	"bijou.dev/platform/errs"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"
)

type configCmd struct {
	Get      configGetCmd      `cmd:"" help:"Print the value that an instance sees."`
	Set      configSetCmd      `cmd:"" help:"Publish a value."`
	Unset    configUnsetCmd    `cmd:"" help:"Remove a value from its layer."`
	Explain  configExplainCmd  `cmd:"" help:"Show the value of each layer, and which layer wins."`
	List     configListCmd     `cmd:"" help:"List settings: type, default, bounds, values."`
	History  configHistoryCmd  `cmd:"" help:"List revisions, newest first: who, when, why, what."`
	Diff     configDiffCmd     `cmd:"" help:"Show what changed between two revisions."`
	Rollback configRollbackCmd `cmd:"" help:"Publish the values of an older revision as a new one."`
	Status   configStatusCmd   `cmd:"" help:"Show which instances run which revision."`
}

// Help is what `bijou config --help` prints before the flags.
func (configCmd) Help() string {
	return `For example:

    bijou config set web.home.row 4 --reason "fits a phone"
    bijou config explain web.home.row --app web
    bijou config history
    bijou config rollback 17 --reason "18 was a mistake"`
}

// withConfig calls fn with a connection to the config service.
func (e *env) withConfig(ctx context.Context, fn func(configv1.ConfigClient) error) error {
	conn, err := e.dial(ctx, "config")
	if err != nil {
		return err
	}
	defer conn.Close()
	return fn(configv1.NewConfigClient(conn))
}

// who has the flags that name the instance for which a value is wanted.
type who struct {
	App         string `help:"The service that reads it."`
	Environment string `placeholder:"NAME" help:"In this environment."`
	Region      string `placeholder:"NAME" help:"In this region."`
	Zone        string `placeholder:"NAME" help:"In this zone."`
	Version     string `placeholder:"NAME" help:"In this version."`
	Instance    string `placeholder:"ID" help:"In this instance; if it is registered, the rest is known."`
}

// identity completes who from the registry when an instance is named.
func (w *who) identity(ctx context.Context, e *env) (*configv1.Identity, error) {
	id := &configv1.Identity{
		App: w.App, Instance: w.Instance, Environment: w.Environment, Region: w.Region, Zone: w.Zone,
		Version: w.Version,
	}
	if w.Instance == "" {
		return id, nil
	}
	i, err := e.findInstance(ctx, w.App, w.Instance)
	if err != nil {
		return nil, err
	}
	fill := func(field *string, value string) {
		if *field == "" {
			*field = value
		}
	}
	fill(&id.App, i.GetService())
	fill(&id.Environment, i.GetEnvironment())
	fill(&id.Region, i.GetRegion())
	fill(&id.Zone, i.GetZone())
	fill(&id.Version, i.GetVersion())
	return id, nil
}

func (e *env) findInstance(ctx context.Context, app, id string) (*discoveryv1.Instance, error) {
	seeds := e.program.Discovery
	if len(seeds) == 0 {
		var err error
		if seeds, err = e.addresses(ctx, "discovery", "grpc", grpcPort); err != nil {
			return nil, err
		}
	}
	list, err := e.list(ctx, seeds, app)
	if err != nil {
		return nil, err
	}
	for _, i := range list.GetInstances() {
		if i.GetId() == id {
			return i, nil
		}
	}
	return nil, errs.Errorf(errs.NotFound, "the registry has no instance %q; `bijou services` lists them", id)
}

type configGetCmd struct {
	Name string `arg:"" optional:"" help:"The setting (default: all settings that have a value)."`
	who
}

// Help is what `bijou config get --help` prints before the flags.
func (configGetCmd) Help() string {
	return `With a name it prints the value only, for use in scripts.

    bijou config get web.home.row --app web
    bijou config get --instance catalog-a-1`
}

// Run is `bijou config get`.
func (c *configGetCmd) Run(ctx context.Context, e *env) error {
	id, err := c.identity(ctx, e)
	if err != nil {
		return err
	}
	question := &configv1.GetRequest{Identity: id}
	return e.withConfig(ctx, func(client configv1.ConfigClient) error {
		if c.Name != "" {
			question.Names = []string{c.Name}
			if id.App, err = reader(ctx, client, id.GetApp(), c.Name); err != nil {
				return err
			}
		}
		answer, err := ask(ctx, client.Get, question)
		if err != nil {
			return err
		}
		has := func(v *configv1.Value) bool { return v.GetName() == c.Name }
		if c.Name != "" && !slices.ContainsFunc(answer.GetValues(), has) {
			return errs.Errorf(errs.NotFound, "%s has no value here; `bijou config list %s` lists the services that "+
				"read it, for --app", c.Name, c.Name)
		}
		return e.print(answer, func() error { return c.show(e, answer) })
	})
}

// reader returns the app for which a setting is wanted: the named one, else the only app that reads it, else "".
func reader(ctx context.Context, client configv1.ConfigClient, app, name string) (string, error) {
	if app != "" {
		return app, nil
	}
	answer, err := ask(ctx, client.List, &configv1.ListRequest{Prefix: name})
	if err != nil {
		return "", err
	}
	for _, l := range answer.GetProperties() {
		if apps := l.GetApps(); l.GetProperty().GetName() == name && len(apps) == 1 {
			return apps[0], nil
		}
	}
	return "", nil
}

func (c *configGetCmd) show(e *env, answer *configv1.GetResponse) error {
	t := term.Table{Header: []string{"SETTING", "VALUE", "LAYER", "REVISION"}}
	for _, v := range answer.GetValues() {
		if v.GetName() == c.Name {
			return e.printValue(v.GetValue())
		}
		t.Add(v.GetName(), v.GetValue(), scopeText(v.GetLayer(), v.GetScope()), strconv.FormatInt(v.GetRevision(), 10))
	}
	return e.table(&t)
}

// printValue prints a value as it is for a program, and safe for a terminal. A value may have several lines.
func (e *env) printValue(value string) error {
	if e.tableColumns == 0 {
		_, err := fmt.Fprintln(e.Stdout, value)
		return err
	}
	for line := range strings.SplitSeq(value, "\n") {
		if err := e.printf("%s\n", strings.ReplaceAll(line, "\t", "    ")); err != nil {
			return err
		}
	}
	return nil
}

// publishFlags are the flags of every command that changes settings.
type publishFlags struct {
	Reason   string        `help:"Why; the history shows it. Required except with --dry-run."`
	Author   string        `help:"Who (default: your user name)."`
	Expected int64         `placeholder:"REVISION" help:"Refuse if the setting was changed after this revision."`
	DryRun   bool          `help:"Show what would be changed, and change nothing."`
	Wait     time.Duration `default:"5s" help:"How long to wait for all instances to run the new revision."`
}

// why returns the reason, and an error if a change has none.
func (p *publishFlags) why() (string, error) {
	if p.DryRun && p.Reason == "" {
		return "a dry run", nil // config requires a reason, but does not record this one
	}
	return p.Reason, checkReason(p.Reason)
}

func checkReason(reason string) error {
	if strings.TrimSpace(reason) == "" {
		return usagef(`--reason is missing: say why in a few words; the history shows them, as in --reason "fits a phone"`)
	}
	return nil
}

func (p *publishFlags) author(e *env) string {
	if p.Author != "" {
		return p.Author
	}
	if user := e.getenv("USER"); user != "" {
		return user
	}
	return "bijou"
}

// where has the flags that name the layer of a value. At most one field besides App is set.
type where struct {
	App         string `help:"For this service only (default: every service)."`
	Environment string `placeholder:"NAME" xor:"layer" help:"For this environment."`
	Region      string `placeholder:"NAME" xor:"layer" help:"For this region."`
	Zone        string `placeholder:"NAME" xor:"layer" help:"For this zone."`
	Version     string `placeholder:"NAME" xor:"layer" help:"For this version."`
	Instance    string `placeholder:"ID" xor:"layer" help:"For this instance."`
	Override    bool   `xor:"layer" help:"In the override layer, which wins over all others."`
}

func (w *where) scope() *configv1.Scope {
	for layer, selector := range map[configv1.Layer]string{
		configv1.Layer_LAYER_ENVIRONMENT: w.Environment, configv1.Layer_LAYER_REGION: w.Region,
		configv1.Layer_LAYER_ZONE: w.Zone, configv1.Layer_LAYER_VERSION: w.Version,
		configv1.Layer_LAYER_INSTANCE: w.Instance,
	} {
		if selector != "" {
			return &configv1.Scope{Layer: layer, App: w.App, Selector: selector}
		}
	}
	if w.Override {
		return &configv1.Scope{Layer: configv1.Layer_LAYER_OVERRIDE, App: w.App}
	}
	return &configv1.Scope{Layer: configv1.Layer_LAYER_APP, App: w.App}
}

type configSetCmd struct {
	Name  string `arg:"" help:"The setting."`
	Value string `arg:"" help:"Its new value."`
	where
	TTL time.Duration `name:"ttl" help:"With --override: the value is removed after this time."`
	publishFlags
}

// Help is what `bijou config set --help` prints before the flags.
func (configSetCmd) Help() string {
	return `The value is checked against the declaration of the setting. A bad value is refused (exit code 4), and
nothing changes. Then the command waits for the instances and prints how many run the new revision. Exit code 1
means that the value is published, but some instances do not have it yet.

    bijou config set web.home.row 4 --app web --reason "fits a phone"
    bijou config set web.home.budget 2s --override --ttl 10m --reason "a slow day"
    bijou config set web.home.row many --dry-run`
}

// Validate refuses flags of `bijou config set` that do not go together.
func (c *configSetCmd) Validate() error {
	if c.TTL != 0 && !c.Override {
		return fmt.Errorf("--ttl needs --override")
	}
	return notNegative("--ttl", c.TTL)
}

// Run is `bijou config set`.
func (c *configSetCmd) Run(ctx context.Context, e *env) error {
	change := &configv1.Change{Name: c.Name, Scope: c.scope(), Value: c.Value}
	if c.TTL > 0 {
		change.Ttl = durationpb.New(c.TTL)
	}
	return c.publish(ctx, e, change)
}

type configUnsetCmd struct {
	Name string `arg:"" help:"The setting."`
	where
	publishFlags
}

// Run is `bijou config unset`.
func (c *configUnsetCmd) Run(ctx context.Context, e *env) error {
	return c.publish(ctx, e, &configv1.Change{Name: c.Name, Scope: c.scope(), Remove: true})
}

func (p *publishFlags) publish(ctx context.Context, e *env, change *configv1.Change) error {
	reason, err := p.why()
	if err != nil {
		return err
	}
	question := &configv1.PublishRequest{
		Changes: []*configv1.Change{change}, ExpectedRevision: p.Expected, Author: p.author(e), Reason: reason,
		DryRun: p.DryRun,
	}
	publish := func(c configv1.ConfigClient) (*configv1.PublishResponse, error) { return ask(ctx, c.Publish, question) }
	return p.published(ctx, e, change.GetScope().GetApp(), publish)
}

// published makes a change, prints it, and waits until the instances have it.
func (p *publishFlags) published(ctx context.Context, e *env, app string,
	change func(configv1.ConfigClient) (*configv1.PublishResponse, error),
) error {
	return e.withConfig(ctx, func(client configv1.ConfigClient) error {
		answer, err := change(client)
		if err != nil {
			return err
		}
		if err := e.print(answer, func() error { return e.printApplied(answer, p.DryRun) }); err != nil {
			return err
		}
		if p.DryRun || p.Wait <= 0 {
			return nil
		}
		return p.await(ctx, e, client, app, answer.GetRevision())
	})
}

func (e *env) printApplied(answer *configv1.PublishResponse, dry bool) error {
	head := e.style.Bold(fmt.Sprintf("revision %d", answer.GetRevision()))
	switch {
	case len(answer.GetApplied()) == 0:
		head += ": nothing to change, the value is there already"
	case dry:
		head = e.style.Bold("would be published")
	}
	if err := e.printf("%s\n", head); err != nil {
		return err
	}
	return e.printChanges(answer.GetApplied())
}

func (e *env) printChanges(changes []*configv1.AppliedChange) error {
	for _, c := range changes {
		text := fmt.Sprintf("  %s [%s]: %s -> %s", c.GetName(), scopeText(c.GetScope().GetLayer(), c.GetScope()),
			orNone(c.Before), orNone(c.After))
		if at := c.GetExpires(); at != nil {
			text += " until " + timeText(at)
		}
		if err := e.printf("%s\n", text); err != nil {
			return err
		}
	}
	return nil
}

// orNone writes a value in a line of text: at most 120 columns of it. --json has the whole value.
func orNone(value *string) term.Painted {
	if value == nil {
		return "(none)"
	}
	return term.Cut(term.Plain(*value), 120)
}

// await prints "n of m instances on revision r", and returns an error if some instances are not on it.
func (p *publishFlags) await(ctx context.Context, e *env, client configv1.ConfigClient, app string,
	revision int64,
) error {
	status, err := ask(ctx, client.Status, &configv1.StatusRequest{
		App: app, Revision: revision,
		Wait: durationpb.New(min(p.Wait, requestTimeout-time.Second)),
	})
	if err != nil {
		// The kind of err would make an exit code that says that nothing was changed.
		return errs.Errorf(errs.Internal, "revision %d is published, but which instances run it is unknown: %w",
			revision, err)
	}
	e.notef("%s\n", statusText(status))
	// Values that were refused before this revision are not reported here. `bijou config status` reports them.
	if behind := laggards(status, revision); len(behind) > 0 {
		return fmt.Errorf("published, but not yet used by all instances: %s", strings.Join(behind, "; "))
	}
	return nil
}

func statusText(s *configv1.StatusResponse) string {
	text := fmt.Sprintf("%d of %d instances on revision %d", s.GetCurrent(), s.GetTotal(), s.GetRevision())
	if away := s.GetUnreachable(); len(away) > 0 {
		text += fmt.Sprintf("; %s did not answer, so the instances connected there count as cut off",
			strings.Join(away, ", "))
	}
	if problem := s.GetRegistryProblem(); problem != "" {
		text += "; the registry gives no list of instances: " + problem
	}
	return text
}

// laggards describes each instance that is behind, or that has refused a value of revision since or a newer one.
func laggards(s *configv1.StatusResponse, since int64) []string {
	var all []string
	for _, i := range s.GetInstances() {
		var why []string
		switch {
		case i.GetRevision() >= s.GetRevision():
		case i.GetCutOff():
			why = append(why, "is cut off from config")
		default:
			why = append(why, fmt.Sprintf("is on revision %d", i.GetRevision()))
		}
		for _, r := range i.GetRejections() {
			if r.GetRevision() >= since {
				why = append(why, "refused "+r.GetName()+" and keeps the old value: "+r.GetProblem())
			}
		}
		if len(why) > 0 {
			all = append(all, i.GetIdentity().GetApp()+"/"+i.GetIdentity().GetInstance()+" "+strings.Join(why, ", "))
		}
	}
	return all
}

type configExplainCmd struct {
	Name string `arg:"" help:"The setting."`
	who
}

// Run is `bijou config explain`.
func (c *configExplainCmd) Run(ctx context.Context, e *env) error {
	id, err := c.identity(ctx, e)
	if err != nil {
		return err
	}
	return e.withConfig(ctx, func(client configv1.ConfigClient) error {
		answer, err := ask(ctx, client.Explain, &configv1.ExplainRequest{Name: c.Name, Identity: id})
		if err != nil {
			return err
		}
		return e.print(answer, func() error { return e.showExplain(answer) })
	})
}

func (e *env) showExplain(answer *configv1.ExplainResponse) error {
	if p := answer.GetProperty(); p != nil {
		if err := e.printf("%s  %s\n%s\n\n", e.style.Bold(p.GetName()), propertyText(p), p.GetDoc()); err != nil {
			return err
		}
	}
	t := term.Table{Header: []string{"", "VALUE", "LAYER", "REVISION", "AUTHOR", "TIME", "REASON"}}
	for _, c := range answer.GetCandidates() {
		var mark term.Painted
		v := c.GetValue()
		if c.GetWins() {
			mark = e.style.Green("=>")
		}
		t.Add(mark, v.GetValue(), scopeText(v.GetLayer(), v.GetScope()), strconv.FormatInt(v.GetRevision(), 10),
			c.GetAuthor(), timeText(c.GetTime()), c.GetReason())
	}
	return e.table(&t)
}

type configListCmd struct {
	Prefix string `arg:"" optional:"" help:"Only settings whose names begin with this."`
	App    string `help:"Only what this service declares."`
}

// Run is `bijou config list`.
func (c *configListCmd) Run(ctx context.Context, e *env) error {
	return e.withConfig(ctx, func(client configv1.ConfigClient) error {
		answer, err := ask(ctx, client.List, &configv1.ListRequest{Prefix: c.Prefix, App: c.App})
		if err != nil {
			return err
		}
		if len(answer.GetProperties()) == 0 && (c.Prefix != "" || c.App != "") {
			return errs.Errorf(errs.NotFound, "there is no such setting; `bijou config list` lists all")
		}
		return e.print(answer, func() error { return e.showList(answer) })
	})
}

func (e *env) showList(answer *configv1.ListResponse) error {
	t := term.Table{Header: []string{"SETTING", "TYPE", "DEFAULT", "VALUES", "APPS", "ABOUT"}}
	for _, l := range answer.GetProperties() {
		values := make([]string, 0, len(l.GetValues()))
		for _, v := range l.GetValues() {
			values = append(values, v.GetValue()+" ["+scopeText(v.GetLayer(), v.GetScope())+"]")
		}
		p := l.GetProperty()
		t.Add(p.GetName(), propertyText(p), p.GetDefaultValue(), strings.Join(values, " "),
			strings.Join(l.GetApps(), " "), p.GetDoc())
	}
	return e.table(&t)
}

type configHistoryCmd struct {
	Name   string `arg:"" optional:"" help:"Only revisions that changed this setting."`
	Limit  int32  `short:"n" default:"20" help:"At most this many."`
	Before int64  `placeholder:"REVISION" help:"Only older ones than this."`
}

// Run is `bijou config history`.
func (c *configHistoryCmd) Run(ctx context.Context, e *env) error {
	question := &configv1.HistoryRequest{Name: c.Name, Limit: c.Limit, Before: c.Before}
	return e.withConfig(ctx, func(client configv1.ConfigClient) error {
		answer, err := ask(ctx, client.History, question)
		if err != nil {
			return err
		}
		if len(answer.GetRevisions()) == 0 {
			e.notef("%s\n", "nothing was changed")
		}
		return e.print(answer, func() error { return e.showHistory(answer) })
	})
}

func (e *env) showHistory(answer *configv1.HistoryResponse) error {
	for _, r := range answer.GetRevisions() {
		err := e.printf("%s  %s  %s  %s\n", e.style.Bold(fmt.Sprintf("revision %d", r.GetRevision())),
			timeText(r.GetTime()), r.GetAuthor(), r.GetReason())
		if err != nil {
			return err
		}
		if err := e.printChanges(r.GetChanges()); err != nil {
			return err
		}
	}
	return nil
}

type configDiffCmd struct {
	From int64 `arg:"" help:"The older revision."`
	To   int64 `arg:"" optional:"" help:"The newer revision (default: the newest)."`
}

// Run is `bijou config diff`.
func (c *configDiffCmd) Run(ctx context.Context, e *env) error {
	return e.withConfig(ctx, func(client configv1.ConfigClient) error {
		answer, err := ask(ctx, client.Diff, &configv1.DiffRequest{From: c.From, To: c.To})
		if err != nil {
			return err
		}
		return e.print(answer, func() error {
			if len(answer.GetChanges()) == 0 {
				e.notef("revisions %d and %d have the same values\n", answer.GetFrom(), answer.GetTo())
			}
			return e.printChanges(answer.GetChanges())
		})
	})
}

type configRollbackCmd struct {
	To int64 `arg:"" name:"revision" help:"The revision whose values are published again."`
	publishFlags
}

// Run is `bijou config rollback`.
func (c *configRollbackCmd) Run(ctx context.Context, e *env) error {
	reason, err := c.why()
	if err != nil {
		return err
	}
	question := &configv1.RollbackRequest{
		To: c.To, ExpectedRevision: c.Expected, Author: c.author(e), Reason: reason,
		DryRun: c.DryRun,
	}
	return c.published(ctx, e, "", func(client configv1.ConfigClient) (*configv1.PublishResponse, error) {
		return ask(ctx, client.Rollback, question)
	})
}

type configStatusCmd struct {
	App      string `help:"Only instances of this service."`
	Revision int64  `help:"Compare with this revision (default: the newest)."`
}

// Help is what `bijou config status --help` prints before the flags.
func (configStatusCmd) Help() string {
	return `Counts the instances that are connected to config, and those that are registered but not connected. Exits
with 1 when an instance is behind or has refused a value.`
}

// Run is `bijou config status`.
func (c *configStatusCmd) Run(ctx context.Context, e *env) error {
	return e.withConfig(ctx, func(client configv1.ConfigClient) error {
		answer, err := ask(ctx, client.Status, &configv1.StatusRequest{App: c.App, Revision: c.Revision})
		if err != nil {
			return err
		}
		if answer.GetTotal() == 0 && c.App != "" {
			return errs.Errorf(errs.NotFound,
				"no instance of %q is connected to config or registered; `bijou services` lists them", c.App)
		}
		if err := e.print(answer, func() error { return e.showStatus(answer) }); err != nil {
			return err
		}
		if behind := laggards(answer, 0); len(behind) > 0 {
			return fmt.Errorf("not every instance runs revision %d: %s", answer.GetRevision(),
				strings.Join(behind, "; "))
		}
		return nil
	})
}

func (e *env) showStatus(answer *configv1.StatusResponse) error {
	t := term.Table{Header: []string{"SERVICE", "INSTANCE", "REVISION", "ACKNOWLEDGED", "REFUSED"}}
	for _, i := range answer.GetInstances() {
		revision := term.Sprintf("%d", i.GetRevision())
		if i.GetRevision() < answer.GetRevision() {
			revision = e.style.Yellow(strconv.FormatInt(i.GetRevision(), 10))
		}
		if i.GetCutOff() {
			revision += e.style.Yellow(" cut off")
		}
		refused := make([]string, 0, len(i.GetRejections()))
		for _, r := range i.GetRejections() {
			refused = append(refused, fmt.Sprintf("%s@%d: %s", r.GetName(), r.GetRevision(), r.GetProblem()))
		}
		t.Add(e.style.Name(i.GetIdentity().GetApp(), i.GetIdentity().GetApp()), i.GetIdentity().GetInstance(), revision,
			timeText(i.GetAcknowledged()), e.style.Red(strings.Join(refused, "; ")))
	}
	if err := e.table(&t); err != nil {
		return err
	}
	err := e.printf("%s\n", statusText(answer))
	return err
}

// scopeText writes a layer as "zone=a catalog".
func scopeText(layer configv1.Layer, scope *configv1.Scope) string {
	text := strings.ToLower(strings.TrimPrefix(layer.String(), "LAYER_"))
	if s := scope.GetSelector(); s != "" {
		text += "=" + s
	}
	if app := scope.GetApp(); app != "" {
		text += " " + app
	}
	return text
}

func propertyText(p *configv1.Property) string {
	text := strings.ToLower(strings.TrimPrefix(p.GetType().String(), "TYPE_"))
	if p.GetUnit() != "" {
		text += " " + p.GetUnit()
	}
	if p.GetMin() != "" || p.GetMax() != "" {
		text += " " + p.GetMin() + ".." + p.GetMax()
	}
	if len(p.GetOptions()) > 0 {
		text += " " + strings.Join(p.GetOptions(), "|")
	}
	return text
}

func timeText(at *timestamppb.Timestamp) string {
	if at == nil {
		return ""
	}
	return at.AsTime().Local().Format(time.DateTime)
}
