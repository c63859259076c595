// The map: services and their instances, and the calls between them.

import { graphlib, layout } from "@dagrejs/dagre";
import { curveBasis, line } from "d3-shape";
import { useLayoutEffect, useMemo, useRef } from "preact/hooks";
import { figure, latency, more, percent, plural, rate, summary } from "./format.ts";
import { fleet, loadUnknown, traffic } from "./live.ts";
import type { Edge, Instance, Node } from "./types.ts";
import {
  Badge,
  condition,
  Empty,
  Events,
  Link,
  Needs,
  narrow,
  onLink,
  onPress,
  query,
  Sign,
  setQuery,
  Table,
  type Tone,
} from "./ui.tsx";

const errorsOf = (e: Edge) => e.figures?.errorPercent ?? 0;
const callsOf = (e: Edge) => e.figures?.callsPerSecond ?? 0;
const edgeTone = (e: Edge): Tone =>
  e.notClosed?.length || errorsOf(e) >= 5 ? "bad" : errorsOf(e) >= 1 || e.ejected ? "warn" : callsOf(e) ? "ok" : "off";
const severity: Tone[] = ["bad", "warn", "info", "ok", "off"];
export const internet = "INTERNET";

export function MapView() {
  const t = traffic.value;
  const all = query("platform") === "1";
  const chosen = query("service");
  const edge = query("edge");
  const nodes = (t?.nodes ?? []).filter((n) => all || !n.platform);
  const shown = new Set(nodes.map((n) => n.name));
  const edges = (t?.edges ?? []).filter((e) => shown.has(e.from) && shown.has(e.to));
  return (
    <>
      <header class="view">
        <h1>Map</h1>
        <p class="muted">
          Which service calls which. All figures cover the last ten complete seconds. Choose a service or a line.
        </p>
        <label class="check">
          <input
            type="checkbox"
            checked={all}
            onChange={(e) => setQuery({ platform: e.currentTarget.checked ? "1" : "" })}
          />{" "}
          Services of the platform
        </label>
        {nodes.length > 12 && (
          <label class="check">
            <input
              type="checkbox"
              checked={query("whole") === "1"}
              onChange={(e) => setQuery({ whole: e.currentTarget.checked ? "1" : "" })}
            />{" "}
            Fit to the window
          </label>
        )}
        <a href="/vizceral.json">Vizceral JSON</a>
      </header>
      <Needs of={["registry", "circuits", "settingsStore", "registryStore"]} />
      {!t ? (
        <Empty>Waiting for the first state. It comes within two seconds.</Empty>
      ) : nodes.length === 0 ? (
        <Empty>
          {fleet.value?.lastKnown
            ? "The registry does not answer, and no service was known before."
            : "No service is registered yet. A service appears when it starts."}
        </Empty>
      ) : (
        <div class="split">
          <Picture nodes={nodes} edges={edges} chosen={chosen} edge={edge} />
          <aside>
            {chosen ? (
              <ServicePanel name={chosen} />
            ) : edge ? (
              <EdgePanel edge={t.edges.find((e) => `${e.from}~${e.to}` === edge)} />
            ) : (
              <Legend />
            )}
            <Events />
          </aside>
        </div>
      )}
      {edges.length > 0 && <EdgeTable edges={edges} />}
    </>
  );
}

type Box = { x: number; y: number; width: number; height: number };

// textWidth measures a text with the fonts of this machine.
const pen = document.createElement("canvas").getContext("2d");
function textWidth(text: string, font: string) {
  if (!pen) return 0; // every browser that we support has it
  pen.font = `${font} ${getComputedStyle(document.documentElement).fontFamily}`;
  return Math.ceil(pen.measureText(text).width);
}
const nameFont = "650 13px";
const countFont = "650 11.5px";
const countText = (n: Node) => `${n.up === 0 ? "✕ " : n.up < n.instances ? "▲ " : ""}${n.up}/${n.instances}`;
// boxWidth has space for the name and for the widest count, so that a box keeps its size when the count changes.
const boxWidth = (n: Node, least: number) =>
  Math.max(
    least,
    10 + textWidth(cut(n.name, 28), nameFont) + 12 + textWidth(`▲ ${n.instances}/${n.instances}`, countFont) + 10,
  );
// label is the space for the figures of an edge: calls above its line, errors below.
const label = { width: 50, height: 36 };

