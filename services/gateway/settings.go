package gateway

import (
	"time"

	"bijou.dev/platform/config"
	"bijou.dev/platform/route"
	"bijou.dev/services/gateway/internal/accesslog"
	"bijou.dev/services/gateway/internal/acme"
	"bijou.dev/services/gateway/internal/auth/apikey"
	"bijou.dev/services/gateway/internal/bans"
	"bijou.dev/services/gateway/internal/errorpage"
	"bijou.dev/services/gateway/internal/proxyproto"
	"bijou.dev/services/gateway/routes"
)

// settings are the live settings of the edge.
type settings struct {
	routes         *config.Value[routes.Routes]
	pin, debug     *config.Value[bool]
	accessLog      *config.Value[string]
	accessLogForm  *config.Value[accesslog.Settings]
	banned         *config.Value[bans.List]
	keys           *config.Value[apikey.List]
	trustedHops    *config.Value[int64]
	proxyProtocol  *config.Value[proxyproto.Trusted]
	errorPages     *config.Value[errorpage.Pages]
	maxBody        *config.Value[int64]
	maxConns       *config.Value[int64]
	maxConnsClient *config.Value[int64]
	header, total  *config.Value[time.Duration]
	toHTTPS        *config.Value[toHTTPS]
	acme           *config.Value[acme.Settings]
	route          *route.Settings
}

// What gateway.accessLog can be.
const (
	logAll    = "all"
	logErrors = "errors"
	logOff    = "off"
)

func declare(set config.Set, list routes.Routes) *settings {
	if list == nil {
		list = routes.Routes{}
	}
	return &settings{
		routes: config.JSON(set, "gateway.routes", list, config.Spec{
			Doc: "The routing table. It is checked and replaced as a whole.",
		}),
		pin: config.Bool(set, "gateway.pin.allowed", false, config.Spec{
			Doc: `Whether a request may choose a version by the header X-Bijou-Pin: "web=v2". For test systems.`,
		}),
		debug: config.Bool(set, "gateway.debug", false, config.Spec{
			Doc: "Whether answers list in X-Bijou-Attempts which instances were tried.",
		}),
		accessLog: config.Enum(set, "gateway.accessLog", logAll, []string{logAll, logErrors, logOff}, config.Spec{
			Doc: "Which requests get a line in the log: all, those that failed, or none.",
		}),
		accessLogForm: config.JSON(set, "gateway.accessLog.form", accesslog.Settings{}, config.Spec{
			Doc: `What a line has: {"fields": ["method", "path", "status", "header:User-Agent"]} in JSON, or {"template": ` +
				`"combined"} in text, also with fields in braces. "share": 0.1 writes a tenth of those that did not fail.`,
		}),
		banned: config.JSON(set, "gateway.banned", bans.List{}, config.Spec{
			Doc: "Addresses and networks of clients that are not served, up to 10,000. Their connections are closed; behind " +
				"trusted proxies their requests get 403.",
		}),
		keys: config.JSON(set, "gateway.keys", apikey.List{}, config.Spec{
			Doc: `The API keys that routes with the method apiKey take, up to 10,000: [{"name": "ci", "sha256": "..."}]. It ` +
				"has only the hashes of the keys.",
		}),
		trustedHops: config.Int(set, "gateway.trustedHops", 0, config.Spec{
			Doc: "How many proxies before the edge are trusted to set the address of the client.", Min: "0", Max: "10",
		}),
		proxyProtocol: config.JSON(set, "gateway.proxyProtocol", proxyproto.Trusted{}, config.Spec{
			Doc: `Which listeners have the PROXY protocol, with the networks of the proxies: {"https": ["10.0.0.0/8"]}. ` +
				"All connections of such a listener must come from these networks and begin with the header.",
		}),
		errorPages: config.JSON(set, "gateway.errorPages", errorpage.Pages{}, config.Spec{
			Doc: `Pages that browsers get for failures: [{"host": "*.example.org", "status": [503], "html": "<h1>{title}</h1>` +
				`{id}"}]. Without host: any; without status: all. Up to 100 pages of 64 KiB.`,
		}),
		maxBody: config.Int(set, "gateway.maxBody", 10<<20, config.Spec{
			Doc: "The largest body of a request, unless its route has a limit.", Unit: "bytes", Min: "0",
		}),
		maxConns: config.Int(set, "gateway.maxConnections", 20000, config.Spec{
			Doc: "How many connections of clients may be open. Further ones are closed at once.", Min: "1",
		}),
		maxConnsClient: config.Int(set, "gateway.maxConnectionsPerClient", 2000, config.Spec{
			Doc: "How many of them may come from one address, and how many requests of it may be in progress. " +
				"Behind another proxy all come from one address.", Min: "1",
		}),
		header: config.Duration(set, "gateway.timeout.header", 15*time.Second, config.Spec{
			Doc: "How long an instance may take until its response begins, unless the route has a limit.", Min: "1ms",
			Max: "24h",
		}),
		total: config.Duration(set, "gateway.timeout.total", time.Minute, config.Spec{
			Doc: "How long a request may take in all until its response begins, and how long the response may pause, unless " +
				"the route has a limit. 0s: no limit.", Min: "0s", Max: "24h",
		}),
		toHTTPS: config.JSON(set, "gateway.redirectToHTTPS", toHTTPS{}, config.Spec{
			Doc: `Which hosts are redirected from HTTP to HTTPS: {"hosts": ["example.org", "*.example.org"]}, ` +
				`{"hosts": ["*"]} for all. "port" is the port of HTTPS as clients see it, 443 by default.`,
		}),
		acme: config.JSON(set, "gateway.acme", acme.Settings{}, config.Spec{
			Doc: `Which certificates to get by ACME: {"domains": ["example.org"], "email": "me@example.org", "agreeTerms": ` +
				`true}. "directory" is the URL of the authority, Let's Encrypt by default. It needs -acme-dir.`,
		}),
		route: route.NewSettings(set),
	}
}
