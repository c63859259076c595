// Settings: declared settings, which value wins and why, and the form that changes one.
import { useEffect, useState } from "preact/hooks";
import { Problem, post } from "./api.ts";
import { layerName, plural, typeName } from "./format.ts";
import { fleet, settings, settingsLocked } from "./live.ts";
import type { Applied, Candidate, Identity, Instance, Listed, Property, Revision, Scope, Value } from "./types.ts";
import {
  Ago,
  Alert,
  At,
  act,
  Badge,
  Empty,
  go,
  Link,
  Needs,
  Note,
  Options,
  query,
  Sign,
  setQuery,
  Table,
  useAnswer,
  useDebounced,
} from "./ui.tsx";

const emptyIdentity: Identity = { app: "", instance: "", environment: "", region: "", zone: "", version: "" };
const identityOf = (i: Instance): Identity => ({
  app: i.service,
  instance: i.id,
  environment: i.environment ?? "",
  region: i.region ?? "",
  zone: i.zone,
  version: i.version,
});
const revisionNow = () => settings.value?.newest?.revision ?? settings.value?.status.revision ?? "";

export function SettingsView({ rest }: { rest: string }) {
  const history = rest === "history";
  return (
    <>
      <header class="view">
        <h1>
          {rest ? <Link href="/settings">Settings</Link> : "Settings"}
          {rest && ` / ${history ? "history" : decodeURIComponent(rest)}`}
        </h1>
        <p class="links">
          <Link href="/settings" current={!rest}>
            Declared
          </Link>
          <Link href="/settings/history" current={history}>
            History
          </Link>
        </p>
        <Progress />
      </header>
      <Needs of={["settings", "settingsStore"]} />
      {history ? <History /> : rest ? <Setting name={decodeURIComponent(rest)} /> : <Search />}
    </>
  );
}

// Progress says how many instances run the newest revision, and which do not.
export function Progress() {
  const s = settings.value?.status;
  if (!s) return <p class="muted">Asking which instance runs which revision.</p>;
  const behind = s.instances.filter((i) => Number(i.revision) < Number(s.revision));
  const refused = s.instances.filter((i) => i.rejections.length > 0);
  return (
    <div class="progress">
      <label>
        <progress max={Math.max(1, s.total)} value={s.current} aria-label="Instances on the newest revision" />{" "}
        {s.current} of {plural(s.total, "instance")} on revision {s.revision}
      </label>
      {behind.length > 0 && (
        <span class="why">
          <Sign tone="warn" /> not yet:{" "}
          {behind.map((i) => `${i.identity.instance} (${i.cutOff ? "disconnected" : i.revision})`).join(", ")}
        </span>
      )}
      {refused.length > 0 && (
        <span class="why">
          <Sign tone="bad" /> refused a value: {refused.map((i) => i.identity.instance).join(", ")}
        </span>
      )}
      {s.unreachable?.length > 0 && (
        <span class="why">
          <Sign tone="warn" /> replicas that do not answer, whose instances count as disconnected:{" "}
          {s.unreachable.join(", ")}
        </span>
      )}
      {s.registryProblem && (
        <span class="why">
          <Sign tone="warn" /> other instances are unknown: {s.registryProblem}
        </span>
      )}
    </div>
  );
}

const apps = () => [...new Set((fleet.value?.instances ?? []).map((i) => i.service))];

