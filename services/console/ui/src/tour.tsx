// Try it: six failures. Each is caused by public APIs and undone.
import { computed, signal } from "@preact/signals";
import type { ComponentChildren } from "preact";
import { useState } from "preact/hooks";
import { Problem, post } from "./api.ts";
import { circuitState, figure, loadOf, plural, rate, span, summary } from "./format.ts";
import { board, fails, fleet, loadUnknown, now, parts, readOnly, settingsLock, tables, traffic } from "./live.ts";
import { publishRoutes } from "./routes.tsx";
import { Progress } from "./settings.tsx";
import type { Applied, Figures, Route } from "./types.ts";
import { Alert, At, act, Badge, condition, Empty, Events, Link, Needs, Note, Sign, type Tone } from "./ui.tsx";

// started has the steps that were started. It outlives a reload of the page, so that a step can be undone.
type Started = { at: number; ends?: number; before?: string | null; result?: string };
const started = signal<Record<string, Started>>(JSON.parse(sessionStorage.getItem("bijou.tour") ?? "{}"));
started.subscribe((b) => sessionStorage.setItem("bijou.tour", JSON.stringify(b)));
const setStarted = (id: string, b: Omit<Started, "at">) =>
  (started.value = { ...started.value, [id]: { at: Date.now(), ...b } });
const setEnded = (id: string) =>
  (started.value = Object.fromEntries(Object.entries(started.value).filter(([k]) => k !== id)));

const override = (name: string, app: string, value: string, seconds: number) => ({
  name,
  scope: { layer: "LAYER_OVERRIDE", app },
  value,
  ttl: `${seconds}s`,
});
const remove = (name: string, app: string) => ({ name, scope: { layer: "LAYER_OVERRIDE", app }, remove: true });
const moreVisitors = override("audience.rate", "audience", "8", 120);

type Step = {
  id: string;
  title: string;
  will: ComponentChildren;
  how: string;
  writes: boolean; // it publishes settings
  verb: string;
  run: (author: string, reason: string) => Promise<void>;
  watch: () => ComponentChildren;
  // undo ends the step. It is a sentence if the step ends by itself.
  undo: string | { verb: string; run: (author: string, reason: string) => Promise<unknown> };
};

const killTarget = computed(
  () => fleet.value?.instances.find((i) => i.service === "catalog" && i.status === "UP")?.id ?? "catalog-a-1",
);

