// Functions and components that several views use.
import { signal } from "@preact/signals";
import type { ComponentChildren } from "preact";
import { useEffect, useRef, useState } from "preact/hooks";
import { actor, Problem } from "./api.ts";
import { clock, span } from "./format.ts";
import { answering, events, fails, now, parts, readOnly } from "./live.ts";
import type { Instance } from "./types.ts";

// --- addresses ---

export const url = signal(new URL(location.href));
addEventListener("popstate", () => (url.value = new URL(location.href)));

export function go(href: string, replace = false) {
  const from = location.pathname;
  history[replace ? "replaceState" : "pushState"](null, "", href);
  url.value = new URL(location.href);
  // The focused link may not exist in the new view. Keyboards and screen readers continue at the top of the new view.
  if (location.pathname !== from) setTimeout(() => document.getElementById("main")?.focus({ preventScroll: true }));
}

// query returns a parameter of the address, "" if it is missing. setQuery changes some and keeps the others.
export const query = (name: string) => url.value.searchParams.get(name) ?? "";
export function setQuery(changes: Record<string, string>, replace = true) {
  const next = new URL(url.value);
  for (const [k, v] of Object.entries(changes)) v ? next.searchParams.set(k, v) : next.searchParams.delete(k);
  go(next.pathname + next.search, replace);
}

// onLink opens a view in this page. With a modifier key or another button, the browser follows the link itself.
export const onLink = (href: string) => (e: MouseEvent) => {
  if (e.button || e.ctrlKey || e.metaKey || e.shiftKey) return;
  e.preventDefault();
  go(href);
};

// onPress makes an element with role=button work by keyboard.
export const onPress = (press: () => void) => (e: KeyboardEvent) => {
  if (e.key !== "Enter" && e.key !== " ") return;
  e.preventDefault();
  press();
};

export function Link(p: {
  href: string;
  children: ComponentChildren;
  class?: string;
  current?: boolean;
  label?: string;
}) {
  const follow = (e: MouseEvent) => {
    onLink(p.href)(e);
    if (e.defaultPrevented) window.scrollTo(0, 0);
  };
  return (
    <a
      href={p.href}
      class={p.class}
      onClick={follow}
      aria-current={p.current ? "page" : undefined}
      aria-label={p.label}
    >
      {p.children}
    </a>
  );
}

// narrow is true on small screens, where drawings are smaller.
const small = matchMedia("(max-width: 700px)");
export const narrow = signal(small.matches);
small.addEventListener("change", () => (narrow.value = small.matches));

// --- words with a sign: no state is shown by its colour alone ---

export type Tone = "ok" | "warn" | "bad" | "info" | "off";
const signs: Record<Tone, string> = { ok: "●", warn: "▲", bad: "✕", info: "◆", off: "○" };
export const Sign = ({ tone }: { tone: Tone }) => (
  <span class={`sign ${tone}`} aria-hidden="true">
    {signs[tone]}
  </span>
);
export const Badge = ({ tone, children }: { tone: Tone; children: ComponentChildren }) => (
  <span class={`badge ${tone}`}>
    <Sign tone={tone} /> {children}
  </span>
);

// condition is the state of an instance in a word, and its reason.
export function condition(i: Instance): { tone: Tone; word: string; why: string } {
  if (!answering(i)) return { tone: "bad", word: "not answering", why: i.admin?.problem ?? "" };
  if (i.override && i.override !== "UP") {
    return {
      tone: "warn",
      word: i.override.toLowerCase().replaceAll("_", " "),
      why: `${i.overrideReason} (${i.overrideAuthor})`,
    };
  }
  const failed = i.admin?.checks?.filter((c) => !c.ok) ?? [];
  const needed = failed.filter((c) => c.needed);
  const why = (needed.length ? needed : failed).map((c) => `${c.name}: ${c.reason}`).join("; ");
  switch (i.status) {
    case "UP":
      if (i.suspect)
        return {
          tone: "warn",
          word: "up, suspect",
          why: "its lease has expired; the registry keeps it because of self-preservation",
        };
      return failed.length ? { tone: "ok", word: "up, some checks fail", why } : { tone: "ok", word: "up", why: "" };
    case "DOWN":
      return { tone: "bad", word: "down", why: why || "the instance reports this status" };
    default:
      return { tone: "warn", word: i.status.toLowerCase().replaceAll("_", " "), why };
  }
}

export function Ago({ at, what = "" }: { at?: string | number | null; what?: string }) {
  if (!at) return <span class="muted">unknown</span>;
  const t = new Date(at);
  return (
    <time dateTime={t.toISOString()} title={clock(t, true)}>
      {what}
      {span(now.value - t.getTime())} ago
    </time>
  );
}