function Search() {
  const q = query("q").toLowerCase();
  const app = query("app");
  const set = query("set") === "1";
  const { answer, problem, waiting } = useAnswer<{ properties: Listed[] }>(`${app}@${revisionNow()}`, (s) =>
    post("/api/config/List", { app }, s),
  );
  const who = fleet.value?.instances.find((i) => i.id === query("instance"));
  const ofInstance = useAnswer<{ values: Value[] } | undefined>(`${who?.id}@${revisionNow()}`, async (s) =>
    who ? post("/api/config/Get", { identity: identityOf(who) }, s) : undefined,
  ).answer;
  const values = new Map(ofInstance?.values.map((v) => [v.name, v]));
  const list = (answer?.properties ?? []).filter(
    (p) =>
      (!set || p.values.length > 0) &&
      (!q ||
        `${p.property.name} ${p.property.doc} ${p.values.map((v) => `${v.name} ${v.value}`)}`
          .toLowerCase()
          .includes(q)),
  );
  return (
    <>
      <div class="filters">
        <label>
          Find{" "}
          <input
            type="search"
            value={query("q")}
            placeholder="name, value or words of its description"
            onInput={(e) => setQuery({ q: e.currentTarget.value })}
          />
        </label>
        <label>
          Service{" "}
          <select value={app} onChange={(e) => setQuery({ app: e.currentTarget.value })}>
            <option value="">all</option>
            {apps().map((a) => (
              <option key={a}>{a}</option>
            ))}
          </select>
        </label>
        <label class="check">
          <input
            type="checkbox"
            checked={set}
            onChange={(e) => setQuery({ set: e.currentTarget.checked ? "1" : "" })}
          />{" "}
          only those with a value
        </label>
        {answer && <span class="muted">{plural(list.length, "setting")}</span>}
      </div>
      {problem && <Alert>The settings cannot be listed: {problem.sentence}</Alert>}
      {!answer ? (
        waiting && <Empty>Reading the declared settings.</Empty>
      ) : list.length === 0 ? (
        <Empty>
          {q || set || app ? "No setting matches. Remove a filter." : "No service has declared a setting yet."}
        </Empty>
      ) : (
        <Table
          label="Declared settings"
          head={["Setting", "Type", "Default", "Values", who ? `Value of ${who.id}` : "Declared by"]}
          class="settings"
        >
          {list.map((p) => (
            <tr key={p.property.name}>
              <td class="text">
                <Link href={`/settings/${encodeURIComponent(p.property.name)}${app ? `?app=${app}` : ""}`}>
                  <Name text={p.property.name} />
                </Link>
                <div class="why">{p.property.doc || "No service declares it any more."}</div>
              </td>
              <td class="text">
                {typeName(p.property.type)}
                {bounds(p.property)}
              </td>
              <td class="mono cut">{shown(p.property.defaultValue)}</td>
              <td class="text">
                {p.values.length === 0 ? (
                  <span class="muted">default</span>
                ) : (
                  p.values.map((v) => (
                    <div key={v.name + scopeText(v.scope)}>
                      <span class="mono">
                        {v.name !== p.property.name && `${v.name} = `}
                        {shown(v.value)}
                      </span>{" "}
                      <span class="muted">
                        {scopeText(v.scope)}
                        {v.expires && `, until ${new Date(v.expires).toLocaleTimeString()}`}
                      </span>
                    </div>
                  ))
                )}
              </td>
              {who ? (
                <td class="text">
                  <span class="mono">{shown(values.get(p.property.name)?.value ?? p.property.defaultValue)}</span>{" "}
                  <span class="muted">{layerName(values.get(p.property.name)?.layer ?? "LAYER_DEFAULT")}</span>
                </td>
              ) : (
                <td class="text muted">{p.apps.length > 3 ? plural(p.apps.length, "service") : p.apps.join(", ")}</td>
              )}
            </tr>
          ))}
        </Table>
      )}
    </>
  );
}

// Name breaks lines only after a dot.
const Name = ({ text }: { text: string }) => (
  <span class="mono">
    {text.split(".").map((part, i) => (
      <>
        {i > 0 && (
          <>
            .<wbr />
          </>
        )}
        {part}
      </>
    ))}
  </span>
);

const shown = (v: string) => (v === "" ? '""' : v.length > 60 ? `${v.slice(0, 57)}…` : v);
export function bounds(p: Property) {
  if (p.options?.length) return `: ${p.options.join(", ")}`;
  if (p.min || p.max) return ` ${p.min || "…"} to ${p.max || "…"}${p.unit ? ` ${p.unit}` : ""}`;
  return p.unit ? ` in ${p.unit}` : "";
}
function scopeText(s?: Scope) {
  if (!s) return "";
  const app = s.app || "every service";
  if (s.layer === "LAYER_APP") return app;
  return `${layerName(s.layer)}${s.selector ? ` ${s.selector}` : ""} of ${app}`;
}