// useLayout computes the positions of boxes and lines, and does so only when nodes or edges change: nothing moves when
// only figures change.
function useLayout(
  nodes: Node[],
  edges: Edge[],
  compact: boolean,
  sizeOf: (n: Node) => { width: number; height: number },
) {
  const sizes = nodes.map((n) => `${n.name}:${sizeOf(n).width}x${sizeOf(n).height}`);
  const key = `${compact};${sizes};${edges.map((e) => `${e.from}>${e.to}`)}`;
  return useMemo(() => {
    const g = new graphlib.Graph();
    g.setGraph({
      rankdir: "LR",
      nodesep: compact ? 12 : 16,
      edgesep: 10,
      ranksep: compact ? 44 : 22,
      marginx: 0,
      marginy: 0,
    });
    g.setDefaultEdgeLabel(() => ({}));
    for (const n of nodes) g.setNode(n.name, { ...sizeOf(n) });
    for (const e of edges) if (e.from !== e.to) g.setEdge(e.from, e.to, compact ? {} : { ...label, labelpos: "c" });
    layout(g);
    const boxes = new Map<string, Box>(nodes.map((n) => [n.name, g.node(n.name) as unknown as Box]));
    const path = line<{ x: number; y: number }>(
      (p) => p.x,
      (p) => p.y,
    ).curve(curveBasis);
    const lines = new Map<string, { d: string; mid: { x: number; y: number } }>(
      edges
        .filter((e) => e.from !== e.to)
        .map((e) => {
          const { points, x, y } = g.edge(e.from, e.to) as unknown as {
            points: { x: number; y: number }[];
            x?: number;
            y?: number;
          };
          const mid = x === undefined || y === undefined ? points[Math.floor(points.length / 2)] : { x, y };
          return [`${e.from}~${e.to}`, { d: path(points) ?? "", mid }] as const;
        }),
    );
    // Lines around boxes may lie outside of the size that the library computes.
    const xs = [...boxes.values()].flatMap((b) => [b.x - b.width / 2, b.x + b.width / 2]);
    const ys = [...boxes.values()].flatMap((b) => [b.y - b.height / 2, b.y + b.height / 2]);
    for (const e of g.edges())
      for (const p of (g.edge(e) as unknown as { points: { x: number; y: number }[] }).points) {
        xs.push(p.x);
        ys.push(p.y);
      }
    if (!compact)
      for (const { mid } of lines.values()) {
        xs.push(mid.x - label.width / 2, mid.x + label.width / 2);
        ys.push(mid.y - label.height / 2, mid.y + label.height / 2);
      }
    const [left, top] = [Math.min(...xs) - 8, Math.min(...ys) - 8];
    return { boxes, lines, left, top, width: Math.max(...xs) + 8 - left, height: Math.max(...ys) + 8 - top };
  }, [key]);
}