const steps: Step[] = [
  {
    id: "kill",
    title: "Kill an instance",
    will:
      "One instance of catalog ends like a crash: without a drain, and its open calls fail. Its callers retry at " +
      "another instance what is safe to retry, and eject the killed instance. Users see no error. After 20 seconds " +
      "the instance starts again, and gets a growing share of the calls (slow start).",
    how: "POST /kill on the admin port of the instance, which the local stack allows.",
    writes: false,
    verb: "Kill it",
    run: async (author, reason) => {
      await post("/api/kill", { service: "catalog", id: killTarget.value, for: "20s", author, reason });
      setStarted("kill", { ends: Date.now() + 20000, before: killTarget.value });
    },
    watch: () => (
      <>
        <Instances of="catalog" />
        <Calls
          pairs={[
            ["INTERNET", "gateway"],
            ["web", "catalog"],
          ]}
        />
      </>
    ),
    undo: "Nothing to undo: the supervisor starts the process again, 20 seconds after the kill.",
  },
  {
    id: "slow",
    title: "Slow a service",
    will:
      "Every call to ratings takes 200 ms longer, for at most two minutes. The services that call ratings become " +
      "slower. Nothing fails: the timeouts of the callers are longer than that.",
    how: "An override of the setting fault.latency of ratings with a time to live, and an override for more visitors.",
    writes: true,
    verb: "Slow it down",
    run: async (author, reason) => {
      await post("/api/config/Publish", {
        changes: [override("fault.latency", "ratings", "200ms", 120), moreVisitors],
        author,
        reason,
      });
      setStarted("slow", { ends: Date.now() + 120000 });
    },
    watch: () => (
      <>
        <Calls
          pairs={[
            ["web", "ratings"],
            ["recommendations", "ratings"],
            ["gateway", "web"],
          ]}
        />
        <p class="links">
          <Link href="/traces?service=ratings&min=200">Slow traces through ratings</Link>
        </p>
        <p class="muted">All figures cover the last 10 s: p99 rises at once, p50 when half of the calls were slow.</p>
      </>
    ),
    undo: {
      verb: "Remove the delay",
      run: (author, reason) =>
        post("/api/config/Publish", {
          changes: [remove("fault.latency", "ratings"), remove("audience.rate", "audience")],
          author,
          reason,
        }),
    },
  },
  {
    id: "break",
    title: "Break recommendations",
    will:
      "Every call to recommendations fails, for at most two minutes. Within a few seconds the circuits of its " +
      "callers open: they stop calling it, and answer with popular titles instead. The home page stays complete.",
    how:
      "An override of the setting fault.errorPercent of recommendations with a time to live, and an override for " +
      "more visitors.",
    writes: true,
    verb: "Break it",
    run: async (author, reason) => {
      await post("/api/config/Publish", {
        changes: [override("fault.errorPercent", "recommendations", "100", 120), moreVisitors],
        author,
        reason,
      });
      setStarted("break", { ends: Date.now() + 120000 });
    },
    watch: () => (
      <>
        <Circuits group="recommendations" />
        <Calls
          pairs={[
            ["INTERNET", "gateway"],
            ["web", "recommendations"],
          ]}
        />
      </>
    ),
    undo: {
      verb: "Remove the errors",
      run: (author, reason) =>
        post("/api/config/Publish", {
          changes: [remove("fault.errorPercent", "recommendations"), remove("audience.rate", "audience")],
          author,
          reason,
        }),
    },
  },
  {
    id: "setting",
    title: "Publish a bad setting",
    will:
      'The number of films in a row of the home page is set to "many". The service that owns the setting has ' +
      "declared a number with bounds. So the publication is refused, with the field and the reason, and no instance " +
      "gets the value.",
    how: "The same API as for every change of a setting.",
    writes: true,
    verb: "Publish it",
    run: async (author, reason) => {
      try {
        await post("/api/config/Publish", {
          changes: [{ name: "web.home.row", scope: { layer: "LAYER_APP", app: "web" }, value: "many" }],
          author,
          reason,
        });
        throw new Problem(0, "the value was accepted, which is a defect");
      } catch (e) {
        if (!(e instanceof Problem) || e.status !== 400) throw e;
        setStarted("setting", { result: e.sentence });
      }
    },
    watch: () => (
      <>
        {started.value.setting?.result && <Note tone="ok">Refused, as expected: {started.value.setting.result}</Note>}
        <Progress />
        <p class="links">
          <Link href="/settings/web.home.row?app=web">The setting, with its bounds</Link>
          <Link href="/settings/history">The history, which does not have it</Link>
        </p>
      </>
    ),
    undo: "Nothing to undo: nothing was changed.",
  },
  {
    id: "shift",
    title: "Shift 10 % to a new version",
    will:
      "hello runs in two versions, and the gateways send all requests to v1. After this step every tenth request " +
      "goes to v2. All gateways replace their routes at once. Pending requests end by the old routes.",
    how: "A publication of the setting gateway.routes, as the sliders of the view Routes do it.",
    writes: true,
    verb: "Shift 10 %",
    run: async (author, reason) => {
      const routes = Object.values(tables.value ?? {})[0]?.routes;
      if (!routes?.some(splitsHello)) throw new Problem(0, "there is no route to both versions of hello");
      const next = routes.map(({ headerTimeout: _a, totalTimeout: _b, bodyLimit: _c, ...r }: Route) =>
        splitsHello(r as Route) ? { ...r, to: r.to.map((t) => ({ ...t, weight: t.version === "v2" ? 10 : 90 })) } : r,
      ) as Route[];
      const published: { applied: Applied[] } = await publishRoutes(next, author, reason);
      setStarted("shift", { before: published.applied[0]?.before ?? null });
    },
    watch: () => <Shift />,
    undo: {
      verb: "All back to v1",
      run: (author, reason) => {
        const scope = { layer: "LAYER_APP", app: "gateway" };
        const before = started.value.shift?.before;
        return post("/api/config/Publish", {
          changes: [
            before ? { name: "gateway.routes", scope, value: before } : { name: "gateway.routes", scope, remove: true },
          ],
          author,
          reason,
        });
      },
    },
  },
  {
    id: "registry",
    title: "Stop the registry",
    will:
      "Every replica of the registry ends and stays down for 20 seconds. No instance can register or find others. " +
      "The product works: every process keeps the instances that it knows. When the registry is back, all instances " +
      "register again. None of them was evicted.",
    how: "POST /kill on the admin port of each replica.",
    writes: false,
    verb: "Stop it",
    run: async (author, reason) => {
      await post("/api/kill", { service: "discovery", id: "", for: "20s", author, reason });
      setStarted("registry", { ends: Date.now() + 20000 });
    },
    watch: () => (
      <>
        <p>
          The registry{" "}
          {fails("registry") ? (
            <>
              <Badge tone="bad">does not answer</Badge> since <At at={parts.value.registry.since} />
            </>
          ) : parts.value.registry?.ok ? (
            <Badge tone="ok">answers</Badge>
          ) : (
            <Badge tone="off">state unknown</Badge>
          )}
        </p>
        <Calls
          pairs={[
            ["INTERNET", "gateway"],
            ["gateway", "web"],
            ["web", "catalog"],
          ]}
        />
      </>
    ),
    undo: "Nothing to undo: the supervisor starts the process again, 20 seconds after the kill.",
  },
];
const splitsHello = (r: Route) =>
  r.to.some((t) => t.service === "hello" && t.version === "v2") &&
  r.to.some((t) => t.service === "hello" && t.version === "v1");

