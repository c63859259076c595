// Traces: search, chart, waterfall with routing decisions, comparison of two traces, dependencies.
import { scaleLog, scaleTime } from "d3-scale";
import type { ComponentChildren } from "preact";
import { useMemo, useState } from "preact/hooks";
import { get } from "./api.ts";
import { clock, percent, plural, us } from "./format.ts";
import { fleet } from "./live.ts";
import type { Span } from "./types.ts";
import {
  Ago,
  Alert,
  Badge,
  Empty,
  Link,
  narrow,
  Options,
  onLink,
  query,
  Sign,
  setQuery,
  Table,
  useAnswer,
} from "./ui.tsx";

export function TracesView({ rest }: { rest: string }) {
  const title =
    rest === "dependencies"
      ? "dependencies"
      : rest === "compare"
        ? "compare"
        : rest
          ? `trace ${rest.slice(0, 8)}…${rest.slice(-4)}`
          : "";
  return (
    <>
      <header class="view">
        <h1>
          {title ? <Link href="/traces">Traces</Link> : "Traces"}
          {title && ` / ${title}`}
        </h1>
        <p class="links">
          <Link href="/traces" current={!rest}>
            Search
          </Link>
          <Link href="/traces/dependencies" current={rest === "dependencies"}>
            Dependencies
          </Link>
          <Link href="/traces/compare" current={rest === "compare"}>
            Compare
          </Link>
        </p>
      </header>
      {rest === "dependencies" ? (
        <Dependencies />
      ) : rest === "compare" ? (
        <Compare />
      ) : rest ? (
        <Trace id={rest} />
      ) : (
        <Search />
      )}
    </>
  );
}

const failed = (s: Span) => s.tags?.error !== undefined;
// operation is a span's name without the package of a gRPC method, which is the same for all of a service.
const operation = (s: Span) => (s.name ?? "unnamed").replace(/^[a-z0-9_.]+\.(?=[A-Z])/, "");
const service = (s: Span) => s.localEndpoint?.serviceName ?? "unknown";
const StoreAlert = ({ text }: { text: string }) => (
  <Alert>
    {text[0].toUpperCase() + text.slice(1)}. The rest of the console works. Instances keep spans for a short time and
    then drop them. This view asks again every two seconds.
  </Alert>
);

// Lookback is the choice of how far back a view looks.
const Lookback = ({ label }: { label: string }) => (
  <label>
    {label}{" "}
    <select value={query("minutes")} onChange={(e) => setQuery({ minutes: e.currentTarget.value })}>
      <Options
        of={[
          ["", "15 minutes"],
          ["1", "1 minute"],
          ["5", "5 minutes"],
          ["60", "1 hour"],
          ["1440", "1 day"],
        ]}
      />
    </select>
  </label>
);
const lookbackMs = () => Number(query("minutes") || 15) * 60000;

// summarize returns the line of a trace in the list.
function summarize(spans: Span[]) {
  const start = Math.min(...spans.map((s) => s.timestamp ?? Infinity));
  const end = Math.max(...spans.map((s) => (s.timestamp ?? 0) + (s.duration ?? 0)));
  const ids = new Set(spans.map((s) => s.id));
  const root = spans.find((s) => !s.parentId) ?? spans.find((s) => s.parentId && !ids.has(s.parentId)) ?? spans[0];
  return {
    id: spans[0].traceId,
    start,
    duration: end - start,
    spans: spans.length,
    root,
    errors: spans.filter(failed).length,
    services: [...new Set(spans.map(service))],
  };
}
type Summary = ReturnType<typeof summarize>;