function Picture({ nodes, edges, chosen, edge }: { nodes: Node[]; edges: Edge[]; chosen: string; edge: string }) {
  const instances = new Map<string, Instance[]>();
  for (const i of fleet.value?.instances ?? []) instances.set(i.service, [...(instances.get(i.service) ?? []), i]);
  const many = nodes.length > 30 || narrow.value;
  const sizeOf = (n: Node) => {
    if (n.name === internet) return { width: 76, height: 34 };
    const rows = Math.ceil((instances.get(n.name)?.length ?? 0) / 8);
    return many
      ? { width: boxWidth(n, 124), height: 36 }
      : { width: boxWidth(n, 148), height: 50 + 16 * Math.max(1, rows) };
  };
  const { boxes, lines, left, top, width, height } = useLayout(nodes, edges, many, sizeOf);
  const whole = query("whole") === "1";
  // A map that is larger than its box is scrolled to the box of the internet.
  const scrollBox = useRef<HTMLDivElement>(null);
  const entry = boxes.get(internet)?.y;
  useLayoutEffect(() => {
    const p = scrollBox.current;
    if (p && entry !== undefined) p.scrollTop = ((entry - top) * p.scrollHeight) / height - p.clientHeight / 2;
  }, [entry, height, whole]);
  const size = whole
    ? { width: "100%", height: "72vh" }
    : { width: "100%", maxWidth: `${width}px`, minWidth: `${width * (narrow.value ? 0.85 : 0.78)}px` };
  return (
    <div
      ref={scrollBox}
      class="scroll picture"
      role="region"
      aria-label="Map of services. The table below has the same data."
      tabIndex={0}
    >
      <svg
        style={size}
        viewBox={`${left} ${top} ${width} ${height}`}
        role="group"
        aria-label={`${plural(nodes.length, "node")}, ${plural(edges.length, "edge")}`}
      >
        <defs>
          {["ok", "warn", "bad", "off"].map((tone) => (
            <marker
              key={tone}
              id={`tip-${tone}`}
              viewBox="0 0 8 8"
              refX="7"
              refY="4"
              markerWidth="7"
              markerHeight="7"
              markerUnits="userSpaceOnUse"
              orient="auto"
            >
              <path d="M0 0 8 4 0 8z" class={`tip ${tone}`} />
            </marker>
          ))}
        </defs>
        {edges.map((e) => {
          const key = `${e.from}~${e.to}`;
          const l = lines.get(key);
          if (!l) return null;
          const tone = edgeTone(e);
          const dim = chosen && chosen !== e.from && chosen !== e.to;
          const text = figure(
            e,
            (f) => rate(f.callsPerSecond) + (f.errorPercent > 0 ? ` ✕ ${percent(f.errorPercent)}` : ""),
          );
          const notClosed = e.notClosed?.length ? `, ${plural(e.notClosed.length, "circuit")} not closed` : "";
          const open = () => setQuery({ edge: edge === key ? "" : key, service: "" }, false);
          return (
            <g
              key={key}
              class={`edge ${tone} ${dim ? "dim" : ""} ${edge === key ? "chosen" : ""}`}
              role="button"
              tabindex={0}
              aria-label={`${text}, ${e.from} to ${e.to}, ${summary(e, loadUnknown("no calls reported"))}${notClosed}`}
              onClick={open}
              onKeyDown={onPress(open)}
            >
              <path d={l.d} class="wide" />
              <path
                d={l.d}
                class="line"
                stroke-width={1 + Math.min(3, Math.sqrt(callsOf(e)) / 3)}
                marker-end={`url(#tip-${tone})`}
              />
              {callsOf(e) > 0 && <Dots d={l.d} rate={callsOf(e)} bad={errorsOf(e)} />}
              {e.notClosed?.length ? (
                <path d={`M${l.mid.x - 5} ${l.mid.y - (many ? 5 : 24)}l10 10m0-10l-10 10`} class="cut" />
              ) : null}
              {(!many || edge === key) && callsOf(e) > 0 && (
                <text x={l.mid.x} y={l.mid.y - 6} class="label" text-anchor="middle">
                  {rate(callsOf(e))}
                  {errorsOf(e) > 0 && (
                    <tspan x={l.mid.x} dy={21} class="wrong">
                      ✕ {percent(errorsOf(e))}
                    </tspan>
                  )}
                </text>
              )}
            </g>
          );
        })}
        {nodes.map((n) => {
          const b = boxes.get(n.name);
          return (
            b && (
              <Service
                key={n.name}
                node={n}
                box={b}
                instances={instances.get(n.name) ?? []}
                many={many}
                chosen={chosen === n.name}
                edges={edges}
              />
            )
          );
        })}
      </svg>
    </div>
  );
}

// Dots move along an edge. Their number grows with the calls; the share of hollow dots is the share of errors.
function Dots({ d, rate, bad }: { d: string; rate: number; bad: number }) {
  const n = Math.min(6, 1 + Math.round(Math.log2(1 + rate)));
  const seconds = 3;
  return (
    <g class="dots">
      {Array.from({ length: n }, (_, i) => (
        <circle key={i} r={2.6} class={i < Math.ceil((n * bad) / 100) ? "bad" : ""}>
          <animateMotion
            dur={`${seconds}s`}
            begin={`${-(i * seconds) / n}s`}
            repeatCount="indefinite"
            {...{ path: d }}
          />
        </circle>
      ))}
    </g>
  );
}

// nodeText returns the line of figures in the box of a service.
function nodeText(node: Node, many: boolean) {
  if (!node.figures) return node.measuring ? "measuring" : loadUnknown("is not called");
  const { callsPerSecond, errorPercent, p99Ms } = node.figures;
  if (callsPerSecond === 0) return "no calls now";
  return `${rate(callsPerSecond)} · ${percent(errorPercent)}${many ? "" : ` · ${latency(p99Ms)}`}`;
}

