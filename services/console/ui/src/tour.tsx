// Try it: six failures, each through public APIs, each undone.
import { computed, signal } from "@preact/signals";
import type { ComponentChildren } from "preact";
import { useState } from "preact/hooks";
import { Problem, post } from "./api.ts";
import { circuitState, figure, loadOf, plural, rate, span, summary } from "./format.ts";
import { board, fleet, now, parts, readOnly, settings, tables, traffic } from "./live.ts";
import { publishRoutes } from "./routes.tsx";
import { Progress } from "./settings.tsx";
import type { Applied, Figures, Route } from "./types.ts";
import { At, act, Badge, condition, Empty, Events, Link, Needs, Note, Sign, type Tone, Trouble } from "./ui.tsx";

// Memory of what was begun, kept over reloads of the page, so that it can be undone.
type Begun = { at: number; ends?: number; before?: string | null; result?: string };
const begun = signal<Record<string, Begun>>(JSON.parse(sessionStorage.getItem("bijou.tour") ?? "{}"));
begun.subscribe((b) => sessionStorage.setItem("bijou.tour", JSON.stringify(b)));
const begin = (id: string, b: Omit<Begun, "at">) => (begun.value = { ...begun.value, [id]: { at: Date.now(), ...b } });
const end = (id: string) => (begun.value = Object.fromEntries(Object.entries(begun.value).filter(([k]) => k !== id)));

const override = (name: string, app: string, value: string, seconds: number) => ({
  name,
  scope: { layer: "LAYER_OVERRIDE", app },
  value,
  ttl: `${seconds}s`,
});
const remove = (name: string, app: string) => ({ name, scope: { layer: "LAYER_OVERRIDE", app }, remove: true });
const busy = override("audience.rate", "audience", "8", 120);

type Step = {
  id: string;
  title: string;
  will: ComponentChildren;
  how: string;
  verb: string;
  run: (author: string, reason: string) => Promise<void>;
  watch: () => ComponentChildren;
  // undo is how it ends; a sentence if it ends by itself.
  undo: string | { verb: string; run: (author: string, reason: string) => Promise<unknown> };
};

const victim = computed(
  () => fleet.value?.instances.find((i) => i.service === "catalog" && i.status === "UP")?.id ?? "catalog-a-1",
);