export function TourView({ rest }: { rest: string }) {
  const i = Math.max(
    0,
    steps.findIndex((s) => s.id === rest),
  );
  const step = steps[i];
  return (
    <>
      <header class="view">
        <h1>Try it</h1>
        <p class="muted">
          Six failures, in any order. Each is caused by public APIs, is logged with your name, and is undone.
        </p>
      </header>
      <nav class="steps" aria-label="Steps of the tour">
        <ol>
          {steps.map((s) => (
            <li key={s.id}>
              <Link href={`/try/${s.id}`} current={s.id === step.id}>
                {started.value[s.id] ? <Sign tone="info" /> : <Sign tone="off" />} {s.title}
                {started.value[s.id] && <span class="hidden"> (started)</span>}
              </Link>
            </li>
          ))}
        </ol>
      </nav>
      <StepCard key={step.id} step={step} next={steps[i + 1]} />
    </>
  );
}

function StepCard({ step, next }: { step: Step; next?: Step }) {
  const b = started.value[step.id];
  const left = b?.ends ? b.ends - now.value : undefined;
  const undo = step.undo;
  // Killing a process needs no store.
  const locked = step.writes ? settingsLock.value !== "" : readOnly.value;
  return (
    <div class="split">
      <article class="step" aria-label={step.title}>
        <h2>{step.title}</h2>
        <h3>What will happen</h3>
        <p>{step.will}</p>
        <p class="muted">How: {step.how}</p>
        {step.writes && <Needs of={["settings", "settingsStore"]} />}
        {readOnly.value && <Alert>{settingsLock.value} The steps can be read and not started.</Alert>}
        <div class="buttons">
          <button
            type="button"
            class="primary"
            disabled={locked}
            onClick={() =>
              act({
                title: step.title,
                text: step.how,
                verb: step.verb,
                reason: `tour: ${step.title.toLowerCase()}`,
                run: step.run,
              })
            }
          >
            {b ? `${step.verb} again` : step.verb}
          </button>
          {typeof undo !== "string" && (
            <button
              type="button"
              disabled={locked || !b}
              onClick={() =>
                act({
                  title: `Undo: ${step.title.toLowerCase()}`,
                  text: "Restores the values from before the step.",
                  verb: undo.verb,
                  reason: `tour: undo ${step.title.toLowerCase()}`,
                  run: async (a, r) => {
                    await ignoreMissing(undo.run(a, r));
                    setEnded(step.id);
                  },
                })
              }
            >
              {undo.verb}
            </button>
          )}
        </div>
        {locked && !readOnly.value && (
          <p class="muted">The buttons are disabled because this step changes settings. {settingsLock.value}</p>
        )}
        {b && (
          <Note>
            Started <At at={b.at} />.{" "}
            {left !== undefined && (left > 0 ? `It ends by itself in ${span(left)}. ` : "It has ended. ")}
            {typeof undo === "string" && undo}
          </Note>
        )}
        <h3>What to watch</h3>
        {step.watch()}
        <p class="links">
          <Link href="/map">The map</Link>
          {next && <Link href={`/try/${next.id}`}>Next: {next.title}</Link>}
        </p>
      </article>
      <aside>
        <Events limit={12} />
      </aside>
    </div>
  );
}

// ignoreMissing ignores that the overrides to remove have ended by themselves.
async function ignoreMissing(undoing: Promise<unknown>) {
  try {
    await undoing;
  } catch (e) {
    if (!(e instanceof Problem) || !/no value|nothing|not set|does not have|not there/i.test(e.sentence)) throw e;
  }
}