// At is a time, absolute and relative: 09:01:03, 12 s ago.
export const At = ({ at }: { at?: string | number }) =>
  at ? (
    <time dateTime={new Date(at).toISOString()} title={clock(new Date(at), true)}>
      {clock(new Date(at))}, {span(now.value - new Date(at).getTime())} ago
    </time>
  ) : (
    <span class="muted">never</span>
  );

// --- sentences instead of data ---

export const Empty = ({ children }: { children: ComponentChildren }) => <p class="empty">{children}</p>;
export const Alert = ({ children }: { children: ComponentChildren }) => (
  <p class="alert" role="alert">
    <Sign tone="bad" /> {children}
  </p>
);
export const Note = ({ tone = "info", children }: { tone?: Tone; children: ComponentChildren }) => (
  <p class={`note ${tone}`}>
    <Sign tone={tone} /> <span>{children}</span>
  </p>
);

const partNames: Record<string, [string, string]> = {
  registry: ["The registry", "The page shows the instances that were known last."],
  circuits: [
    "The circuits service",
    "The circuits of each process work. The page shows the states that were received last.",
  ],
  settings: ["The configuration service", "Each process keeps its settings. No setting can be changed now."],
  edge: ["The gateway's admin page", "The routes shown may be old."],
};

// stores has, for each part that reports on a store, the data in the store and the part of its service.
const stores: Record<string, { data: string[]; service: string }> = {
  settingsStore: { data: ["settings", "routes", "forced circuits"], service: "settings" },
  registryStore: { data: ["the status of instances"], service: "registry" },
};

// Stores says in one sentence what cannot be written, because a store does not work or its state is unknown.
function Stores({ of }: { of: string[] }) {
  const shown = of.filter((name) => name in stores && parts.value[name]);
  const failed = shown.filter(fails);
  // For two seconds nothing is said about an unknown state: the first answers of a new page are still missing. The
  // banner of the service itself says more.
  const unknown = shown.filter(
    (name) =>
      parts.value[name].unknown &&
      now.value - Date.parse(parts.value[name].since) > 2000 &&
      !(of.includes(stores[name].service) && fails(stores[name].service)),
  );
  const data = (names: string[]) => {
    const all = names.flatMap((name) => stores[name].data);
    return [all.slice(0, -1).join(", "), all.at(-1)].filter(Boolean).join(" and ");
  };
  const reasons = (names: string[]) => [...new Set(names.map((name) => parts.value[name].problem))].join("; ");
  const since = failed.map((name) => parts.value[name].since).sort()[0];
  if (!failed.length && !unknown.length) return null;
  return (
    <div class="alert" role="alert">
      <Sign tone="bad" />{" "}
      {failed.length > 0 && (
        <>
          The store (etcd) cannot be used since <At at={since} />: {data(failed)} cannot be changed now.{" "}
        </>
      )}
      {unknown.length > 0 && (
        <>
          It is not known whether {data(unknown)} can be changed: {reasons(unknown)}.{" "}
        </>
      )}
      The console asks again each second.
      {failed.length > 0 && (
        <details>
          <summary>Error text</summary>
          {reasons(failed)}
        </details>
      )}
    </div>
  );
}

// Needs says which of the parts that a view needs do not work.
export function Needs({ of }: { of: string[] }) {
  return (
    <>
      {of.map((name) => {
        const p = parts.value[name];
        if (!p || p.ok || name in stores) return null;
        const [service, effect] = partNames[name];
        return (
          <div class="alert" role="alert" key={name}>
            <Sign tone="bad" /> {service} has not answered since <At at={p.since} />. {effect} The console asks again
            each second.
            <details>
              <summary>Error text</summary>
              {p.problem}
            </details>
          </div>
        );
      })}
      <Stores of={of} />
    </>
  );
}

// Options are the options of a <select>: value and text.
export const Options = ({ of }: { of: [value: string, text: string][] }) => (
  <>
    {of.map(([value, text]) => (
      <option key={value} value={value}>
        {text}
      </option>
    ))}
  </>
);

// Table is a table in a box that scrolls on narrow screens, also by keyboard.
export const Table = ({
  label,
  head,
  children,
  class: c = "",
}: {
  label: string;
  head: ComponentChildren[];
  children: ComponentChildren;
  class?: string;
}) => (
  <div class="scroll" role="region" aria-label={label} tabIndex={0}>
    <table class={c}>
      <thead>
        <tr>
          {head.map((h, i) => (
            <th scope="col" key={i}>
              {h}
            </th>
          ))}
        </tr>
      </thead>
      <tbody>{children}</tbody>
    </table>
  </div>
);

