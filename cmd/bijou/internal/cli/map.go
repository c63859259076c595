package cli

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"

	"bijou.dev/cmd/bijou/internal/term"
	circuitsv1 "bijou.dev/platform/api/circuits/v1"
	"bijou.dev/platform/errs"
	"bijou.dev/platform/load"
)

type mapCmd struct{}

// Help is what `bijou map --help` prints before the flags.
func (mapCmd) Help() string {
	return `All figures are of the last ten complete seconds, measured by the callers. INTERNET is measured by the ` +
		`gateway. Errors are calls that failed or were rejected by an open circuit, a full bulkhead or an overloaded ` +
		`callee. "measuring" means that no caller has run for ten seconds yet.`
}

// Run is `bijou map`.
func (mapCmd) Run(ctx context.Context, e *env) error {
	conn, err := e.dial(ctx, "circuits")
	if err != nil {
		return err
	}
	defer conn.Close()
	links, err := ask(ctx, circuitsv1.NewCircuitsClient(conn).Links, &circuitsv1.LinksRequest{})
	if err != nil {
		return err
	}
	return e.print(links, func() error { return e.showLinks(links.GetLinks()) })
}

func (e *env) showLinks(links []*circuitsv1.Link) error {
	t := term.Table{Header: []string{
		"FROM", "TO", "CALLS/S", "ERRORS", "P50", "P99", "REJECTED/S", "FALLBACKS/S", "CIRCUITS",
	}}
	for _, l := range links {
		cells := []any{e.style.Name(l.GetFrom(), l.GetFrom()), e.style.Name(l.GetTo(), l.GetTo())}
		cells = append(cells, figureCells(l.GetFigures())...)
		circuits := e.style.Green("closed")
		switch {
		case l.GetFrom() == load.Internet:
			circuits = ""
		case len(l.GetNotClosed()) > 0:
			circuits = e.style.Red(fmt.Sprintf("%d not closed", len(l.GetNotClosed())))
		}
		t.Add(append(cells, circuits)...)
	}
	if len(t.Rows) == 0 {
		return e.printf("no calls yet\n")
	}
	return e.table(&t)
}

// figureCells returns the cells from CALLS/S to FALLBACKS/S.
func figureCells(f *circuitsv1.Figures) []any {
	if f == nil {
		return []any{"measuring", "", "", "", "", ""}
	}
	return []any{
		number(f.GetCallsPerSecond()), number(f.GetErrorPercent()) + "%", percentile(f.P50Ms), percentile(f.P99Ms),
		number(f.GetRejectedPerSecond()), number(f.GetFallbacksPerSecond()),
	}
}

// number writes all digits, because the API has rounded the number.
func number(x float64) string { return strconv.FormatFloat(x, 'f', -1, 64) }

// percentile returns "-" if no call was measured.
func percentile(ms *float64) string {
	if ms == nil {
		return "-"
	}
	return number(*ms) + "ms"
}

type routesCmd struct{}

// Help is what `bijou routes --help` prints before the flags.
func (routesCmd) Help() string {
	return `Change them with "bijou route" or the setting gateway.routes: see docs/api/gateway.md.`
}

// routeTable is the answer of a gateway's admin page /routes.
type routeTable struct {
	Revision int64
	Routes   []struct {
		Name  string
		Match struct {
			Host, Path, Prefix, Regexp string
			Methods                    []string
		}
		To []struct {
			Service, Endpoint, Version, URL string
			Weight                          int
		}
		Redirect *struct{ To string }
		Respond  *struct{ Status int }
		Files    *struct{ Dir string }
	}
	Origins []struct {
		Service   string
		Instances []struct {
			ID, Zone, Version, Phase, Reason string

			Latency float64 `json:"latencyMs"`
			Pending int
		}
	}
}

// Run is `bijou routes`.
func (routesCmd) Run(ctx context.Context, e *env) error {
	addrs, err := e.addresses(ctx, "gateway", "admin", adminPort)
	if err != nil {
		return err
	}
	raw, err := getJSON(ctx, "http://"+addrs[0]+"/routes")
	if err != nil || e.program.JSON {
		return writeRaw(e.Stdout, raw, err)
	}
	var table routeTable
	if err := json.Unmarshal(raw, &table); err != nil {
		return fmt.Errorf("reading routes: %w", err)
	}
	routes := term.Table{Header: []string{"ROUTE", "MATCHES", "SHARE", "TARGET"}}
	for _, r := range table.Routes {
		sum := 0
		for _, to := range r.To {
			sum += to.Weight
		}
		matches := strings.TrimSpace(strings.Join(r.Match.Methods, ",") + " " + r.Match.Host + r.Match.Path +
			r.Match.Prefix + " " + r.Match.Regexp)
		for _, to := range r.To {
			share := "100%"
			if len(r.To) > 1 {
				share = fmt.Sprintf("%.0f%%", 100*float64(to.Weight)/float64(max(sum, 1)))
			}
			routes.Add(r.Name, matches, share, strings.TrimSpace(to.URL+to.Service+" "+to.Version))
		}
		switch {
		case r.Redirect != nil:
			routes.Add(r.Name, matches, "100%", "redirect to "+r.Redirect.To)
		case r.Respond != nil:
			routes.Add(r.Name, matches, "100%", fmt.Sprintf("respond with %d", cmp.Or(r.Respond.Status, http.StatusOK)))
		case r.Files != nil:
			routes.Add(r.Name, matches, "100%", "files of "+r.Files.Dir)
		}
	}
	if err := e.table(&routes); err != nil {
		return err
	}
	fmt.Fprintln(e.Stdout)
	instances := term.Table{Header: []string{
		"SERVICE", "INSTANCE", "STATE", "ZONE", "VERSION", "LATENCY", "PENDING", "REASON",
	}}
	for _, o := range table.Origins {
		for _, i := range o.Instances {
			state := e.style.Green(i.Phase)
			if i.Phase != "admitted" {
				state = e.style.Red(i.Phase)
			}
			instances.Add(o.Service, i.ID, state, i.Zone, i.Version, millis(i.Latency), strconv.Itoa(i.Pending),
				i.Reason)
		}
	}
	return e.table(&instances)
}

// getJSON reads an admin page.
func getJSON(ctx context.Context, address string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil)
	if err != nil {
		return nil, fmt.Errorf("asking %s: %w", address, err)
	}
	resp, err := (&http.Client{Timeout: 10 * time.Second}).Do(req)
	if err != nil {
		return nil, errs.Errorf(errs.Unavailable, "asking: %w", err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return nil, errs.Errorf(errs.Unavailable, "asking %s: %w", address, err)
	}
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("asking %s: %s", address, resp.Status)
	}
	return body, nil
}