function Instances({ of }: { of: string }) {
  const list = (fleet.value?.instances ?? []).filter((i) => i.service === of);
  if (list.length === 0)
    return (
      <Empty>
        {!fleet.value || fleet.value.lastKnown
          ? `The instances of ${of} are not known.`
          : `No instance of ${of} is registered.`}
      </Empty>
    );
  return (
    <ul class="plain">
      {list.map((i) => {
        const c = condition(i);
        return (
          <li key={i.id}>
            <Badge tone={c.tone}>{c.word}</Badge> <Link href={`/services/${i.service}/${i.id}`}>{i.id}</Link>{" "}
            <span class="muted">
              {i.admin?.ok && i.started ? `up for ${span(now.value - Date.parse(i.started))}` : c.why}
              {(i.figures || i.measuring) && `, ${figure(i, (f) => rate(f.callsPerSecond))}`}
            </span>
          </li>
        );
      })}
    </ul>
  );
}

const toneOf = (f?: Figures): Tone => (!f ? "off" : f.errorPercent >= 5 ? "bad" : f.errorPercent ? "warn" : "ok");

function Calls({ pairs }: { pairs: [string, string][] }) {
  return (
    <ul class="plain">
      {pairs.map(([from, to]) => {
        const e = traffic.value?.edges.find((e) => e.from === from && e.to === to);
        return (
          <li key={from + to}>
            <Sign tone={toneOf(e?.figures)} />{" "}
            <Link href={`/map?edge=${from}~${to}`}>
              {from === "INTERNET" ? "internet" : from} to {to}
            </Link>
            : {summary(e ?? {}, loadUnknown("no calls yet"))}
            {e?.figures?.fallbacksPerSecond ? `, ${rate(e.figures.fallbacksPerSecond)} answered by a fallback` : ""}
          </li>
        );
      })}
    </ul>
  );
}

function Circuits({ group }: { group: string }) {
  const list = (board.value?.services ?? []).flatMap((s) =>
    s.circuits.filter((c) => c.group === group).map((c) => ({ s: s.service, c })),
  );
  if (list.length === 0)
    return (
      <Empty>
        {board.value
          ? `There is no circuit for ${group} yet. It appears with the first call.`
          : `The circuits for ${group} are not known.`}
      </Empty>
    );
  return (
    <ul class="plain">
      {list.map(({ s, c }) => (
        <li key={s + c.name}>
          <Badge tone={c.state === "STATE_CLOSED" ? "ok" : c.state === "STATE_HALF_OPEN" ? "warn" : "bad"}>
            {circuitState(c.state)}
          </Badge>{" "}
          <Link href={`/circuits?q=${c.name}`}>
            {s} to {c.name}
          </Link>{" "}
          <span class="muted">
            {summary(loadOf(c), "")}
            {c.reason && `: ${c.reason}`}
          </span>
        </li>
      ))}
    </ul>
  );
}

// Shift shows the split, and sends requests that show its effect.
function Shift() {
  const [answer, set] = useState<{ texts: Record<string, number>; statuses: Record<string, number> } | undefined>(
    undefined,
  );
  const [problem, setProblem] = useState("");
  const [waiting, setWaiting] = useState(false);
  const route = Object.values(tables.value ?? {})[0]?.routes.find(splitsHello);
  const send = async () => {
    setWaiting(true);
    setProblem("");
    try {
      set(await post("/api/requests", { path: "/hello", count: 100, author: "tour", reason: "show the split" }));
    } catch (e) {
      setProblem(e instanceof Problem ? e.sentence : String(e));
    }
    setWaiting(false);
  };
  return (
    <>
      {route ? (
        <p>
          The routes now: {route.to.map((t) => `${t.version} has weight ${t.weight ?? 0}`).join(", ")}.{" "}
          <Link href="/routes">Routes</Link>
        </p>
      ) : (
        <Empty>The gateways have no route to both versions of hello.</Empty>
      )}
      <Progress />
      <button type="button" disabled={readOnly.value || waiting} onClick={send}>
        {waiting ? "Sending 100 requests" : "Send 100 requests through the gateways"}
      </button>
      <div aria-live="polite">
        {problem && <Alert>{problem}</Alert>}
        {answer && (
          <p>
            {plural(
              Object.values(answer.statuses).reduce((a, b) => a + b, 0),
              "answer",
            )}
            :{" "}
            {Object.entries(answer.texts)
              .sort()
              .map(([text, n]) => `${n} from ${text}`)
              .join(", ")}
            {Object.entries(answer.statuses)
              .filter(([s]) => s !== "200")
              .map(([s, n]) => `, ${n} with ${s}`)}
            .
          </p>
        )}
      </div>
    </>
  );
}
