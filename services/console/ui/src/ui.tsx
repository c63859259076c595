// The few pieces that every view is made of.
import { signal } from "@preact/signals";
import type { ComponentChildren } from "preact";
import { useEffect, useRef, useState } from "preact/hooks";
import { actor, Problem } from "./api.ts";
import { clock, span } from "./format.ts";
import { answering, events, now, parts, readOnly } from "./live.ts";
import type { Instance } from "./types.ts";

// --- addresses -------------------------------------------------------------------------------------------------------

export const url = signal(new URL(location.href));
addEventListener("popstate", () => (url.value = new URL(location.href)));

export function go(href: string, replace = false) {
  const from = location.pathname;
  history[replace ? "replaceState" : "pushState"](null, "", href);
  url.value = new URL(location.href);
  // The link that had the focus may be gone with its view; keyboards and screen readers go on at the top of the new one.
  if (location.pathname !== from) setTimeout(() => document.getElementById("main")?.focus({ preventScroll: true }));
}

// query returns a parameter of the address, or sets some and leaves the others.
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

// narrow is true on small screens, where pictures are drawn smaller.
const small = matchMedia("(max-width: 700px)");
export const narrow = signal(small.matches);
small.addEventListener("change", () => (narrow.value = small.matches));

// --- words with a sign: colour is never the only one -----------------------------------------------------------------------

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

// condition is an instance's state in a word, and why.
export function condition(i: Instance): { tone: Tone; word: string; why: string } {
  if (!answering(i)) return { tone: "bad", word: "not answering", why: i.admin?.problem ?? "" };
  if (i.override && i.override !== "UP") {
    return {
      tone: "warn",
      word: i.override.toLowerCase().replaceAll("_", " "),
      why: `${i.overrideReason} (${i.overrideAuthor})`,
    };
  }
  const broken = i.admin?.checks?.filter((c) => !c.ok) ?? [];
  const needed = broken.filter((c) => c.needed);
  const why = (needed.length ? needed : broken).map((c) => `${c.name}: ${c.reason}`).join("; ");
  switch (i.status) {
    case "UP":
      if (i.suspect)
        return {
          tone: "warn",
          word: "up, suspect",
          why: "its lease ran out; the registry keeps it because it doubts itself",
        };
      return broken.length ? { tone: "ok", word: "up, works in part", why } : { tone: "ok", word: "up", why: "" };
    case "DOWN":
      return { tone: "bad", word: "down", why: why || "it says so of itself" };
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

// At is a time with both: 09:01:03, 12 s ago.
export const At = ({ at }: { at?: string | number }) =>
  at ? (
    <time dateTime={new Date(at).toISOString()} title={clock(new Date(at), true)}>
      {clock(new Date(at))}, {span(now.value - new Date(at).getTime())} ago
    </time>
  ) : (
    <span class="muted">never</span>
  );

// --- states of a view, as sentences ---------------------------------------------------------------------------------------

export const Empty = ({ children }: { children: ComponentChildren }) => <p class="empty">{children}</p>;
export const Trouble = ({ children }: { children: ComponentChildren }) => (
  <p class="trouble" role="alert">
    <Sign tone="bad" /> {children}
  </p>
);
export const Note = ({ tone = "info", children }: { tone?: Tone; children: ComponentChildren }) => (
  <p class={`note ${tone}`}>
    <Sign tone={tone} /> <span>{children}</span>
  </p>
);

const partNames: Record<string, [string, string]> = {
  registry: ["The registry", "The instances shown are those known last."],
  circuits: [
    "The board of circuits",
    "Circuits go on working in their processes. What is shown is the last that was heard.",
  ],
  settings: [
    "The configuration service",
    "Every process goes on with the settings it has; they cannot be changed now.",
  ],
  edge: ["The gateway's admin page", "The routes shown may be old."],
};

const storeNames: Record<string, string> = {
  settingsStore: "No setting, route or forced circuit can be written now; what you typed is kept.",
  registryStore: "No instance can be taken out of service or put back now; the registry works from memory.",
};

// Needs says which of the back ends that a view needs are away.
export function Needs({ of }: { of: string[] }) {
  return (
    <>
      {of.map((name) => {
        const p = parts.value[name];
        if (!p || p.ok) return null;
        const store = storeNames[name];
        const [who, so] = partNames[name] ?? [];
        return (
          <div class="trouble" role="alert" key={name}>
            <Sign tone="bad" />{" "}
            {store ? (
              <>
                The store (etcd) cannot be used since <At at={p.since} />. {store}
              </>
            ) : (
              <>
                {who} has not answered since <At at={p.since} />. {so}
              </>
            )}{" "}
            The console asks again each second.
            <details>
              <summary>What it said</summary>
              {p.problem}
            </details>
          </div>
        );
      })}
    </>
  );
}

// Table is a table in a box that scrolls by itself on narrow screens, also by keyboard.
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
    <section class="events" aria-label="What just happened">
      <h2>What just happened</h2>
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

// --- asking and acting -----------------------------------------------------------------------------------------------------

// useAnswer asks again whenever key changes, and forgets answers that come too late. While nobody is there to answer it goes on
// asking, so that a view mends itself.
export function useAnswer<T>(key: string, ask: (signal: AbortSignal) => Promise<T>) {
  const [state, set] = useState<{ key: string; answer?: T; problem?: Problem }>({ key: "" });
  useEffect(() => {
    const stop = new AbortController();
    let again: number | undefined;
    const now = () =>
      ask(stop.signal).then(
        (answer) => set({ key, answer }),
        (problem) => {
          if (problem.name === "AbortError") return;
          set((old) => ({ key, problem, answer: old.answer }));
          if (problem.status === 0 || problem.status >= 502) again = setTimeout(now, 2000);
        },
      );
    void now();
    return () => {
      stop.abort();
      clearTimeout(again);
    };
  }, [key]);
  return { answer: state.answer, problem: state.problem, waiting: state.key !== key };
}

// useLate is a value that follows another after it has stood still for a while.
export function useLate<T>(value: T, wait = 250) {
  const [late, set] = useState(value);
  useEffect(() => {
    const t = setTimeout(() => set(value), wait);
    return () => clearTimeout(t);
  }, [value]);
  return late;
}

// outcome says what an action that failed has changed, and why it failed.
function outcome(e: unknown) {
  if (!(e instanceof Problem)) return `Nothing was changed: ${e}`;
  if (e.unchanged) return `Nothing was changed: ${e.sentence}`;
  return `It is not known whether it was done. Look before you repeat it: ${e.sentence}`;
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
let opener: Element | null = null; // gets the focus back

// act asks who and why, and then does it. Nothing in the console acts without passing here.
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
        {readOnly.value && <Trouble>This console is read-only: it runs with -read-only.</Trouble>}
        {a.more}
        <label>
          Your name
          <input name="author" required maxLength={256} value={actor.value} autocomplete="username" />
        </label>
        <label>
          Reason, for those who wonder later
          <input name="reason" required maxLength={1024} value={a.reason ?? ""} />
        </label>
        {problem && <Trouble>{problem}</Trouble>}
        <div class="buttons">
          <button type="submit" class="primary" disabled={busy || readOnly.value}>
            {busy ? "Working, one moment" : a.verb}
          </button>
          <button type="button" onClick={() => (action.value = undefined)}>
            Leave it
          </button>
        </div>
      </form>
    </dialog>
  );
}
