// Queries and actions. Requests and answers are messages of the owning service; an error is a problem (RFC 9457).
import { signal } from "@preact/signals";

export class Problem extends Error {
  fields: { field: string; detail: string }[];
  status: number;
  code: string;
  constructor(status: number, text: string, fields: Problem["fields"] = [], code = "") {
    super(text);
    this.status = status;
    this.fields = fields;
    this.code = code;
  }
  // aboutInput: the request is wrong. Otherwise the service or its store cannot answer now.
  get aboutInput() {
    return this.status >= 400 && this.status < 499 && this.status !== 429;
  }
  // unchanged: it is certain that nothing was written.
  get unchanged() {
    return this.aboutInput || this.status === 429 || ["STORE_UNAVAILABLE", "NOT_SENT"].includes(this.code);
  }
  // sentence is the message, followed by the fields.
  get sentence() {
    const more = this.fields.map((f) => `${f.field} ${f.detail}`).join("; ");
    return more ? `${this.message}: ${more}` : this.message;
  }
}

// untraced returns the header of a request that is not sampled: the requests that load a view would fill the trace
// store.
export function untraced() {
  const hex = (n: number) =>
    Array.from(crypto.getRandomValues(new Uint8Array(n)), (b) => b.toString(16).padStart(2, "0")).join("");
  return { traceparent: `00-${hex(16)}-${hex(8)}-02` };
}

async function read(response: Response) {
  if (response.ok) return response.json();
  const p = await response.json().catch(() => ({}));
  throw new Problem(
    response.status,
    p.detail || p.title || `the console answered ${response.status}`,
    p.errors,
    p.code,
  );
}

const noAnswer = (e: unknown): never => {
  throw e instanceof Problem || (e as Error).name === "AbortError" ? e : new Problem(0, "the console does not answer");
};

export const get = (path: string, signal?: AbortSignal) =>
  fetch(path, { headers: untraced(), signal }).catch(noAnswer).then(read);

export const post = (path: string, body: unknown, signal?: AbortSignal) =>
  fetch(path, { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body), signal })
    .catch(noAnswer)
    .then(read);

// actor is the name that the user gave last. It is not checked: the console has no login.
export const actor = signal(localStorage.getItem("bijou.actor") ?? "");
actor.subscribe((name) => localStorage.setItem("bijou.actor", name));
