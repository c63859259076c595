// The stream of the console: one signal per topic.
import { computed, signal } from "@preact/signals";
import { untraced } from "./api.ts";
import { circuitState } from "./format.ts";
import type { Board, Circuit, Fleet, Instance, Parts, SettingsState, Tables, Traffic } from "./types.ts";

export const hello = signal<{ version: string; readOnly: boolean } | undefined>(undefined);
export const parts = signal<Parts>({});
export const fleet = signal<Fleet | undefined>(undefined);
export const traffic = signal<Traffic | undefined>(undefined);
export const board = signal<Board | undefined>(undefined);
export const settings = signal<SettingsState | undefined>(undefined);
export const tables = signal<Tables | undefined>(undefined);

// connection is the state of the stream. since: when open last changed. retryAt: when it is opened again.
export const connection = signal<{ open: boolean; since: number; retryAt?: number }>({
  open: false,
  since: Date.now(),
});

// now changes every second, so that texts such as "3 s ago" are updated.
export const now = signal(Date.now());
setInterval(() => (now.value = Date.now()), 1000);

export const readOnly = computed(() => hello.value?.readOnly ?? false);

// fails: the part is known not to work.
export const fails = (name: string) => {
  const p = parts.value[name];
  return p !== undefined && !p.ok && !p.unknown;
};
const lock = (service: string, store: string, name: string) => {
  if (readOnly.value) return "This console is read-only: it runs with -read-only.";
  if (fails(service)) return `${name} does not answer.`;
  return fails(store) ? "The store (etcd) cannot be used." : "";
};
// settingsLock is why no setting, route or forced circuit can be changed now; "" if they can.
export const settingsLock = computed(() => lock("settings", "settingsStore", "The configuration service"));
export const settingsLocked = computed(() => settingsLock.value !== "");
// statusesLocked: no instance can be taken out of service or put back now.
export const statusesLocked = computed(() => lock("registry", "registryStore", "The registry") !== "");
// loadUnknown is the text for a load that is not reported: none, unless the circuits service does not answer.
export const loadUnknown = (none: string) => (parts.value.circuits?.ok ? none : "unknown");

// Event is a change that was received while this page was open.
export type Event = { at: number; tone: "ok" | "warn" | "bad" | "info"; text: string; href: string };
export const events = signal<Event[]>([]);
const note = (tone: Event["tone"], text: string, href: string) =>
  (events.value = [{ at: Date.now(), tone, text, href }, ...events.value].slice(0, 60));

// history is the last minute of each circuit: "caller > circuit" -> samples, one per second.
export type Sample = { rate: number; errors: number };
export const history = new Map<string, Sample[]>();

const receive: Record<string, (data: never) => void> = {
  hello: (d: { version: string; readOnly: boolean }) => (hello.value = d),
  parts: (d: Parts) => (parts.value = d),
  fleet: (d: Fleet) => {
    compareFleets(fleet.value, d);
    fleet.value = d;
  },
  traffic: (d: Traffic) => (traffic.value = d),
  circuits: (d: Board) => {
    compareBoards(board.value, d);
    board.value = d;
    addSamples(d);
  },
  settings: (d: SettingsState) => {
    const before = settings.value?.newest?.revision;
    if (before && d.newest && before !== d.newest.revision) {
      note(
        "info",
        `Settings revision ${d.newest.revision} by ${d.newest.author}: ${d.newest.reason}`,
        "/settings/history",
      );
    }
    settings.value = d;
  },
  routes: (d: Tables) => (tables.value = d),
};

const keyOf = (i: Instance) => `${i.service}/${i.id}`;
// answering is false for an instance whose admin page does not answer, whatever its status in the registry.
export const answering = (i: Instance) => i.admin?.ok !== false;