// Setting shows one setting: its declaration, the value that wins, and the form that changes it. For a family such as
// circuit.*.x it asks for the member first.
function Setting({ name }: { name: string }) {
  const app = query("app");
  const instance = query("instance");
  const who = fleet.value?.instances.find((i) => i.id === instance);
  const identity = who ? identityOf(who) : { ...emptyIdentity, app };
  const { answer: listed } = useAnswer<{ properties: Listed[] }>(`${name}@${revisionNow()}`, (s) =>
    post("/api/config/List", { prefix: prefixOf(name) }, s),
  );
  const { answer, problem } = useAnswer<{ property?: Property; candidates: Candidate[] }>(
    `${name}|${app}|${instance}@${revisionNow()}`,
    (s) => post("/api/config/Explain", { name, identity }, s),
  );
  const found =
    listed?.properties.find((p) => p.property.name === name) ??
    listed?.properties.find((p) => matches(p.property.name, name));
  const property = answer?.property ?? found?.property;
  const [member, setMember] = useState("");
  if (name.includes("*") && property) {
    return (
      <>
        <Declaration p={property} apps={found?.apps ?? []} />
        <form
          class="filters"
          onSubmit={(e) => {
            e.preventDefault();
            go(`/settings/${encodeURIComponent(name.replace("*", member))}${url(app)}`);
          }}
        >
          <label>
            This is a family of settings. Member:{" "}
            <input
              required
              value={member}
              placeholder="catalog.GetMovie"
              onInput={(e) => setMember(e.currentTarget.value)}
              pattern="[A-Za-z0-9_:@.\-]+"
            />
          </label>
          <button type="submit">Open {name.replace("*", member || "…")}</button>
        </form>
      </>
    );
  }
  const declaredBy = found?.apps ?? [];
  return (
    <>
      {problem && <Alert>{problem.sentence}</Alert>}
      {property && <Declaration p={property} apps={declaredBy} />}
      <div class="filters">
        <label>
          Value of service{" "}
          <select value={app} onChange={(e) => setQuery({ app: e.currentTarget.value, instance: "" })}>
            <option value="">any</option>
            {(declaredBy.length ? declaredBy : apps()).map((a) => (
              <option key={a}>{a}</option>
            ))}
          </select>
        </label>
        <label>
          or of instance{" "}
          <select
            value={instance}
            onChange={(e) =>
              setQuery({
                instance: e.currentTarget.value,
                app: fleet.value?.instances.find((i) => i.id === e.currentTarget.value)?.service ?? app,
              })
            }
          >
            <option value="">none</option>
            {(fleet.value?.instances ?? [])
              .filter((i) => !app || i.service === app)
              .map((i) => (
                <option key={i.id}>{i.id}</option>
              ))}
          </select>
        </label>
      </div>
      <h2>Which value wins</h2>
      {!answer ? (
        !problem && <Empty>Asking which layer wins.</Empty>
      ) : (
        <Table label="Candidates, the winner first" head={["Result", "Value", "Layer", "By", "Why", "When"]}>
          {answer.candidates.map((c, i) => (
            <tr key={i} class={c.wins ? "wins" : ""}>
              <td>{c.wins ? <Badge tone="ok">wins</Badge> : <span class="muted">loses</span>}</td>
              <td class="mono text">{c.value.value || '""'}</td>
              <td>
                {c.value.layer === "LAYER_DEFAULT" ? "default, in the code" : scopeText(c.value.scope)}
                {c.value.expires && (
                  <span class="muted"> ends at {new Date(c.value.expires).toLocaleTimeString()}</span>
                )}
              </td>
              <td>{c.author || <span class="muted">the code</span>}</td>
              <td class="text">{c.reason}</td>
              <td>
                {c.time ? <Ago at={c.time} /> : ""}{" "}
                {Number(c.value.revision) > 0 && <span class="muted">revision {c.value.revision}</span>}
              </td>
            </tr>
          ))}
        </Table>
      )}
      {property && (
        <Edit key={name + app} name={name} property={property} app={app} candidates={answer?.candidates ?? []} />
      )}
      <h2>History</h2>
      <Revisions name={name} />
    </>
  );
}

const url = (app: string) => (app ? `?app=${app}` : "");
// prefixOf returns the first part of a name. A declaration that matches the name begins with it.
const prefixOf = (name: string) => name.split(".")[0];
const matches = (pattern: string, name: string) => {
  const [before, after] = pattern.split("*");
  return (
    after !== undefined && name.length > before.length + after.length && name.startsWith(before) && name.endsWith(after)
  );
};

