// Routes: the routes of the gateways, and sliders that publish a split.
import { useState } from "preact/hooks";
import { post } from "./api.ts";
import { ms, plural } from "./format.ts";
import { fleet, settings, settingsLocked, tables, traffic } from "./live.ts";
import { Diff, Progress } from "./settings.tsx";
import type { Listed, Origin, Route, Table as RouteTable, Target } from "./types.ts";
import { act, Badge, Empty, Link, Needs, Note, Table, useAnswer } from "./ui.tsx";

export function RoutesView() {
  const all = tables.value;
  const gateways = Object.keys(all ?? {}).sort();
  const table = all?.[gateways[0]];
  const differ = new Set(gateways.map((g) => JSON.stringify(all?.[g].routes))).size > 1;
  return (
    <>
      <header class="view">
        <h1>Routes</h1>
        <p class="muted">Where the gateways send requests. The most specific route that matches is used.</p>
        <Progress />
      </header>
      <Needs of={["edge", "settings", "settingsStore", "registry"]} />
      {differ && (
        <Note tone="warn">
          The gateways have different routes at the moment. These are the routes of {gateways[0]}.
        </Note>
      )}
      {!table ? (
        <Empty>Asking the gateways for their routes.</Empty>
      ) : table.routes.length === 0 ? (
        <Empty>There is no route: the gateways answer every request with 404. Set gateway.routes.</Empty>
      ) : (
        <div class="routes">
          {table.routes.map((r) => (
            <RouteCard key={r.name} route={r} table={table} />
          ))}
        </div>
      )}
      {table && (
        <details class="text">
          <summary>All routes as text</summary>
          <pre class="scroll" tabIndex={0}>
            {JSON.stringify(table.routes.map(stored), null, 2)}
          </pre>
          <p>
            The routes are the setting{" "}
            <Link href="/settings/gateway.routes?app=gateway">
              <span class="mono">gateway.routes</span>
            </Link>
            . Edit it there for what the sliders cannot do.
          </p>
        </details>
      )}
      <h2>How callers choose an instance</h2>
      <ServiceRules />
    </>
  );
}

// stored returns a route as the setting has it, without the defaults that the gateway adds.
function stored({ headerTimeout: _h, totalTimeout: _t, bodyLimit: _b, ...route }: Route): Route {
  return route;
}

function matchText(m: Route["match"]) {
  const parts = [
    m.methods?.join(" or "),
    `${m.host ?? ""}${m.path ?? `${m.prefix ?? "/"}${(m.prefix ?? "/").endsWith("/") ? "" : "/"}…`}`,
  ];
  for (const h of m.headers ?? []) parts.push(`with ${h.name}${h.value ? `: ${h.value}` : ""}`);
  return parts.filter(Boolean).join(" ");
}

const weightSum = (to: Target[]) => to.reduce((s, t) => s + (t.weight ?? 0), 0);
export const share = (t: Target, to: Target[]) =>
  to.length === 1 ? 100 : weightSum(to) ? (100 * (t.weight ?? 0)) / weightSum(to) : 0;
const targetName = (t: Target) => `${t.service}${t.version ? ` ${t.version}` : ""}`;