function compareFleets(old: Fleet | undefined, next: Fleet) {
  if (!old) return;
  const before = new Map(old.instances.map((i) => [keyOf(i), i]));
  for (const i of next.instances) {
    const was = before.get(keyOf(i));
    const href = `/services/${i.service}/${i.id}`;
    before.delete(keyOf(i));
    if (!was) note("ok", `${i.id} registered`, href);
    else if (answering(was) && !answering(i)) note("bad", `${i.id} stopped answering: ${i.admin?.problem}`, href);
    else if (!answering(was) && answering(i)) note("ok", `${i.id} answers again`, href);
    else if (was.started && i.started && was.started !== i.started) note("warn", `${i.id} was restarted`, href);
    if (was && was.status !== i.status)
      note(
        i.status === "UP" ? "ok" : "warn",
        `${i.id} is ${statusText(i.status)}, it was ${statusText(was.status)}`,
        href,
      );
  }
  for (const i of before.values()) note("warn", `${i.id} left the registry`, `/services/${i.service}`);
}
const statusText = (s: string) => s.toLowerCase().replaceAll("_", " ");

const circuitsOf = (b: Board) =>
  new Map<string, Circuit>(b.services.flatMap((s) => s.circuits.map((c) => [`${s.service} > ${c.name}`, c] as const)));

function compareBoards(old: Board | undefined, next: Board) {
  if (!old) return;
  const before = circuitsOf(old);
  for (const [name, c] of circuitsOf(next)) {
    const was = before.get(name);
    if (was && was.state !== c.state) {
      const tone = c.state === "STATE_CLOSED" ? "ok" : c.state === "STATE_HALF_OPEN" ? "warn" : "bad";
      note(
        tone,
        `Circuit ${name.replace(" > ", " to ")} is ${circuitState(c.state)}`,
        `/circuits?q=${encodeURIComponent(c.name)}`,
      );
    }
  }
}

function addSamples(b: Board) {
  const present = circuitsOf(b);
  for (const [name, c] of present) {
    const list = history.get(name) ?? [];
    if (!c.figures) continue; // measuring
    const { callsPerSecond, errorPercent } = c.figures;
    list.push({ rate: callsPerSecond, errors: (callsPerSecond * errorPercent) / 100 });
    if (list.length > 60) list.shift();
    history.set(name, list);
  }
  for (const name of history.keys()) if (!present.has(name)) history.delete(name);
}

// connect reads the stream, and opens it again whenever it ends. It uses fetch and not EventSource, because only fetch
// can send the header that keeps the stream out of the traces.
export async function connect() {
  for (let failures = 0; ; failures++) {
    try {
      const stop = new AbortController();
      let timeout = setTimeout(() => stop.abort(), 15000);
      const response = await fetch("/api/stream", { headers: untraced(), signal: stop.signal });
      if (!response.ok || !response.body) throw new Error(`the console answered ${response.status}`);
      connection.value = { open: true, since: Date.now() };
      failures = 0;
      const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
      let text = "";
      for (;;) {
        const { done, value } = await reader.read();
        if (done) break;
        clearTimeout(timeout);
        timeout = setTimeout(() => stop.abort(), 15000); // the console sends at least every 5 s
        text += value;
        const whole = text.split("\n\n");
        text = whole.pop() ?? "";
        whole.forEach(dispatch);
      }
      clearTimeout(timeout);
    } catch {
      // the page says that it is not connected, and since when
    }
    const wait = Math.min(5000, 500 * 2 ** failures) * (0.5 + Math.random() / 2);
    const since = connection.value.open ? Date.now() : connection.value.since;
    connection.value = { open: false, since, retryAt: Date.now() + wait };
    await new Promise((r) => setTimeout(r, wait));
  }
}

function dispatch(block: string) {
  let event = "";
  let data = "";
  for (const line of block.split("\n")) {
    if (line.startsWith("event: ")) event = line.slice(7);
    else if (line.startsWith("data: ")) data += line.slice(6);
  }
  try {
    if (data) receive[event]?.(JSON.parse(data) as never);
  } catch (e) {
    console.error(`showing ${event}:`, e); // an error of one view is not a lost connection
  }
}
