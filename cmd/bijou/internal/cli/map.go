package cli

import (
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
)

type mapCmd struct{}

// Help is what `bijou map --help` says beyond the flags.
func (mapCmd) Help() string {
	return `It adds up what callers report of their circuits, over the last ten seconds. A refusal by an open circuit is an error.`
}

// link is all calls of one service to another.
type link struct {
	From         string  `json:"from"`
	To           string  `json:"to"`
	Rate         float64 `json:"rate"`
	ErrorPercent float64 `json:"errorPercent"`
	P50          float64 `json:"p50Ms"`
	P99          float64 `json:"p99Ms"`
	Fallbacks    float64 `json:"fallbacks"`
	Open         int     `json:"circuitsNotClosed"`

	calls, failed float64
}

// Run is `bijou map`.
func (mapCmd) Run(ctx context.Context, e *env) error {
	conn, err := e.dial(ctx, "circuits")
	if err != nil {
		return err
	}
	defer conn.Close()
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	stream, err := circuitsv1.NewCircuitsClient(conn).Watch(ctx, &circuitsv1.WatchRequest{})
	if err != nil {
		return errs.FromRPC(err)
	}
	board, err := stream.Recv()
	if err != nil {
		return errs.FromRPC(err)
	}
	links := linksOf(board)
	if e.program.JSON {
		return e.printJSON(links)
	}
	t := term.Table{Header: []string{"FROM", "TO", "CALLS/S", "ERRORS", "P50", "P99", "FALLBACKS/S", "CIRCUITS"}}
	for _, l := range links {
		circuits := e.style.Green("closed")
		if l.Open > 0 {
			circuits = e.style.Red(fmt.Sprintf("%d not closed", l.Open))
		}
		t.Add(e.style.Name(l.From, l.From), e.style.Name(l.To, l.To), strconv.FormatFloat(l.Rate, 'f', 1, 64),
			fmt.Sprintf("%.1f%%", l.ErrorPercent), millis(l.P50), millis(l.P99), strconv.FormatFloat(l.Fallbacks, 'f', 1, 64), circuits)
	}
	if len(t.Rows) == 0 {
		_, err := fmt.Fprintln(e.Stdout, "no calls yet: they appear with the first")
		return err
	}
	return t.Write(e.Stdout, e.style)
}

// linksOf sums the board by caller and callee. The percentiles are means weighted by calls.
func linksOf(board *circuitsv1.WatchResponse) []*link {
	links := []*link{}
	for _, s := range board.GetServices() {
		byCallee := map[string]*link{}
		for _, k := range s.GetCircuits() {
			l := byCallee[k.GetGroup()]
			if l == nil {
				l = &link{From: s.GetService(), To: k.GetGroup()}
				byCallee[k.GetGroup()] = l
				links = append(links, l)
			}
			l.add(k)
		}
	}
	for _, l := range links {
		if l.calls > 0 {
			l.ErrorPercent = 100 * l.failed / l.calls
			l.P50, l.P99 = l.P50/l.calls, l.P99/l.calls
		}
		l.Rate = l.calls / 10
		l.Fallbacks /= 10
	}
	return links
}

func (l *link) add(k *circuitsv1.Snapshot) {
	r := k.GetRolling()
	refused := float64(r["SHORT_CIRCUITED"] + r["SEMAPHORE_REJECTED"])
	calls := float64(r["SUCCESS"]+r["FAILURE"]+r["TIMEOUT"]+r["BAD_REQUEST"]) + refused
	l.calls += calls
	l.failed += float64(r["FAILURE"]+r["TIMEOUT"]) + refused
	l.P50 += k.GetLatencyMs()["50"] * calls
	l.P99 += k.GetLatencyMs()["99"] * calls
	l.Fallbacks += float64(r["FALLBACK_SUCCESS"])
	if k.GetState() > circuitsv1.State_STATE_CLOSED {
		l.Open++
	}
}

type routesCmd struct{}

// Help is what `bijou routes --help` says beyond the flags.
func (routesCmd) Help() string {
	return `Change them with the setting gateway.routes: see services/gateway/README.md.`
}

// routeTable is what a gateway's admin page /routes answers.
type routeTable struct {
	Revision int64
	Routes   []struct {
		Name  string
		Match struct {
			Host, Path, Prefix string
			Methods            []string
		}
		To []struct {
			Service, Endpoint, Version string
			Weight                     int
		}
	}
	Origins []struct {
		Service   string
		Instances []struct {
			ID, Zone, Version, Phase, Reason string

			Latency float64 `json:"latency_ms"`
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
		for _, to := range r.To {
			share := "100%"
			if len(r.To) > 1 {
				share = fmt.Sprintf("%.0f%%", 100*float64(to.Weight)/float64(max(sum, 1)))
			}
			routes.Add(r.Name, strings.TrimSpace(strings.Join(r.Match.Methods, ",")+" "+r.Match.Host+r.Match.Path+r.Match.Prefix), share,
				strings.TrimSpace(to.Service+" "+to.Version))
		}
	}
	if err := routes.Write(e.Stdout, e.style); err != nil {
		return err
	}
	fmt.Fprintln(e.Stdout)
	behind := term.Table{Header: []string{"SERVICE", "INSTANCE", "STATE", "ZONE", "VERSION", "LATENCY", "UNDER WAY", "WHY"}}
	for _, o := range table.Origins {
		for _, i := range o.Instances {
			state := e.style.Green(i.Phase)
			if i.Phase != "admitted" {
				state = e.style.Red(i.Phase)
			}
			behind.Add(o.Service, i.ID, state, i.Zone, i.Version, millis(i.Latency), strconv.Itoa(i.Pending), i.Reason)
		}
	}
	return behind.Write(e.Stdout, e.style)
}

// getJSON reads an admin page.
func getJSON(ctx context.Context, address string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
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
	if err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("asking %s: %s", address, resp.Status)
	}
	return body, err
}