const Declaration = ({ p, apps }: { p: Property; apps: string[] }) => (
  <>
    <p>{p.doc}</p>
    <dl class="facts">
      <dt>Type</dt>
      <dd>
        {typeName(p.type)}
        {bounds(p)}
      </dd>
      <dt>Default</dt>
      <dd class="mono">{p.defaultValue.length > 200 ? `${p.defaultValue.slice(0, 200)}…` : p.defaultValue || '""'}</dd>
      <dt>Declared by</dt>
      <dd class="links">
        {apps.length
          ? apps.map((a) => (
              <Link key={a} href={`/services/${a}`}>
                {a}
              </Link>
            ))
          : "no service"}
      </dd>
    </dl>
  </>
);

const layers = [
  "LAYER_APP",
  "LAYER_ENVIRONMENT",
  "LAYER_REGION",
  "LAYER_ZONE",
  "LAYER_VERSION",
  "LAYER_INSTANCE",
  "LAYER_OVERRIDE",
];

// Edit checks the value while the user types, by a dry run of the configuration service.
function Edit({
  name,
  property,
  app,
  candidates,
}: {
  name: string;
  property: Property;
  app: string;
  candidates: Candidate[];
}) {
  const [scope, setScope] = useState<Scope>({ layer: "LAYER_APP", app, selector: "" });
  const [ttl, setTtl] = useState("600s");
  const current = candidates.find(
    (c) =>
      c.value.scope &&
      c.value.scope.layer === scope.layer &&
      c.value.scope.app === scope.app &&
      c.value.scope.selector === scope.selector,
  );
  const [text, setText] = useState<string | undefined>(undefined);
  const value = text ?? current?.value.value ?? candidates.find((c) => c.wins)?.value.value ?? property.defaultValue;
  const change = (remove = false) => ({
    name,
    scope,
    ...(remove ? { remove } : { value }),
    ...(scope.layer === "LAYER_OVERRIDE" && !remove ? { ttl: ttl || undefined } : {}),
  });
  const debounced = useDebounced(JSON.stringify({ changes: [change()] }), 200);
  const [check, setCheck] = useState<{ body: string; applied?: Applied[]; problem?: Problem }>({ body: "" });
  useEffect(() => {
    if (text === undefined) return;
    const stop = new AbortController();
    post(
      "/api/config/Publish",
      { ...JSON.parse(debounced), dryRun: true, author: "console", reason: "check while the user types" },
      stop.signal,
    ).then(
      (a) => setCheck({ body: debounced, applied: a.applied }),
      (problem) => problem.name !== "AbortError" && setCheck({ body: debounced, problem }),
    );
    return () => stop.abort();
  }, [debounced, text === undefined, settingsLocked.value]);
  const fresh = check.body === JSON.stringify({ changes: [change()] });
  const selectors = [
    ...new Set(
      (fleet.value?.instances ?? [])
        .filter((i) => !scope.app || i.service === scope.app)
        .map(
          (i) =>
            ({
              LAYER_ZONE: i.zone,
              LAYER_VERSION: i.version,
              LAYER_INSTANCE: i.id,
              LAYER_REGION: i.region,
              LAYER_ENVIRONMENT: i.environment,
            })[scope.layer] ?? "",
        ),
    ),
  ].filter(Boolean);
  const needsSelector = !["LAYER_APP", "LAYER_OVERRIDE"].includes(scope.layer);
  const publish = (remove: boolean) =>
    act({
      title: remove ? `Remove the value of ${name}` : `Set ${name}`,
      text: (
        <>
          <p>In {scopeText(scope)}:</p>
          <Diff before={current?.value.value} after={remove ? undefined : value} />
        </>
      ),
      verb: "Publish",
      run: async (author, reason) => {
        await post("/api/config/Publish", { changes: [change(remove)], author, reason });
        setText(undefined);
      },
    });
  return (
    <form
      class="edit"
      onSubmit={(e) => {
        e.preventDefault();
        publish(false);
      }}
    >
      <h2>Change it</h2>
      <div class="filters">
        <label>
          Layer{" "}
          <select
            value={scope.layer}
            onChange={(e) => setScope({ ...scope, layer: e.currentTarget.value, selector: "" })}
          >
            <Options of={layers.map((l) => [l, l === "LAYER_APP" ? "service" : layerName(l)])} />
          </select>
        </label>
        {needsSelector && (
          <label>
            {layerName(scope.layer)}{" "}
            <input
              required
              list="selectors"
              value={scope.selector}
              onInput={(e) => setScope({ ...scope, selector: e.currentTarget.value })}
            />
            <datalist id="selectors">
              {selectors.map((s) => (
                <option key={s} value={s} />
              ))}
            </datalist>
          </label>
        )}
        <label>
          for{" "}
          <select value={scope.app} onChange={(e) => setScope({ ...scope, app: e.currentTarget.value })}>
            <option value="">every service</option>
            {apps().map((a) => (
              <option key={a}>{a}</option>
            ))}
          </select>
        </label>
        {scope.layer === "LAYER_OVERRIDE" && (
          <label>
            ends after{" "}
            <select value={ttl} onChange={(e) => setTtl(e.currentTarget.value)}>
              <Options
                of={[
                  ["600s", "10 minutes"],
                  ["60s", "1 minute"],
                  ["3600s", "1 hour"],
                  ["", "never"],
                ]}
              />
            </select>
          </label>
        )}
      </div>
      <label for="new-value">
        New value
        {property.type === "TYPE_BOOL" || property.type === "TYPE_ENUM" ? (
          <select id="new-value" value={value} onChange={(e) => setText(e.currentTarget.value)}>
            {(property.type === "TYPE_BOOL" ? ["true", "false"] : property.options).map((o) => (
              <option key={o}>{o}</option>
            ))}
          </select>
        ) : property.type === "TYPE_JSON" ? (
          <textarea
            id="new-value"
            rows={8}
            class="mono"
            value={value}
            aria-describedby="check"
            onInput={(e) => setText(e.currentTarget.value)}
            spellcheck={false}
          />
        ) : (
          <input
            id="new-value"
            class="mono"
            value={value}
            aria-describedby="check"
            onInput={(e) => setText(e.currentTarget.value)}
            spellcheck={false}
          />
        )}
      </label>
      <div id="check" aria-live="polite">
        {text === undefined ? (
          <p class="muted">Type a value to check it. Nothing is changed until you publish.</p>
        ) : !fresh ? (
          <p class="muted">Checking.</p>
        ) : check.problem?.aboutInput ? (
          <Alert>The value is not valid: {check.problem.sentence}</Alert>
        ) : check.problem ? (
          <Alert>
            The value cannot be checked now. The value is not the cause: {check.problem.sentence}. What you typed is
            kept. It is checked again when you change it or when settings can be written again.
          </Alert>
        ) : check.applied?.length === 0 ? (
          <Note>This is the current value.</Note>
        ) : (
          <>
            <Note tone="ok">The value is valid.</Note>
            <Diff before={check.applied?.[0]?.before} after={check.applied?.[0]?.after} />
          </>
        )}
      </div>
      <div class="buttons">
        <button
          type="submit"
          class="primary"
          disabled={
            settingsLocked.value || text === undefined || !fresh || !!check.problem || check.applied?.length === 0
          }
        >
          Publish
        </button>
        {current && (
          <button type="button" disabled={settingsLocked.value} onClick={() => publish(true)}>
            Remove the value
          </button>
        )}
      </div>
    </form>
  );
}