function Service({
  node,
  box,
  instances,
  many,
  chosen,
  edges,
}: {
  node: Node;
  box: Box;
  instances: Instance[];
  many: boolean;
  chosen: boolean;
  edges: Edge[];
}) {
  const { x, y, width, height } = box;
  if (node.name === internet) {
    return (
      <g class="node outside" transform={`translate(${x - width / 2},${y - height / 2})`}>
        <rect width={width} height={height} rx={17} />
        <text x={width / 2} y={21} text-anchor="middle" class="name">
          internet
        </text>
      </g>
    );
  }
  const tone: Tone = node.up === 0 ? "bad" : node.up < node.instances ? "warn" : "ok";
  const ejected = new Set(edges.filter((e) => e.to === node.name).flatMap((e) => Object.keys(e.ejected ?? {})));
  const versions = new Set(instances.map((i) => i.version));
  const choose = () => setQuery({ service: chosen ? "" : node.name, edge: "" }, false);
  return (
    <g class={`node ${tone} ${chosen ? "chosen" : ""}`} transform={`translate(${x - width / 2},${y - height / 2})`}>
      <g role="button" tabindex={0} aria-pressed={chosen} onClick={choose} onKeyDown={onPress(choose)}>
        <rect width={width} height={height} rx={6} />
        <text x={10} y={18} class="name">
          {cut(node.name, 28)}{" "}
        </text>
        <text x={width - 10} y={18} class={`count ${tone}`} text-anchor="end">
          {countText(node)}{" "}
        </text>
        <text x={10} y={many ? 31 : 36} class="figure">
          {nodeText(node, many)}
        </text>
      </g>
      {!many &&
        instances.map((i, n) => {
          const c = condition(i);
          const isEjected = ejected.has(i.id);
          const ejection = isEjected ? ", ejected by callers" : "";
          const letter =
            c.tone === "ok" && !isEjected
              ? versions.size > 1
                ? i.version.slice(-1)
                : i.zone.slice(-1)
              : isEjected
                ? "⊘"
                : c.tone === "bad"
                  ? "✕"
                  : "▲";
          return (
            <a
              key={i.id}
              class={`instance ${isEjected && c.tone === "ok" ? "warn" : c.tone}`}
              href={`/services/${i.service}/${i.id}`}
              aria-label={`${letter} ${i.id}, zone ${i.zone}, version ${i.version}: ${c.word}${ejection}`}
              onClick={onLink(`/services/${i.service}/${i.id}`)}
            >
              <title>{`${i.id} · zone ${i.zone} · ${i.version}\n${c.word}${ejection} ${c.why}`}</title>
              <rect x={8 + (n % 8) * 18} y={43 + Math.floor(n / 8) * 16} width={17} height={15} rx={3} />
              <text x={16.5 + (n % 8) * 18} y={54.5 + Math.floor(n / 8) * 16} text-anchor="middle">
                {letter}
              </text>
            </a>
          );
        })}
    </g>
  );
}

const cut = (s: string, n: number) => (s.length > n ? `${s.slice(0, n - 1)}…` : s);

const Legend = () => (
  <details open={!narrow.value}>
    <summary>How to read the map</summary>
    <p>
      <Link href="/try">Try six failures</Link>, and watch the map.
    </p>
    <ul class="plain">
      <li>
        A box is a service: how many of its instances take calls, calls per second, errors, p99 latency. All figures
        cover the last 10 seconds. "measuring" means that no caller has run for 10 seconds yet.
      </li>
      <li>
        A small square is an instance. Its letter is its zone, or its version if there are several. <b>▲</b> is draining
        or out of service, <b>✕</b> does not answer, <b>⊘</b> is ejected by its callers.
      </li>
      <li>
        A line is all calls of one service to another. A thicker line has more calls, a dashed line has errors. A line
        with <b>✕</b> has a circuit that is not closed.
      </li>
    </ul>
  </details>
);

function ServicePanel({ name }: { name: string }) {
  const n = traffic.value?.nodes.find((n) => n.name === name);
  const list = (fleet.value?.instances ?? []).filter((i) => i.service === name);
  const edges = (traffic.value?.edges ?? []).filter((e) => e.to === name || e.from === name);
  if (!n) return <Empty>{name} has no instance and no calls.</Empty>;
  return (
    <section aria-label={`Service ${name}`}>
      <h2>{name}</h2>
      <p>
        {n.up} of {plural(n.instances, "instance")} {n.up === 1 ? "takes" : "take"} calls. In the last 10 s:{" "}
        {summary(n, loadUnknown("not called"))}.
      </p>
      <p class="links">
        <Link href={`/services/${name}`}>Instances</Link>
        <Link href={`/circuits?q=${name}`}>Circuits</Link>
        <Link href={`/settings?app=${name}`}>Settings</Link>
        <Link href={`/traces?service=${name}`}>Traces</Link>
      </p>
      <ul class="plain">
        {list.map((i) => (
          <li key={i.id}>
            <Sign tone={condition(i).tone} /> <Link href={`/services/${name}/${i.id}`}>{i.id}</Link>{" "}
            <span class="muted">
              zone {i.zone}, {i.version}, {condition(i).word}
            </span>
          </li>
        ))}
      </ul>
      <h3>Calls</h3>
      <ul class="plain">
        {edges.map((e) => (
          <li key={e.from + e.to}>
            <Sign tone={edgeTone(e)} />{" "}
            <Link href={`/map?edge=${e.from}~${e.to}`}>
              {e.from === name ? `to ${e.to}` : `from ${e.from === internet ? "the internet" : e.from}`}
            </Link>{" "}
            <span class="muted">{summary(e, loadUnknown("no calls reported"))}</span>
          </li>
        ))}
      </ul>
      <button type="button" onClick={() => setQuery({ service: "" }, false)}>
        Close
      </button>
    </section>
  );
}