const steps: Step[] = [
  {
    id: "kill",
    title: "Kill an instance",
    will: "One of the instances of the catalog ends like a crash: no goodbye, open calls cut off. Its callers repeat at another instance what is safe to repeat, and leave it out. Nobody at the edge sees an error. After 20 seconds it comes back and is trusted again, slowly.",
    how: "POST /kill on the instance's own admin page, which the local stack allows.",
    verb: "Kill it",
    run: async (author, reason) => {
      await post("/api/kill", { service: "catalog", id: victim.value, for: "20s", author, reason });
      begin("kill", { ends: Date.now() + 20000, before: victim.value });
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
    undo: "Nothing to undo: its supervisor starts it again, and it comes back 20 seconds after the kill.",
  },
  {
    id: "slow",
    title: "Slow a service",
    will: "Every call to ratings takes 200 ms longer, for two minutes at the most. Everything that waits for ratings gets slower, and you can see who that is. Nothing fails: its callers wait longer than that.",
    how: "An override of the setting fault.latency of ratings, with a time to live, and more visitors so that there is something to see.",
    verb: "Slow it down",
    run: async (author, reason) => {
      await post("/api/config/Publish", {
        changes: [override("fault.latency", "ratings", "200ms", 120), busy],
        author,
        reason,
      });
      begin("slow", { ends: Date.now() + 120000 });
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
        <p class="muted">
          All figures are of the last 10 s: p99 shows it at once, p50 when half of the calls were slow.
        </p>
      </>
    ),
    undo: {
      verb: "Take the rule away",
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
    will: "Every call to recommendations fails, for two minutes at the most. Within a few seconds the circuits in front of it open: its callers stop asking, and answer with popular titles instead. The home page stays whole.",
    how: "An override of the setting fault.errorPercent of recommendations, with a time to live, and more visitors.",
    verb: "Break it",
    run: async (author, reason) => {
      await post("/api/config/Publish", {
        changes: [override("fault.errorPercent", "recommendations", "100", 120), busy],
        author,
        reason,
      });
      begin("break", { ends: Date.now() + 120000 });
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
      verb: "Mend it",
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
    will: 'The number of films in a row of the home page shall become "many". The service that owns the setting has declared that it is a number with bounds, so the whole publication is refused, with the field and the reason, and nobody sees anything of it.',
    how: "The same API that every change of a setting goes through.",
    verb: "Publish it",
    run: async (author, reason) => {
      try {
        await post("/api/config/Publish", {
          changes: [{ name: "web.home.row", scope: { layer: "LAYER_APP", app: "web" }, value: "many" }],
          author,
          reason,
        });
        throw new Problem(0, "it was accepted, which is a defect");
      } catch (e) {
        if (!(e instanceof Problem) || e.status !== 400) throw e;
        begin("setting", { result: e.sentence });
      }
    },
    watch: () => (
      <>
        {begun.value.setting?.result && <Note tone="ok">Refused, as it should be: {begun.value.setting.result}</Note>}
        <Progress />
        <p class="links">
          <Link href="/settings/web.home.row?app=web">The setting, with its bounds</Link>
          <Link href="/settings/history">The history, where it is missing</Link>
        </p>
      </>
    ),
    undo: "Nothing to undo: nothing was changed.",
  },
  {
    id: "shift",
    title: "Shift 10 % to a new version",
    will: "hello runs in two versions, and the edge sends everything to v1. Now every tenth request shall go to v2. All gateways swap the new table in at once; requests under way finish by the old one.",
    how: "A publication of the setting gateway.routes, as the sliders of the Routes view do it.",
    verb: "Shift 10 %",
    run: async (author, reason) => {
      const routes = Object.values(tables.value ?? {})[0]?.routes;
      if (!routes?.some(splitsHello)) throw new Problem(0, "there is no route to both versions of hello");
      const next = routes.map(({ headerTimeout: _a, totalTimeout: _b, bodyLimit: _c, ...r }: Route) =>
        splitsHello(r as Route) ? { ...r, to: r.to.map((t) => ({ ...t, weight: t.version === "v2" ? 10 : 90 })) } : r,
      ) as Route[];
      const done: { applied: Applied[] } = await publishRoutes(next, author, reason);
      begin("shift", { before: done.applied[0]?.before ?? null });
    },
    watch: () => <Shift />,
    undo: {
      verb: "All back to v1",
      run: (author, reason) => {
        const scope = { layer: "LAYER_APP", app: "gateway" };
        const before = begun.value.shift?.before;
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
    will: "Every replica of the registry ends, and stays down for 20 seconds. Nobody can register or look anybody up. The product goes on: every process knows the others, and keeps what it knows. When the registry is back, everybody registers again, and nobody was taken for dead meanwhile.",
    how: "POST /kill on the admin page of each replica.",
    verb: "Stop it",
    run: async (author, reason) => {
      await post("/api/kill", { service: "discovery", id: "", for: "20s", author, reason });
      begin("registry", { ends: Date.now() + 20000 });
    },
    watch: () => (
      <>
        <p>
          The registry{" "}
          {parts.value.registry?.ok === false ? (
            <>
              <Badge tone="bad">does not answer</Badge> since <At at={parts.value.registry.since} />
            </>
          ) : (
            <Badge tone="ok">answers</Badge>
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
    undo: "Nothing to undo: its supervisor starts it again, and it comes back 20 seconds after the kill.",
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
          Six failures, in any order. Each is made by public APIs, is written down with your name, and is undone.
        </p>
      </header>
      <nav class="steps" aria-label="Steps of the tour">
        <ol>
          {steps.map((s) => (
            <li key={s.id}>
              <Link href={`/try/${s.id}`} current={s.id === step.id}>
                {begun.value[s.id] ? <Sign tone="info" /> : <Sign tone="off" />} {s.title}
                {begun.value[s.id] && <span class="hidden"> (begun)</span>}
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
  const b = begun.value[step.id];
  const left = b?.ends ? b.ends - now.value : undefined;
  const undo = step.undo;
  return (
    <div class="split">
      <article class="step" aria-label={step.title}>
        <h2>{step.title}</h2>
        <h3>What will happen</h3>
        <p>{step.will}</p>
        <p class="muted">How: {step.how}</p>
        <Needs of={["settingsStore"]} />
        {readOnly.value && <Trouble>This console is read-only, so the tour can be read but not taken.</Trouble>}
        <div class="buttons">
          <button
            type="button"
            class="primary"
            disabled={readOnly.value}
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
              disabled={readOnly.value || !b}
              onClick={() =>
                act({
                  title: `Undo: ${step.title.toLowerCase()}`,
                  text: "Brings back what was there before.",
                  verb: undo.verb,
                  reason: `tour: undo ${step.title.toLowerCase()}`,
                  run: async (a, r) => {
                    await ended(undo.run(a, r));
                    end(step.id);
                  },
                })
              }
            >
              {undo.verb}
            </button>
          )}
        </div>
        {b && (
          <Note>
            Done <At at={b.at} />.{" "}
            {left !== undefined && (left > 0 ? `It ends by itself in ${span(left)}. ` : "Its time is over. ")}
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

// ended takes it for done when the overrides have ended by themselves meanwhile.
async function ended(undoing: Promise<unknown>) {
  try {
    await undoing;
  } catch (e) {
    if (!(e instanceof Problem) || !/no value|nothing|not set|does not have|not there/i.test(e.sentence)) throw e;
  }
}

function Instances({ of }: { of: string }) {
  const list = (fleet.value?.instances ?? []).filter((i) => i.service === of);
  if (list.length === 0) return <Empty>No instance of {of} is registered.</Empty>;
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
            : {summary(e ?? {}, "no calls yet")}
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
  if (list.length === 0) return <Empty>No circuit before {group} yet: it appears with the first call.</Empty>;
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

// Shift shows the split, and sends requests to see it.
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
      set(await post("/api/requests", { path: "/hello", count: 100, author: "tour", reason: "see the split" }));
    } catch (e) {
      setProblem(e instanceof Problem ? e.sentence : String(e));
    }
    setWaiting(false);
  };
  return (
    <>
      {route ? (
        <p>
          The edge's table now: {route.to.map((t) => `${t.version} has weight ${t.weight ?? 0}`).join(", ")}.{" "}
          <Link href="/routes">Routes</Link>
        </p>
      ) : (
        <Empty>The edge has no route to both versions of hello.</Empty>
      )}
      <Progress />
      <button type="button" disabled={readOnly.value || waiting} onClick={send}>
        {waiting ? "Sending 100 requests, one moment" : "Send 100 requests through the edge"}
      </button>
      <div aria-live="polite">
        {problem && <Trouble>{problem}</Trouble>}
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
            . {settings.value && ""}
          </p>
        )}
      </div>
    </>
  );
}