function Search() {
  const p = (n: string) => query(n);
  const params = new URLSearchParams({
    limit: p("limit") || "100",
    lookback: String(lookbackMs()),
  });
  if (p("service")) params.set("serviceName", p("service"));
  if (p("remote")) params.set("remoteServiceName", p("remote"));
  if (p("operation")) params.set("spanName", p("operation"));
  if (p("min")) params.set("minDuration", String(Number(p("min")) * 1000));
  if (p("max")) params.set("maxDuration", String(Number(p("max")) * 1000));
  const tags = [p("tags"), p("errors") ? "error" : ""].filter(Boolean).join(" and ");
  if (tags) params.set("annotationQuery", tags);
  const { answer, problem, waiting } = useAnswer<Span[][]>(`${params}|${p("again")}`, (s) =>
    get(`/api/traces/traces?${params}`, s),
  );
  const names = useAnswer<string[]>("services", (s) => get("/api/traces/services", s)).answer ?? [
    ...new Set((fleet.value?.instances ?? []).map((i) => i.service)),
  ];
  const operations =
    useAnswer<string[]>(`operations ${p("service")}`, async (s) =>
      p("service") ? get(`/api/traces/spans?serviceName=${p("service")}`, s) : [],
    ).answer ?? [];
  const list = useMemo(
    () =>
      (answer ?? [])
        .filter((t) => t.length)
        .map(summarize)
        .sort((a, b) => b.start - a.start),
    [answer],
  );
  const field = (name: string) => ({
    name,
    value: query(name),
    onChange: (e: { currentTarget: { value: string } }) => setQuery({ [name]: e.currentTarget.value }),
  });
  return (
    <>
      <form
        class="filters"
        onSubmit={(e) => {
          e.preventDefault();
          setQuery({ again: String(Date.now()) });
        }}
      >
        <label>
          Service{" "}
          <select {...field("service")}>
            <option value="">any</option>
            {names.map((n) => (
              <option key={n}>{n}</option>
            ))}
          </select>
        </label>
        <label>
          calling{" "}
          <select {...field("remote")}>
            <option value="">any</option>
            {names.map((n) => (
              <option key={n}>{n}</option>
            ))}
          </select>
        </label>
        <label>
          Operation <input {...field("operation")} list="operations" />
          <datalist id="operations">
            {operations.map((o) => (
              <option key={o} value={o} />
            ))}
          </datalist>
        </label>
        <label>
          at least, in ms <input {...field("min")} inputMode="numeric" size={5} pattern="[0-9.]*" />
        </label>
        <label>
          at most, in ms <input {...field("max")} inputMode="numeric" size={5} pattern="[0-9.]*" />
        </label>
        <label>
          Tags <input {...field("tags")} placeholder="http.route=/ and bijou.zone=a" />
        </label>
        <Lookback label="within" />
        <label class="check">
          <input
            type="checkbox"
            checked={!!p("errors")}
            onChange={(e) => setQuery({ errors: e.currentTarget.checked ? "1" : "" })}
          />{" "}
          only with errors
        </label>
        <button type="submit" class="primary">
          Search again
        </button>
      </form>
      {problem && <StoreAlert text={problem.sentence} />}
      {waiting && !answer && !problem ? (
        <Empty>Searching the trace store.</Empty>
      ) : list.length === 0 ? (
        !problem && (
          <Empty>
            No trace matches. Choose a longer time, or remove a condition. A new trace appears after a second or two.
          </Empty>
        )
      ) : (
        <>
          <Scatter list={list} />
          <p class="muted" aria-live="polite">
            {plural(list.length, "trace")}
            {list.length >= Number(p("limit") || 100) ? ", the newest that match" : ""}
          </p>
          <Table
            label="Traces, the newest first"
            head={["Trace", "Start", "Duration", "Spans", "Root", "Services", "Errors"]}
            class="numbers"
          >
            {list.map((t) => (
              <tr key={t.id}>
                <td>
                  <Link href={`/traces/${t.id}`}>
                    <span class="mono">{t.id.slice(-8)}</span>
                  </Link>
                </td>
                <td>
                  <Ago at={t.start / 1000} />
                </td>
                <td>{us(t.duration)}</td>
                <td>{t.spans}</td>
                <td class="text">
                  {service(t.root)} <span class="mono">{operation(t.root)}</span>
                </td>
                <td class="text muted">{t.services.join(", ")}</td>
                <td>
                  {t.errors ? <Badge tone="bad">{plural(t.errors, "span")}</Badge> : <span class="muted">none</span>}
                </td>
              </tr>
            ))}
          </Table>
        </>
      )}
    </>
  );
}