function EdgePanel({ edge: e }: { edge?: Edge }) {
  if (!e) return <Empty>No calls are reported between these services.</Empty>;
  return (
    <section aria-label={`Calls of ${e.from} to ${e.to}`}>
      <h2>
        {e.from === internet ? "the internet" : e.from} to {e.to}
      </h2>
      <dl class="facts">
        <dt>Calls</dt>
        <dd>{figure(e, (f) => rate(f.callsPerSecond))}, in the last 10 s</dd>
        <dt>Errors</dt>
        <dd>{more(e, (f) => percent(f.errorPercent))}</dd>
        <dt>Latency</dt>
        <dd>{more(e, (f) => `p50 ${latency(f.p50Ms)}, p90 ${latency(f.p90Ms)}, p99 ${latency(f.p99Ms)}`)}</dd>
        <dt>Rejected</dt>
        <dd>{more(e, (f) => rate(f.rejectedPerSecond))}</dd>
        <dt>By a fallback</dt>
        <dd>{more(e, (f) => rate(f.fallbacksPerSecond))}</dd>
      </dl>
      {e.notClosed?.map((name) => (
        <p key={name}>
          <Badge tone="bad">not closed</Badge> <Link href={`/circuits?q=${name}&caller=${e.from}`}>{name}</Link>
        </p>
      ))}
      {Object.entries(e.ejected ?? {}).map(([id, why]) => (
        <p key={id}>
          <Badge tone="warn">ejected</Badge> <Link href={`/services/${e.to}/${id}`}>{id}</Link> {why}
        </p>
      ))}
      {e.versions && (
        <p>
          The routes split by version:{" "}
          {Object.entries(e.versions)
            .map(([v, w]) => `${v} has weight ${w}`)
            .join(", ")}
          . <Link href="/routes">Routes</Link>
        </p>
      )}
      <p class="links">
        <Link href={e.from === internet ? `/traces?service=${e.to}` : `/traces?service=${e.from}&remote=${e.to}`}>
          Traces of these calls
        </Link>
        <Link href={`/circuits?q=${e.to}&caller=${e.from}`}>Circuits</Link>
        <Link href={`/services/${e.to}`}>Instances of {e.to}</Link>
      </p>
      <button type="button" onClick={() => setQuery({ edge: "" }, false)}>
        Close
      </button>
    </section>
  );
}

const EdgeTable = ({ edges }: { edges: Edge[] }) => (
  <section aria-label="The map as a table">
    <h2>The map as a table, links with errors first. Figures of the last 10 s</h2>
    <Table
      label="Calls between services"
      head={["From", "To", "Calls", "Errors", "p50", "p99", "Rejected", "Fallback", "Problems"]}
      class="numbers"
    >
      {[...edges]
        .sort((a, b) => severity.indexOf(edgeTone(a)) - severity.indexOf(edgeTone(b)) || callsOf(b) - callsOf(a))
        .map((e) => (
          <tr key={e.from + e.to}>
            <td>{e.from === internet ? "internet" : <Link href={`/services/${e.from}`}>{e.from}</Link>}</td>
            <td>
              <Link href={`/services/${e.to}`}>{e.to}</Link>
            </td>
            <td>{figure(e, (f) => rate(f.callsPerSecond))}</td>
            <td>
              <Sign tone={edgeTone(e)} /> {more(e, (f) => percent(f.errorPercent))}
            </td>
            <td>{more(e, (f) => latency(f.p50Ms))}</td>
            <td>{more(e, (f) => latency(f.p99Ms))}</td>
            <td>{more(e, (f) => rate(f.rejectedPerSecond))}</td>
            <td>{more(e, (f) => rate(f.fallbacksPerSecond))}</td>
            <td class="text">
              {e.notClosed?.length ? `not closed: ${e.notClosed.join(", ")} ` : ""}
              {e.ejected ? `ejected: ${Object.keys(e.ejected).join(", ")} ` : ""}
              <Link href={`/map?edge=${e.from}~${e.to}`}>details</Link>
            </td>
          </tr>
        ))}
    </Table>
  </section>
);
