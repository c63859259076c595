// Services: all instances, their state and its reason, and the buttons that set a status.
import { post } from "./api.ts";
import { bytes, figure, latency, more, percent, plural, rate, span, summary } from "./format.ts";
import { answering, fleet, now, parts, settings, statusesLocked } from "./live.ts";
import type { Instance } from "./types.ts";
import { Ago, At, act, Badge, condition, Empty, Link, Needs, Note, query, Sign, setQuery, Table } from "./ui.tsx";

export function ServicesView({ service, id }: { service?: string; id?: string }) {
  const f = fleet.value;
  const q = query("q").toLowerCase();
  const list = (f?.instances ?? []).filter(
    (i) =>
      (!service || i.service === service) &&
      (!id || i.id === id) &&
      (!q || `${i.service} ${i.id} zone ${i.zone} ${i.version} ${condition(i).word}`.toLowerCase().includes(q)),
  );
  const groups = Map.groupBy(list, (i) => i.service);
  return (
    <>
      <header class="view">
        <h1>
          {id ? (
            <>
              <Link href="/services">Services</Link> / <Link href={`/services/${service}`}>{service}</Link> / {id}
            </>
          ) : service ? (
            <>
              <Link href="/services">Services</Link> / {service}
            </>
          ) : (
            "Services"
          )}
        </h1>
        {!id && (
          <label>
            Find{" "}
            <input
              type="search"
              value={query("q")}
              placeholder="name, zone, version, state"
              onInput={(e) => setQuery({ q: e.currentTarget.value })}
            />
          </label>
        )}
        {f && !id && (
          <p class="muted">
            {plural(list.length, "instance")} of {plural(groups.size, "service")}
          </p>
        )}
      </header>
      <Needs of={["registry", "registryStore", "settings"]} />
      {f?.selfPreservation && (
        <Note tone="warn">
          The registry has evicted no instance since <At at={f.selfPreservation.since} />: {f.selfPreservation.reason}
        </Note>
      )}
      {!f ? (
        <Empty>Asking the registry for the instances.</Empty>
      ) : list.length === 0 ? (
        <Empty>
          {f.lastKnown
            ? "The registry does not answer, and no such instance was known before."
            : q
              ? `No instance matches "${q}".`
              : id
                ? `${id} is not registered. It has left the registry, or its lease has expired.`
                : "No instance is registered."}
        </Empty>
      ) : id ? (
        <Details instance={list[0]} />
      ) : (
        <Table
          label="Instances by service"
          head={[
            "Instance",
            "Zone",
            "Version",
            "Status",
            "Uptime",
            "Settings",
            "Calls",
            "Errors",
            "p99",
            "Memory",
            "Action",
          ]}
          class="numbers"
        >
          {[...groups].map(([name, all]) => (
            <Group key={name} name={name} all={all} single={!!service} />
          ))}
        </Table>
      )}
      {service && !id && f && (
        <p class="links">
          <Link href={`/map?service=${service}`}>On the map</Link>
          <Link href={`/circuits?q=${service}`}>Its circuits</Link>
          <Link href={`/settings?app=${service}`}>Its settings</Link>
          <Link href={`/traces?service=${service}`}>Its traces</Link>
        </p>
      )}
    </>
  );
}

function Group({ name, all, single }: { name: string; all: Instance[]; single: boolean }) {
  const up = all.filter((i) => condition(i).tone === "ok").length;
  return (
    <>
      {!single && (
        <tr class="group">
          <th scope="rowgroup" colSpan={11}>
            <Link href={`/services/${name}`}>{name}</Link>{" "}
            <span class="muted">
              <Sign tone={up === all.length ? "ok" : up ? "warn" : "bad"} /> {up} of {all.length} up
            </span>
          </th>
        </tr>
      )}
      {all.map((i) => (
        <Row key={i.id} i={i} />
      ))}
    </>
  );
}

function Row({ i }: { i: Instance }) {
  const c = condition(i);
  const newest = Number(settings.value?.status.revision ?? 0);
  const a = i.admin?.ok ? i.admin : undefined; // what an admin page answered before it stopped is not shown
  const behind = a?.revision !== undefined && newest > 0 && a.revision < newest && parts.value.settings?.ok;
  return (
    <tr>
      <td>
        <Link href={`/services/${i.service}/${i.id}`}>{i.id}</Link>
      </td>
      <td>{i.zone}</td>
      <td>{i.version}</td>
      <td class="text">
        <Badge tone={c.tone}>{c.word}</Badge> {c.why && <span class="why">{c.why}</span>}
      </td>
      <td>
        {!answering(i) ? (
          "unknown"
        ) : i.started ? (
          <time dateTime={i.started} title={i.started}>
            {span(now.value - Date.parse(i.started))}
          </time>
        ) : (
          "unknown"
        )}
      </td>
      <td>
        {a?.revision === undefined ? (
          "unknown"
        ) : (
          <>
            {behind && <Sign tone="warn" />} {a.revision}
            {behind ? ` of ${newest}` : ""}
          </>
        )}
      </td>
      <td>{figure(i, (f) => rate(f.callsPerSecond))}</td>
      <td>{more(i, (f) => percent(f.errorPercent))}</td>
      <td>{more(i, (f) => latency(f.p99Ms))}</td>
      <td>{a?.memoryBytes === undefined ? "unknown" : bytes(a.memoryBytes)}</td>
      <td>
        <StatusButton i={i} />
      </td>
    </tr>
  );
}