// Scatter has a mark for each trace: a dot, or a cross if a span failed.
function Scatter({ list }: { list: Summary[] }) {
  const width = narrow.value ? 400 : 1000;
  const height = 200;
  const times = list.map((t) => t.start / 1000);
  const took = list.map((t) => Math.max(t.duration, 50));
  const x = scaleTime([Math.min(...times), Math.max(...times, Math.min(...times) + 1000)], [66, width - 12]);
  const y = scaleLog([Math.min(...took), Math.max(...took, 1000)], [height - 24, 10]).nice();
  const ticks = y.ticks(4).filter((t) => Number.isInteger(Math.log10(t)));
  return (
    <svg
      class="scatter"
      viewBox={`0 0 ${width} ${height}`}
      role="group"
      aria-label="Traces by time and duration. The table below has the same data."
    >
      {ticks.map((t) => (
        <g key={t}>
          <line x1={60} x2={width} y1={y(t)} y2={y(t)} class="grid" />
          <text x={56} y={y(t) + 4} text-anchor="end">
            {us(t)}
          </text>
        </g>
      ))}
      {x.ticks(narrow.value ? 3 : 6).map((t) => (
        <text key={+t} x={x(t)} y={height - 6} text-anchor="middle">
          {clock(t)}
        </text>
      ))}
      {list.map((t) => {
        const [cx, cy] = [x(t.start / 1000), y(Math.max(t.duration, 50))];
        const name = `${service(t.root)} ${t.root.name}`;
        const errors = t.errors ? `, ${t.errors} with errors` : "";
        return (
          <a
            key={t.id}
            href={`/traces/${t.id}`}
            onClick={onLink(`/traces/${t.id}`)}
            tabindex={-1}
            aria-label={`${name}, ${us(t.duration)}${t.errors ? ", with errors" : ""}`}
          >
            <title>{`${name}\n${us(t.duration)}, ${plural(t.spans, "span")}${errors}`}</title>
            {t.errors ? (
              <path d={`M${cx - 4} ${cy - 4}l8 8m0-8l-8 8`} class="bad" />
            ) : (
              <circle cx={cx} cy={cy} r={4} class="ok" />
            )}
          </a>
        );
      })}
    </svg>
  );
}

type Row = { span: Span; depth: number; children: number; hidden: boolean };

// waterfall sorts spans into the rows of a tree: a span stands below its parent. A call has a span of the caller and
// one of the callee.
function waterfall(spans: Span[], collapsed: Set<string>): Row[] {
  const byParent = Map.groupBy(spans, (s) => (s.parentId && spans.some((o) => o.id === s.parentId) ? s.parentId : ""));
  const rows: Row[] = [];
  const walk = (parent: string, depth: number, hidden: boolean) => {
    for (const s of (byParent.get(parent) ?? []).sort((a, b) => (a.timestamp ?? 0) - (b.timestamp ?? 0))) {
      const n = byParent.get(s.id)?.length ?? 0;
      rows.push({ span: s, depth, children: n, hidden });
      if (n && depth < 100) walk(s.id, depth + 1, hidden || collapsed.has(s.id));
    }
  };
  walk("", 0, false);
  return rows;
}

function Trace({ id }: { id: string }) {
  const { answer, problem } = useAnswer<Span[]>(id, (s) => get(`/api/traces/trace/${id}`, s));
  if (problem)
    return problem.status === 404 ? <Empty>{problem.message}.</Empty> : <StoreAlert text={problem.sentence} />;
  if (!answer) return <Empty>Reading the trace.</Empty>;
  return <Waterfall spans={answer} />;
}

