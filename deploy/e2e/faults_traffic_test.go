package e2e

import (
	"testing"
	"time"
)

// trafficFaults hurt what requests run through: drains, storms, connections, the edge, tracing.
var trafficFaults = []fault{
	{
		row: "18", name: "all catalogs 1 s slower", on: oneProcess, seconds: 8, victims: catalogs,
		hurt: func(t testing.TB, p platform) {
			each(t, func(t testing.TB, i string) { p.(wired).slow(t, i, time.Second) }, catalogs...)
		},
		heal: func(t testing.TB, p platform) { each(t, p.(wired).resume, catalogs...) },
	},
	{
		row: "17", name: "all connections of catalogs reset", on: oneProcess, seconds: 4, must: .995, victims: catalogs,
		hurt: func(t testing.TB, p platform) { each(t, p.(wired).reset, catalogs...) },
		heal: func(testing.TB, platform) {},
	},
	held("20", "all catalogs dead", processesOf, 8, 0, catalogs...),
	{row: "21", name: "nothing, but three times the load", on: oneProcess, tell: tellOverload},
	held("34", "tracing dead", processesOf, 6, 1, "tracing-1"),
	paused("34", "tracing paused", processesOf, 8, 1, "tracing-1"),
}
