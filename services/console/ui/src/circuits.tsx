// Circuits: the circuits of all callers, their figures, and the button that forces one.
import { area, line } from "d3-shape";
import { useState } from "preact/hooks";
import { post } from "./api.ts";
import { circuitState, figure, latency, loadOf, more, percent, plural, rate } from "./format.ts";
import { board, history, parts, settingsLocked } from "./live.ts";
import type { Circuit } from "./types.ts";
import { At, act, Badge, Empty, Link, Needs, Options, query, setQuery, Table, type Tone } from "./ui.tsx";

const tones: Record<string, Tone> = {
  STATE_CLOSED: "ok",
  STATE_HALF_OPEN: "warn",
  STATE_OPEN: "bad",
  STATE_FORCED_OPEN: "bad",
  STATE_FORCED_CLOSED: "warn",
};
const severity = ["STATE_FORCED_OPEN", "STATE_OPEN", "STATE_HALF_OPEN", "STATE_FORCED_CLOSED", "STATE_CLOSED"];

const callsOf = (c: Circuit) => c.figures?.callsPerSecond ?? 0;

export function CircuitsView() {
  const b = board.value;
  const q = query("q").toLowerCase();
  const caller = query("caller");
  const state = query("state");
  const all = (b?.services ?? []).flatMap((s) => s.circuits.map((c) => ({ caller: s.service, c })));
  const rows = all
    .filter(
      ({ caller: who, c }) =>
        (!caller || who === caller) &&
        (!state || (state === "open" ? c.state !== "STATE_CLOSED" : c.state === "STATE_CLOSED")) &&
        (!q || `${who} ${c.name}`.toLowerCase().includes(q)),
    )
    .sort(
      (x, y) =>
        severity.indexOf(x.c.state) - severity.indexOf(y.c.state) ||
        callsOf(y.c) - callsOf(x.c) ||
        x.c.name.localeCompare(y.c.name),
    );
  const notClosed = all.filter(({ c }) => c.state !== "STATE_CLOSED").length;
  return (
    <>
      <header class="view">
        <h1>Circuits</h1>
        <label>
          Find{" "}
          <input
            type="search"
            value={query("q")}
            placeholder="catalog.GetMovie"
            onInput={(e) => setQuery({ q: e.currentTarget.value })}
          />
        </label>
        <label>
          Caller{" "}
          <select value={caller} onChange={(e) => setQuery({ caller: e.currentTarget.value })}>
            <option value="">all</option>
            {[...new Set(all.map((r) => r.caller))].map((name) => (
              <option key={name}>{name}</option>
            ))}
          </select>
        </label>
        <label>
          State{" "}
          <select value={state} onChange={(e) => setQuery({ state: e.currentTarget.value })}>
            <option value="">all</option>
            <option value="open">not closed</option>
            <option value="closed">closed</option>
          </select>
        </label>
        {all.length > 0 && parts.value.circuits?.ok && (
          <p class="muted">{notClosed ? `${notClosed} of ${all.length} not closed` : `All ${all.length} closed`}</p>
        )}
      </header>
      <Needs of={["circuits", "settingsStore"]} />
      {!b ? (
        <Empty>Waiting for the circuits service. It sends once a second.</Empty>
      ) : all.length === 0 ? (
        <Empty>There are no circuits yet. A circuit appears with its first call.</Empty>
      ) : rows.length === 0 ? (
        <Empty>No circuit matches. Remove a filter.</Empty>
      ) : (
        <Table
          label="Circuits, those that are not closed first; figures of the last 10 s"
          head={[
            "Circuit",
            "State",
            "Last minute",
            "Calls",
            "Errors",
            "p50",
            "p90",
            "p99",
            "Running",
            "Rejected",
            "Fallback",
            "Action",
          ]}
          class="numbers"
        >
          {rows.map(({ caller, c }) => (
            <Row key={caller + c.name} caller={caller} c={c} />
          ))}
        </Table>
      )}
    </>
  );
}