function Waterfall({ spans }: { spans: Span[] }) {
  const [collapsed, setCollapsed] = useState(new Set<string>());
  const chosen = query("span");
  const t = summarize(spans);
  const rows = waterfall(spans, collapsed).filter((r) => !r.hidden);
  const total = Math.max(t.duration, 1);
  const toggle = (id: string) =>
    setCollapsed((old) => (old.has(id) ? new Set([...old].filter((o) => o !== id)) : new Set([...old, id])));
  const revisions = [...new Set(spans.map((s) => s.tags?.["bijou.config.revision"] ?? ""))]
    .filter((r) => Number(r) > 0)
    .sort((a, b) => Number(a) - Number(b));
  const [copied, setCopied] = useState("");
  const copy = () =>
    navigator.clipboard.writeText(`${location.origin}/traces/${t.id}`).then(
      () => setCopied("Copied."),
      () => setCopied("The browser does not allow this. Copy the address of this page."),
    );
  return (
    <>
      <p class="wide">
        {service(t.root)} <span class="mono">{t.root.name}</span> took <b>{us(t.duration)}</b>,{" "}
        {plural(t.spans, "span")} of {plural(t.services.length, "service")}, started <Ago at={t.start / 1000} />.{" "}
        <Badge tone={t.errors ? "bad" : "ok"}>{t.errors ? `${plural(t.errors, "span")} failed` : "no error"}</Badge>{" "}
        {revisions.length === 1 && (
          <>
            Settings <Link href="/settings/history">revision {revisions[0]}</Link>.
          </>
        )}
        {revisions.length > 1 && (
          <>
            The settings changed during the trace:{" "}
            <Link href="/settings/history">revisions {revisions.join(" and ")}</Link>.
          </>
        )}{" "}
        <Link href={`/traces/compare?a=${t.id}`}>Compare with another</Link>{" "}
        <button type="button" onClick={copy}>
          Copy the link
        </button>{" "}
        <span aria-live="polite">{copied}</span>
      </p>
      <div class="scroll" role="region" aria-label="Waterfall" tabIndex={0}>
        <table class="waterfall">
          <thead>
            <tr>
              <th scope="col">Service and operation</th>
              <th scope="col" class="scale">
                <span>0</span>
                <span>{us(total / 2)}</span>
                <span>{us(total)}</span>
              </th>
              <th scope="col">Duration</th>
            </tr>
          </thead>
          <tbody>
            {rows.map(({ span: s, depth, children }) => (
              <>
                <tr key={s.id} class={`${failed(s) ? "bad" : ""} ${chosen === s.id ? "chosen" : ""}`}>
                  <td style={{ paddingLeft: `${6 + depth * 14}px` }}>
                    {children > 0 ? (
                      <button
                        type="button"
                        class="tree"
                        aria-expanded={!collapsed.has(s.id)}
                        aria-label={`${plural(children, "span")} below ${s.name}`}
                        onClick={() => toggle(s.id)}
                      >
                        {collapsed.has(s.id) ? "▸" : "▾"}
                      </button>
                    ) : (
                      <span class="tree" aria-hidden="true" />
                    )}
                    {failed(s) && (
                      <>
                        <Sign tone="bad" />
                        <span class="hidden">failed </span>
                      </>
                    )}{" "}
                    <b>{service(s)}</b>{" "}
                    <button
                      type="button"
                      class="link mono"
                      aria-expanded={chosen === s.id}
                      title={s.name}
                      onClick={() => setQuery({ span: chosen === s.id ? "" : s.id })}
                    >
                      {operation(s)}
                    </button>{" "}
                    <span class="muted">{s.kind?.toLowerCase()}</span>
                  </td>
                  <td class="lane">
                    <span
                      class={`bar ${(s.kind ?? "").toLowerCase()}`}
                      style={{
                        left: `${(100 * ((s.timestamp ?? t.start) - t.start)) / total}%`,
                        width: `${Math.max(0.3, (100 * (s.duration ?? 0)) / total)}%`,
                      }}
                    />
                  </td>
                  <td class="number">{us(s.duration ?? 0)}</td>
                </tr>
                {chosen === s.id && (
                  <tr key={`${s.id}-more`} class="more">
                    <td colSpan={3}>
                      <Attributes s={s} />
                    </td>
                  </tr>
                )}
              </>
            ))}
          </tbody>
        </table>
      </div>
      {!chosen && (
        <p class="muted">
          Choose an operation to see its routing decisions: instances, attempts, circuit, fault rules.
        </p>
      )}
    </>
  );
}

// Attributes shows the routing decisions of a span as sentences, and all its attributes.
function Attributes({ s }: { s: Span }) {
  const tags = s.tags ?? {};
  const sentences = decisions(s);
  const rest = Object.entries(tags).filter(([k]) => !/^(otel\.scope|telemetry\.sdk)/.test(k));
  return (
    <div class="attributes">
      {sentences.length > 0 && (
        <section aria-label="Decisions">
          <h2>Routing decisions</h2>
          <ul class="plain">
            {sentences.map((line, i) => (
              <li key={i}>{line}</li>
            ))}
          </ul>
        </section>
      )}
      {s.annotations?.length ? (
        <section aria-label="Events">
          <h2>Events</h2>
          <ul class="plain">
            {s.annotations.map((a) => (
              <li key={a.timestamp + a.value}>
                <span class="muted">+{us(a.timestamp - (s.timestamp ?? a.timestamp))}</span>{" "}
                <span class="mono">{a.value}</span>
              </li>
            ))}
          </ul>
        </section>
      ) : null}
      <section aria-label="All attributes">
        <h2>Attributes</h2>
        <dl class="facts mono">
          {rest.map(([k, v]) => (
            <>
              <dt key={k}>{k}</dt>
              <dd key={`${k}=`}>{v || '""'}</dd>
            </>
          ))}
        </dl>
      </section>
    </div>
  );
}