// StatusButton takes an instance out of service, or puts it back.
function StatusButton({ i }: { i: Instance }) {
  const set = (status: string, reason: string, title: string, text: string, verb: string) =>
    act({
      title,
      text,
      verb,
      reason,
      run: (author, reason) =>
        post("/api/discovery/SetOverride", { service: i.service, id: i.id, status, author, reason }),
    });
  return i.override ? (
    <button
      type="button"
      disabled={statusesLocked.value}
      aria-label={`Put back ${i.id}`}
      onClick={() =>
        set(
          "STATUS_UNSPECIFIED",
          "",
          `Put ${i.id} back into service`,
          `The override "${i.override}" ends. Callers see the status that the instance reports: ${i.reported}.`,
          "Put back",
        )
      }
    >
      Put back
    </button>
  ) : (
    <button
      type="button"
      disabled={statusesLocked.value}
      aria-label={`Take out ${i.id}`}
      onClick={() =>
        set(
          "STATUS_OUT_OF_SERVICE",
          "",
          `Take ${i.id} out of service`,
          "Callers stop choosing the instance within a second. It runs on and finishes its calls. It stays out of " +
            "service until it is put back, also after a restart.",
          "Take out",
        )
      }
    >
      Take out
    </button>
  );
}

function Details({ instance: i }: { instance: Instance }) {
  const c = condition(i);
  const a = i.admin;
  const acknowledged = settings.value?.status.instances.find((s) => s.identity.instance === i.id);
  return (
    <div class="details">
      <p>
        <Badge tone={c.tone}>{c.word}</Badge> {c.why} <StatusButton i={i} />
      </p>
      <dl class="facts">
        <dt>Status</dt>
        <dd>
          {i.status.toLowerCase()}, since <At at={i.statusSince} />. Reported by the instance:{" "}
          {i.reported.toLowerCase()}.
        </dd>
        {i.override && (
          <>
            <dt>Override</dt>
            <dd>
              {i.override} by {i.overrideAuthor}: {i.overrideReason}
            </dd>
          </>
        )}
        <dt>Started</dt>
        <dd>
          <At at={i.started} />
        </dd>
        <dt>Place</dt>
        <dd>
          zone {i.zone}, region {i.region}, environment {i.environment}
        </dd>
        <dt>Version</dt>
        <dd>{i.version}</dd>
        <dt>Listeners</dt>
        <dd>
          {Object.entries(i.endpoints).map(([name, addr]) => (
            <span key={name} class="mono">
              {name} {addr}{" "}
            </span>
          ))}
        </dd>
        <dt>Settings</dt>
        <dd>
          {acknowledged ? (
            <>
              revision {acknowledged.revision}, acknowledged <Ago at={acknowledged.acknowledged} />
              {acknowledged.rejections.map((r) => (
                <Note tone="warn" key={r.name}>
                  The instance refused {r.name} of revision {r.revision}: {r.problem}
                </Note>
              ))}
            </>
          ) : a?.ok && a.revision !== undefined ? (
            `revision ${a.revision}`
          ) : (
            "unknown"
          )}{" "}
          <Link href={`/settings?app=${i.service}&instance=${i.id}`}>All settings of this instance</Link>
        </dd>
        {(i.figures || i.measuring) && (
          <>
            <dt>Calls</dt>
            <dd>{summary(i, "")}, served in the last 10 s</dd>
          </>
        )}
        {a?.ok && (
          <>
            <dt>Process</dt>
            <dd>
              {a.memoryBytes === undefined ? "unknown" : bytes(a.memoryBytes)} of memory,{" "}
              {a.goroutines === undefined ? "unknown number of goroutines" : plural(a.goroutines, "goroutine")}
            </dd>
          </>
        )}
      </dl>
      <h2>Readiness checks</h2>
      {a?.ok && a.checks?.length ? (
        <Table label="Readiness checks" head={["Check", "State", "Needed to take calls", "Reason"]}>
          {a.checks.map((k) => (
            <tr key={k.name}>
              <td>{k.name}</td>
              <td>
                <Badge tone={k.ok ? "ok" : k.needed ? "bad" : "warn"}>{k.ok ? "ok" : "failed"}</Badge>
              </td>
              <td>{k.needed ? "yes" : "no"}</td>
              <td class="text">{k.reason ?? ""}</td>
            </tr>
          ))}
        </Table>
      ) : (
        <Empty>
          {!a
            ? "The admin page of the instance was not read yet."
            : a.ok
              ? "The instance has no checks."
              : "The instance does not answer, so its checks are unknown."}
        </Empty>
      )}
      <p class="links">
        <Link href={`/map?service=${i.service}`}>On the map</Link>
        <Link href={`/circuits?caller=${i.service}`}>Circuits of its service</Link>
        <Link href={`/traces?service=${i.service}`}>Traces</Link>
      </p>
    </div>
  );
}