function Row({ caller, c }: { caller: string; c: Circuit }) {
  const l = loadOf(c);
  const open = c.openInstances;
  const limit = c.properties.maxConcurrent;
  return (
    <tr>
      <td class="text">
        <Link href={`/services/${caller}`}>{caller}</Link>{" "}
        <span role="img" aria-label="calls">
          →
        </span>{" "}
        <Link href={`/map?edge=${caller}~${c.group}`}>
          <b>{c.name}</b>
        </Link>
      </td>
      <td class="text">
        <Badge tone={tones[c.state] ?? "off"}>{circuitState(c.state)}</Badge>
        {c.state !== "STATE_CLOSED" && (
          <div class="why">
            {open > 0 && `${open} of ${plural(c.reportingHosts, "instance")}. `}
            {c.reason}
            {c.since && (
              <>
                , since <At at={c.since} />
              </>
            )}
          </div>
        )}
        {c.exampleTraces.length > 0 && (
          <span class="why">
            {" "}
            failed calls:{" "}
            {c.exampleTraces.map((id, i) => (
              <Link key={id} href={`/traces/${id}`} label={`${i + 1}, trace ${id} of a failed call`}>
                {i + 1}
              </Link>
            ))}
          </span>
        )}
      </td>
      <td>
        <Spark samples={history.get(`${caller} > ${c.name}`) ?? []} name={c.name} />
      </td>
      <td>{figure(l, (f) => rate(f.callsPerSecond))}</td>
      <td>{more(l, (f) => percent(f.errorPercent))}</td>
      <td>{more(l, (f) => latency(f.p50Ms))}</td>
      <td>{more(l, (f) => latency(f.p90Ms))}</td>
      <td>{more(l, (f) => latency(f.p99Ms))}</td>
      <td title="running calls, and their limit">
        {c.concurrent} of {limit ?? "?"}
      </td>
      <td>{more(l, (f) => rate(f.rejectedPerSecond))}</td>
      <td>{more(l, (f) => rate(f.fallbacksPerSecond))}</td>
      <td>
        <button
          type="button"
          disabled={settingsLocked.value}
          aria-label={`Force ${c.name} of ${caller}`}
          onClick={() => force(caller, c)}
        >
          Force
        </button>
      </td>
    </tr>
  );
}

// Spark is a chart of the last minute: calls as a line, errors as the filled area below it.
function Spark({ samples, name }: { samples: { rate: number; errors: number }[]; name: string }) {
  const width = 90;
  const height = 22;
  const top = Math.max(0.1, ...samples.map((s) => s.rate));
  const x = (i: number) => width - ((samples.length - 1 - i) * width) / 59;
  const y = (v: number) => height - 1 - (v / top) * (height - 3);
  const last = samples.at(-1);
  return (
    <svg
      width={width}
      height={height}
      role="img"
      aria-label={`${name}: at most ${rate(top)} within the last minute${last ? `, now ${rate(last.rate)}` : ""}`}
      class="spark"
    >
      <line x2={width} y1={height - 1} y2={height - 1} class="axis" />
      <path
        class="errors"
        d={
          area<(typeof samples)[0]>(
            (_, i) => x(i),
            height - 1,
            (s) => y(s.errors),
          )(samples) ?? ""
        }
      />
      <path
        class="rate"
        d={
          line<(typeof samples)[0]>(
            (_, i) => x(i),
            (s) => y(s.rate),
          )(samples) ?? ""
        }
      />
    </svg>
  );
}

function force(caller: string, c: Circuit) {
  const choice = {
    state: c.state.startsWith("STATE_FORCED") ? "STATE_UNSPECIFIED" : "STATE_FORCED_OPEN",
    ttl: "600s",
    allCallers: false,
    allMethods: false,
  };
  act({
    title: `Force ${c.name}`,
    text:
      "Open: every call fails at once, or is answered by its fallback. Closed: every call is sent, also after " +
      "failures. The state is an override of the settings with a time to live, so it ends by itself.",
    verb: "Publish",
    more: <ForceFields choice={choice} caller={caller} c={c} />,
    run: (author, reason) =>
      post("/api/circuits/Force", {
        service: choice.allCallers ? "" : caller,
        name: choice.allMethods ? c.group : c.name,
        state: choice.state,
        ttl: choice.state === "STATE_UNSPECIFIED" ? undefined : choice.ttl,
        author,
        reason,
      }),
  });
}

function ForceFields({
  choice,
  caller,
  c,
}: {
  choice: { state: string; ttl: string; allCallers: boolean; allMethods: boolean };
  caller: string;
  c: Circuit;
}) {
  const [state, set] = useState(choice.state);
  return (
    <>
      <fieldset>
        <legend>State</legend>
        {[
          ["STATE_FORCED_OPEN", "forced open"],
          ["STATE_FORCED_CLOSED", "forced closed"],
          ["STATE_UNSPECIFIED", "release: the circuit opens and closes by its own rules"],
        ].map(([v, text]) => (
          <label class="check" key={v}>
            <input
              type="radio"
              name="state"
              checked={state === v}
              onChange={() => {
                set(v);
                choice.state = v;
              }}
            />{" "}
            {text}
          </label>
        ))}
      </fieldset>
      {state !== "STATE_UNSPECIFIED" && (
        <label>
          For
          <select onChange={(e) => (choice.ttl = e.currentTarget.value)}>
            <Options
              of={[
                ["600s", "10 minutes"],
                ["30s", "30 seconds"],
                ["60s", "1 minute"],
                ["3600s", "1 hour"],
                ["86400s", "1 day"],
              ]}
            />
          </select>
        </label>
      )}
      <label class="check">
        <input type="checkbox" onChange={(e) => (choice.allMethods = e.currentTarget.checked)} /> all methods of{" "}
        {c.group}, not only {c.name}
      </label>
      <label class="check">
        <input type="checkbox" onChange={(e) => (choice.allCallers = e.currentTarget.checked)} /> all callers, not only{" "}
        {caller}
      </label>
    </>
  );
}