export function Events({ limit = 8 }: { limit?: number }) {
  return (
    <section class="events" aria-label="Recent changes">
      <h2>Recent changes</h2>
      {events.value.length === 0 ? (
        <Empty>Nothing has changed since this page was opened.</Empty>
      ) : (
        <div role="log" aria-live="polite" aria-label="Changes, the newest first">
          <ol>
            {events.value.slice(0, limit).map((e) => (
              <li key={e.at + e.text}>
                <Sign tone={e.tone} /> <time>{clock(new Date(e.at))}</time> <Link href={e.href}>{e.text}</Link>
              </li>
            ))}
          </ol>
        </div>
      )}
    </section>
  );
}

// --- queries and actions ---

// useAnswer sends a query again whenever key changes, and ignores answers to old queries. While the service does not
// answer, it retries.
export function useAnswer<T>(key: string, ask: (signal: AbortSignal) => Promise<T>) {
  const [state, set] = useState<{ key: string; answer?: T; problem?: Problem }>({ key: "" });
  useEffect(() => {
    const stop = new AbortController();
    let retry: number | undefined;
    const send = () =>
      ask(stop.signal).then(
        (answer) => set({ key, answer }),
        (problem) => {
          if (problem.name === "AbortError") return;
          set((old) => ({ key, problem, answer: old.answer }));
          if (problem.status === 0 || problem.status >= 502) retry = setTimeout(send, 2000);
        },
      );
    void send();
    return () => {
      stop.abort();
      clearTimeout(retry);
    };
  }, [key]);
  return { answer: state.answer, problem: state.problem, waiting: state.key !== key };
}

// useDebounced returns value after it has not changed for wait milliseconds.
export function useDebounced<T>(value: T, wait = 250) {
  const [late, set] = useState(value);
  useEffect(() => {
    const t = setTimeout(() => set(value), wait);
    return () => clearTimeout(t);
  }, [value]);
  return late;
}

// outcome says whether a failed action has changed something, and why it failed.
function outcome(e: unknown) {
  if (!(e instanceof Problem)) return `Nothing was changed: ${e}`;
  if (e.unchanged) return `Nothing was changed: ${e.sentence}`;
  return `It is not known whether the change was made. Check before you try again: ${e.sentence}`;
}

type Action = {
  title: string;
  text: ComponentChildren;
  verb: string;
  reason?: string;
  more?: ComponentChildren;
  run: (author: string, reason: string) => Promise<unknown>;
};
const action = signal<Action | undefined>(undefined);
let opener: Element | null = null; // gets the focus when the dialog closes

// act opens the dialog that asks for a name and a reason, and then runs the action.
export function act(a: Action) {
  opener = document.activeElement;
  action.value = a;
}

export function ActDialog() {
  const a = action.value;
  const box = useRef<HTMLDialogElement>(null);
  const [problem, setProblem] = useState("");
  const [busy, setBusy] = useState(false);
  useEffect(() => {
    setProblem("");
    setBusy(false);
    if (a) box.current?.showModal();
    else if (opener instanceof HTMLElement) opener.focus();
  }, [a]);
  if (!a) return null;
  const submit = async (e: Event) => {
    e.preventDefault();
    const form = new FormData(e.target as HTMLFormElement);
    actor.value = String(form.get("author"));
    setBusy(true);
    try {
      await a.run(actor.value, String(form.get("reason")));
      action.value = undefined;
    } catch (e) {
      setProblem(outcome(e));
      setBusy(false);
    }
  };
  return (
    <dialog ref={box} aria-labelledby="action" onClose={() => (action.value = undefined)}>
      <form onSubmit={submit}>
        <h2 id="action">{a.title}</h2>
        <div class="text">{a.text}</div>
        {readOnly.value && <Alert>This console is read-only: it runs with -read-only.</Alert>}
        {a.more}
        <label>
          Your name
          <input name="author" required maxLength={256} value={actor.value} autocomplete="username" />
        </label>
        <label>
          Reason
          <input name="reason" required maxLength={1024} value={a.reason ?? ""} />
        </label>
        {problem && <Alert>{problem}</Alert>}
        <div class="buttons">
          <button type="submit" class="primary" disabled={busy || readOnly.value}>
            {busy ? "Sending" : a.verb}
          </button>
          <button type="button" onClick={() => (action.value = undefined)}>
            Cancel
          </button>
        </div>
      </form>
    </dialog>
  );
}