function RouteCard({ route, table }: { route: Route; table: RouteTable }) {
  // weights are the percentages of the sliders. undefined: as published.
  const [weights, setWeights] = useState<number[] | undefined>(undefined);
  const split = route.to.length > 1;
  const now = route.to.map((t) => Math.round(share(t, route.to)));
  const next = weights ?? now;
  const move = (i: number, value: number) => {
    const rest = next.reduce((s, w, k) => (k === i ? s : s + w), 0);
    const others = next.length - 1;
    setWeights(
      next.map((w, k) =>
        k === i ? value : rest ? Math.round((w * (100 - value)) / rest) : Math.round((100 - value) / others),
      ),
    );
  };
  const publish = () => {
    const routes = table.routes.map((r) =>
      stored(r.name === route.name ? { ...r, to: r.to.map((t, i) => ({ ...t, weight: next[i] })) } : r),
    );
    act({
      title: `Change the split of ${route.name}`,
      text: (
        <>
          <p>
            Publishes gateway.routes. Every gateway checks the routes and replaces them at once. Pending requests are
            not affected.
          </p>
          <Diff
            before={route.to.map((t, i) => `${targetName(t)} ${now[i]} %`).join(", ")}
            after={route.to.map((t, i) => `${targetName(t)} ${next[i]} %`).join(", ")}
          />
        </>
      ),
      verb: "Publish",
      run: async (author, reason) => {
        await publishRoutes(routes, author, reason);
        setWeights(undefined);
      },
    });
  };
  return (
    <section class="route" aria-label={`Route ${route.name}`}>
      <h2>{route.name}</h2>
      <p class="match mono">{matchText(route.match)}</p>
      <ol class="targets">
        {route.to.map((t, i) => (
          <li key={targetName(t)}>
            <div class="target">
              <Link href={`/services/${t.service}`}>{targetName(t)}</Link>
              <span>
                {next[i]} %{next[i] === 0 && split ? ", only when the others have no instance" : ""}
              </span>
            </div>
            {!split && (
              <div class="bar">
                <span class="fill" style={{ width: `${next[i]}%` }} />
              </div>
            )}
            {split && (
              <label>
                <span class="hidden">
                  Percent of {route.name} to {targetName(t)}
                </span>
                <input
                  type="range"
                  min={0}
                  max={100}
                  value={next[i]}
                  aria-valuetext={`${next[i]} percent to ${targetName(t)}`}
                  disabled={settingsLocked.value}
                  onInput={(e) => move(i, Number(e.currentTarget.value))}
                />
              </label>
            )}
            <TargetInstances target={t} origins={table.origins} />
          </li>
        ))}
      </ol>
      {weights && (
        <div class="buttons">
          <button type="button" class="primary" onClick={publish} disabled={next.join() === now.join()}>
            Publish this split
          </button>
          <button type="button" onClick={() => setWeights(undefined)}>
            Reset
          </button>
        </div>
      )}
      <p class="muted">
        Header within {route.headerTimeout}, whole answer within{" "}
        {route.totalTimeout === "0s" ? "any time" : route.totalTimeout}
        {route.retry?.attempts ? `, up to ${plural(route.retry.attempts, "attempt")}` : ""}
        {route.sticky ? `, sticky by cookie ${route.sticky}` : ""}
        {route.rewrite ? `, rewritten to ${route.rewrite.prefix ?? ""} ${route.rewrite.host ?? ""}` : ""}.{" "}
        <Link href={`/circuits?caller=gateway&q=${route.name}`}>Circuits</Link>
      </p>
    </section>
  );
}

export const publishRoutes = (routes: Route[], author: string, reason: string) =>
  post("/api/config/Publish", {
    changes: [{ name: "gateway.routes", scope: { layer: "LAYER_APP", app: "gateway" }, value: JSON.stringify(routes) }],
    author,
    reason,
  });

function TargetInstances({ target, origins }: { target: Target; origins: Origin[] }) {
  const o = origins.find((o) => o.service === target.service && (!target.endpoint || o.endpoint === target.endpoint));
  const list = (o?.instances ?? []).filter((i) => !target.version || i.version === target.version);
  if (list.length === 0)
    return (
      <p>
        <Badge tone="bad">no instance</Badge> No instance of {targetName(target)} is registered.
      </p>
    );
  return (
    <ul class="plain behind">
      {list.map((i) => {
        const tone = i.phase !== "admitted" ? "warn" : i.ready ? "ok" : "bad";
        return (
          <li key={i.id}>
            <Badge tone={tone}>
              {i.phase === "admitted" ? (i.ready ? "takes requests" : "not connected") : i.phase}
            </Badge>{" "}
            <Link href={`/services/${target.service}/${i.id}`}>{i.id}</Link>{" "}
            <span class="muted">
              zone {i.zone}, {i.latencyMs ? ms(i.latencyMs) : "latency unknown"}, {i.pending} pending
              {i.share < 1 ? `, slow start: ${Math.round(i.share * 100)} % of its share` : ""}
              {i.phase !== "admitted" ? `: ${i.reason}` : ""}
            </span>
          </li>
        );
      })}
    </ul>
  );
}

// ServiceRules lists the settings of balancing and retries between services.
function ServiceRules() {
  const key = settings.value?.newest?.revision ?? "";
  const { answer, problem } = useAnswer<{ properties: Listed[] }>(key, (s) => post("/api/config/List", {}, s));
  const list = (answer?.properties ?? []).filter((p) => /^(route|retry)\./.test(p.property.name));
  if (problem) return <Empty>The settings of balancing cannot be read: {problem.sentence}</Empty>;
  if (!answer) return <Empty>Reading the settings of balancing.</Empty>;
  const callers = [...new Set((traffic.value?.edges ?? []).map((e) => e.from))].filter((s) =>
    fleet.value?.instances.some((i) => i.service === s),
  );
  return (
    <>
      <p>
        Every caller ({callers.join(", ") || "none yet"}) picks the better of two instances by latency and load, in its
        own zone first. These settings change that, for all services or for one.
      </p>
      <Table label="Settings of balancing and retries" head={["Setting", "Value", "What it does"]}>
        {list.map((p) => (
          <tr key={p.property.name}>
            <td>
              <Link href={`/settings/${p.property.name}`}>
                <span class="mono">{p.property.name}</span>
              </Link>
            </td>
            <td class="mono">
              {p.values.map((v) => v.value).join(", ") || <span class="muted">{p.property.defaultValue}</span>}
            </td>
            <td class="text">{p.property.doc}</td>
          </tr>
        ))}
      </Table>
    </>
  );
}
