// What the console pushes: one stream of events a page, one signal a topic.
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

// connection says whether the stream is open; since when, and when it is tried again.
export const connection = signal<{ open: boolean; since: number; retryAt?: number }>({
  open: false,
  since: Date.now(),
});

// now ticks each second, so that "3 s ago" stays true.
export const now = signal(Date.now());
setInterval(() => (now.value = Date.now()), 1000);

export const readOnly = computed(() => hello.value?.readOnly ?? false);

const down = (...names: string[]) => names.some((name) => parts.value[name]?.ok === false);
// settingsLocked: no setting, route or forced circuit can be written now. What is typed is kept until they can be.
export const settingsLocked = computed(() => readOnly.value || down("settings", "settingsStore"));
// statusesLocked: no instance can be taken out of service or put back now.
export const statusesLocked = computed(() => readOnly.value || down("registry", "registryStore"));

// Event is something that happened while this page was open.
export type Event = { at: number; tone: "ok" | "warn" | "bad" | "info"; text: string; href: string };
export const events = signal<Event[]>([]);
const note = (tone: Event["tone"], text: string, href: string) =>
  (events.value = [{ at: Date.now(), tone, text, href }, ...events.value].slice(0, 60));

// history keeps the last minute of each circuit, for its little chart.
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
    remember(d);
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
// answering is false for an instance whose own page is silent, whatever the registry still believes.
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
    else if (was.started && i.started && was.started !== i.started)
      note("warn", `${i.id} is a new process: it was restarted`, href);
    if (was && was.status !== i.status)
      note(i.status === "UP" ? "ok" : "warn", `${i.id} is ${word(i.status)}, it was ${word(was.status)}`, href);
  }
  for (const i of before.values()) note("warn", `${i.id} left the registry`, `/services/${i.service}`);
}
const word = (s: string) => s.toLowerCase().replaceAll("_", " ");

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

function remember(b: Board) {
  const present = circuitsOf(b);
  for (const [name, c] of present) {
    const list = history.get(name) ?? [];
    if (!c.figures) continue; // it is being measured
    const { callsPerSecond, errorPercent } = c.figures;
    list.push({ rate: callsPerSecond, errors: (callsPerSecond * errorPercent) / 100 });
    if (list.length > 60) list.shift();
    history.set(name, list);
  }
  for (const name of history.keys()) if (!present.has(name)) history.delete(name);
}

// connect follows the stream for ever. It is fetch and not EventSource, because only fetch can say that the stream is no part of
// a trace, and tell why it was refused.
export async function connect() {
  for (let failures = 0; ; failures++) {
    try {
      const stop = new AbortController();
      let silent = setTimeout(() => stop.abort(), 15000);
      const response = await fetch("/api/stream", { headers: untraced(), signal: stop.signal });
      if (!response.ok || !response.body) throw new Error(`the console answered ${response.status}`);
      connection.value = { open: true, since: Date.now() };
      failures = 0;
      const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
      let text = "";
      for (;;) {
        const { done, value } = await reader.read();
        if (done) break;
        clearTimeout(silent);
        silent = setTimeout(() => stop.abort(), 15000); // the console speaks every 5 s
        text += value;
        const whole = text.split("\n\n");
        text = whole.pop() ?? "";
        whole.forEach(dispatch);
      }
      clearTimeout(silent);
    } catch {
      // the reason is of no use to a person: the page says that it is not connected, and since when
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
    console.error(`showing ${event}:`, e); // a defect of one view must not look like a lost connection
  }
}