// Diff shows a value before and after a change.
export function Diff({ before, after }: { before?: string; after?: string }) {
  return (
    <div class="diff mono">
      <div class="minus">{before === undefined ? "− (no value)" : `− ${before}`}</div>
      <div class="plus">{after === undefined ? "+ (no value: the next layer wins)" : `+ ${after}`}</div>
    </div>
  );
}

function History() {
  const from = query("from");
  const to = query("to");
  const { answer, problem } = useAnswer<{ changes: Applied[] } | undefined>(`${from}|${to}`, async (s) =>
    from && to ? post("/api/config/Diff", { from, to }, s) : undefined,
  );
  return (
    <>
      <form
        class="filters"
        onSubmit={(e) => {
          e.preventDefault();
          const f = new FormData(e.currentTarget);
          setQuery({ from: String(f.get("from")), to: String(f.get("to")) }, false);
        }}
      >
        <label>
          Compare revision <input name="from" inputMode="numeric" pattern="[0-9]+" required size={6} value={from} />
        </label>
        <label>
          with <input name="to" inputMode="numeric" pattern="[0-9]+" required size={6} value={to || revisionNow()} />
        </label>
        <button type="submit">Compare</button>
      </form>
      {problem && <Alert>{problem.sentence}</Alert>}
      {from && to && answer && (
        <section aria-label="Differences">
          <h2>
            From {from} to {to}
          </h2>
          {answer.changes.length === 0 ? (
            <Empty>There is no difference.</Empty>
          ) : (
            answer.changes.map((c) => (
              <div key={c.name + scopeText(c.scope)}>
                <Link href={`/settings/${encodeURIComponent(c.name)}`}>
                  <span class="mono">{c.name}</span>
                </Link>{" "}
                <span class="muted">{scopeText(c.scope)}</span>
                <Diff before={c.before} after={c.after} />
              </div>
            ))
          )}
        </section>
      )}
      <h2>Revisions</h2>
      <Revisions name="" />
    </>
  );
}