const scopes: Record<string, string> = {
  local: "in its own zone",
  spilled: "in another zone, because its own zone has too few instances",
  widened: "in all zones, because the instances of its own zone were excluded",
  probe: "an ejected instance, to test it",
  everywhere: "among all instances",
};

// decisions returns the routing decisions of a span as sentences with links.
function decisions(s: Span): ComponentChildren[] {
  const t = s.tags ?? {};
  const lines: ComponentChildren[] = [];
  const r = (k: string) => t[`bijou.route.${k}`];
  const c = (k: string) => t[`bijou.circuit.${k}`];
  const revision = Number(t["bijou.config.revision"] ?? 0);
  const callee = t["peer.service"] ?? "";
  const cost = (k: string) => `cost ${Number(r(k)).toFixed(2)} ms`;
  if (t["bijou.gateway.route"]) {
    lines.push(
      <>
        The gateway sent it to {t["bijou.gateway.service"]} by the{" "}
        <Link href="/routes">route {t["bijou.gateway.route"]}</Link>, in{" "}
        {plural(Number(t["bijou.gateway.attempts"]), "attempt")}.
      </>,
    );
  }
  if (r("instance")) {
    lines.push(
      <>
        Picked <Link href={`/services/${callee}/${r("instance")}`}>{r("instance")}</Link> in zone {r("zone")},{" "}
        {cost("cost_ms")}
        {r("other") && (
          <>
            , over {r("other")}, {cost("other_cost_ms")}
          </>
        )}
        .
      </>,
    );
    const excluded = r("excluded") ? `, ${r("excluded")} excluded by earlier attempts` : "";
    const version = r("version") ? `, only version ${r("version")}` : "";
    lines.push(
      `Chose ${scopes[r("scope")] ?? r("scope")}: ${r("ready")} of ${r("known")} instances ready, ` +
        `${r("ejected")} ejected${excluded}${version}.`,
    );
  }
  if (r("panic")) lines.push("Too many instances were ejected, so ejections were ignored (panic).");
  if (c("name")) {
    const refused = c("state") !== "closed" && /circuit is/.test(t.error ?? "");
    lines.push(
      <>
        Circuit <Link href={`/circuits?q=${c("name")}&caller=${service(s)}`}>{c("name")}</Link> was {c("state")},{" "}
        {c("concurrent")} of at most {c("limit")} calls running{refused && "; it refused the call"}
        {c("reason") && `: ${c("reason")}`}.
      </>,
    );
  }
  if (Number(t["bijou.attempts"]) > 1)
    lines.push(`It took ${t["bijou.attempts"]} attempts. The instance above is that of the last attempt.`);
  if (t["bijou.attempts"] === "1") lines.push("It took one attempt.");
  if (s.annotations?.some((a) => /^"?fallback"?/.test(a.value)))
    lines.push("A failed call below was answered by a fallback.");
  if (t["bijou.fault.latency"]) lines.push(`A fault rule delayed it by ${t["bijou.fault.latency"]}.`);
  if (t["bijou.fault.error"]) lines.push("A fault rule made it fail.");
  if (t.error) lines.push(`It failed: ${t.error}`);
  if (revision > 0)
    lines.push(
      <>
        {service(s)} ran <Link href="/settings/history">settings revision {revision}</Link>.
      </>,
    );
  else if (t["bijou.config.revision"]) lines.push(`${service(s)} ran with the defaults of all settings.`);
  return lines;
}

function Compare() {
  const a = query("a");
  const b = query("b");
  const load = (id: string) =>
    useAnswer<Span[] | undefined>(`compare ${id}`, async (s) => (id ? get(`/api/traces/trace/${id}`, s) : undefined));
  const [left, right] = [load(a), load(b)];
  const sums = (spans: Span[]) => {
    const m = new Map<string, { n: number; took: number; failed: number }>();
    for (const s of spans) {
      const key = `${service(s)} ${operation(s)} ${(s.kind ?? "").toLowerCase()}`;
      const v = m.get(key) ?? { n: 0, took: 0, failed: 0 };
      m.set(key, { n: v.n + 1, took: v.took + (s.duration ?? 0), failed: v.failed + (failed(s) ? 1 : 0) });
    }
    return m;
  };
  const [la, lb] = [left.answer, right.answer];
  const [sa, sb] = [la && sums(la), lb && sums(lb)];
  const keys = [...new Set([...(sa?.keys() ?? []), ...(sb?.keys() ?? [])])];
  const delta = (k: string) => (sb?.get(k)?.took ?? 0) - (sa?.get(k)?.took ?? 0);
  return (
    <>
      <form
        class="filters"
        onSubmit={(e) => {
          e.preventDefault();
          const f = new FormData(e.currentTarget);
          setQuery({ a: String(f.get("a")).trim(), b: String(f.get("b")).trim() }, false);
        }}
      >
        <label>
          Trace A <input name="a" class="mono" required pattern="\s*[0-9a-fA-F]{1,32}\s*" size={34} value={a} />
        </label>
        <label>
          Trace B <input name="b" class="mono" required pattern="\s*[0-9a-fA-F]{1,32}\s*" size={34} value={b} />
        </label>
        <button type="submit" class="primary">
          Compare
        </button>
      </form>
      {[left, right].map(
        (s, i) =>
          s.problem && (
            <Alert key={i}>
              Trace {"AB"[i]}: {s.problem.sentence}
            </Alert>
          ),
      )}
      {!la || !lb || !sa || !sb ? (
        <Empty>
          {a && b
            ? "Reading both traces."
            : "Enter the ids of two traces. The view of a trace has a link that fills in the first."}
        </Empty>
      ) : (
        <>
          <p>
            Trace <Link href={`/traces/${a}`}>A</Link> took {us(summarize(la).duration)}, trace{" "}
            <Link href={`/traces/${b}`}>B</Link> took {us(summarize(lb).duration)}. Largest differences first.
          </p>
          <Table
            label="Differences by operation"
            head={["Operation", "Spans in A", "in B", "Time in A", "in B", "Difference", "Errors in A", "in B"]}
            class="numbers"
          >
            {keys
              .sort((x, y) => Math.abs(delta(y)) - Math.abs(delta(x)))
              .map((k) => (
                <tr key={k}>
                  <td class="text mono">{k}</td>
                  <td>{sa.get(k)?.n ?? "none"}</td>
                  <td>{sb.get(k)?.n ?? "none"}</td>
                  <td>{us(sa.get(k)?.took ?? 0)}</td>
                  <td>{us(sb.get(k)?.took ?? 0)}</td>
                  <td>
                    {delta(k) > 0 ? "▲ +" : delta(k) < 0 ? "▼ −" : ""}
                    {us(Math.abs(delta(k)))}
                  </td>
                  <td>{sa.get(k)?.failed ?? 0}</td>
                  <td>{sb.get(k)?.failed ?? 0}</td>
                </tr>
              ))}
          </Table>
        </>
      )}
    </>
  );
}

function Dependencies() {
  const { answer, problem } = useAnswer<{ parent: string; child: string; callCount: number; errorCount?: number }[]>(
    `dependencies ${lookbackMs()}`,
    (s) => get(`/api/traces/dependencies?endTs=${Date.now()}&lookback=${lookbackMs()}`, s),
  );
  return (
    <>
      <div class="filters">
        <Lookback label="Calls of the last" />
      </div>
      {problem && <StoreAlert text={problem.sentence} />}
      {!answer ? (
        !problem && <Empty>Computing the dependencies from the traces.</Empty>
      ) : answer.length === 0 ? (
        <Empty>No calls in this time.</Empty>
      ) : (
        <Table
          label="Calls between services, from traces"
          head={["Caller", "Callee", "Calls", "Errors", "Links"]}
          class="numbers"
        >
          {answer
            .sort((a, b) => b.callCount - a.callCount)
            .map((d) => (
              <tr key={d.parent + d.child}>
                <td>{d.parent}</td>
                <td>{d.child}</td>
                <td>{d.callCount}</td>
                <td>
                  {d.errorCount ? (
                    <>
                      <Sign tone="bad" /> {d.errorCount} ({percent((100 * d.errorCount) / d.callCount)})
                    </>
                  ) : (
                    <span class="muted">none</span>
                  )}
                </td>
                <td>
                  <Link
                    href={`/traces?service=${d.parent}&remote=${d.child}`}
                    label={`Traces of ${d.parent} calling ${d.child}`}
                  >
                    traces
                  </Link>{" "}
                  <Link href={`/map?edge=${d.parent}~${d.child}`} label={`${d.parent} to ${d.child} on the map`}>
                    map
                  </Link>
                </td>
              </tr>
            ))}
        </Table>
      )}
    </>
  );
}