function Revisions({ name }: { name: string }) {
  const [limit, setLimit] = useState(20);
  const { answer, problem } = useAnswer<{ revisions: Revision[] }>(`${name}|${limit}@${revisionNow()}`, (s) =>
    post("/api/config/History", { name, limit }, s),
  );
  const rollback = async (to: string) => {
    let preview: Applied[] = [];
    let refused = "";
    try {
      preview = (await post("/api/config/Rollback", { to, dryRun: true, author: "console", reason: "preview" }))
        .applied;
    } catch (e) {
      refused = e instanceof Problem ? e.sentence : String(e);
    }
    act({
      title: `Roll back to revision ${to}`,
      text: refused ? (
        <Alert>{refused}</Alert>
      ) : (
        <>
          <p>A new revision restores the values of revision {to}. Changes:</p>
          {preview.map((c) => (
            <div key={c.name + scopeText(c.scope)}>
              <span class="mono">{c.name}</span> <span class="muted">{scopeText(c.scope)}</span>
              <Diff before={c.before} after={c.after} />
            </div>
          ))}
        </>
      ),
      verb: "Roll back",
      run: (author, reason) => post("/api/config/Rollback", { to, expectedRevision: revisionNow(), author, reason }),
    });
  };
  if (problem && !answer) return <Alert>The history cannot be read: {problem.sentence}</Alert>;
  if (!answer) return <Empty>Reading the history.</Empty>;
  if (answer.revisions.length === 0)
    return <Empty>{name ? "The setting was never changed." : "No setting was ever published."}</Empty>;
  return (
    <>
      <Table
        label="Revisions, the newest first"
        head={["Revision", "When", "Who", "Why", "What", ...(name ? [] : ["Action"])]}
      >
        {answer.revisions.map((r, i) => (
          <tr key={r.revision}>
            <td>{r.revision}</td>
            <td>
              <At at={r.time} />
            </td>
            <td>{r.author}</td>
            <td class="text">{r.reason}</td>
            <td class="text">
              {r.changes.map((c) => (
                <div key={c.name + scopeText(c.scope)}>
                  <Link href={`/settings/${encodeURIComponent(c.name)}`}>
                    <span class="mono">{c.name}</span>
                  </Link>{" "}
                  <span class="muted">{scopeText(c.scope)}:</span>{" "}
                  <span class="mono">
                    {c.before === undefined ? "none" : shown(c.before)} →{" "}
                    {c.after === undefined ? "none" : shown(c.after)}
                  </span>
                </div>
              ))}
            </td>
            {!name && (
              <td>
                {i > 0 && (
                  <button
                    type="button"
                    disabled={settingsLocked.value}
                    aria-label={`Roll back to here, revision ${r.revision}`}
                    onClick={() => rollback(r.revision)}
                  >
                    Roll back to here
                  </button>
                )}{" "}
                {answer.revisions[i + 1] && (
                  <Link href={`/settings/history?from=${answer.revisions[i + 1].revision}&to=${r.revision}`}>
                    Differences
                  </Link>
                )}
              </td>
            )}
          </tr>
        ))}
      </Table>
      {answer.revisions.length === limit && (
        <button type="button" onClick={() => setLimit(limit * 2)}>
          Show more
        </button>
      )}
    </>
  );
}
