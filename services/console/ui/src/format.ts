// Formats of numbers and times.
import type { Circuit, Figures, Load } from "./types.ts";

export const rate = (n: number) => `${short(n)}/s`;
export const percent = (n: number) =>
  `${n > 0 && n < 0.1 ? "< 0.1" : n >= 10 || n === 0 ? Math.round(n) : n.toFixed(1)} %`;

// figure formats one figure of a load, or says why there is none. Use it for the first figure of a row.
export const figure = (l: Load, write: (f: Figures) => string) =>
  l.figures ? write(l.figures) : l.measuring ? "measuring" : "–";
// more formats the other figures of a row.
export const more = (l: Load, write: (f: Figures) => string) => (l.figures ? write(l.figures) : "–");
// latency formats a percentile. There is none if no call was made.
export const latency = (n?: number) => (n === undefined ? "–" : ms(n));
// summary formats a load as one sentence. none is the text for a load that is not reported.
export const summary = (l: Load, none: string) =>
  !l.figures && !l.measuring
    ? none
    : figure(l, (f) =>
        f.callsPerSecond === 0
          ? "no calls in the last 10 s"
          : `${rate(f.callsPerSecond)}, ${percent(f.errorPercent)} errors, ` +
            `p50 ${latency(f.p50Ms)}, p99 ${latency(f.p99Ms)}`,
      );
// loadOf returns the load of a circuit. A circuit without figures is measuring.
export const loadOf = (c: Circuit): Load => ({ figures: c.figures, measuring: !c.figures });

export function short(n: number) {
  if (n === 0) return "0";
  if (n < 1) return n.toFixed(2);
  if (n < 10) return n.toFixed(1);
  if (n < 10000) return String(Math.round(n));
  return `${(n / 1000).toFixed(n < 100000 ? 1 : 0)}k`;
}

// ms formats milliseconds: 0.40 ms, 12 ms, 1.20 s.
export function ms(n: number) {
  if (!n) return "0 ms";
  if (n < 1) return `${n.toFixed(2)} ms`;
  if (n < 10) return `${n.toFixed(1)} ms`;
  if (n < 1000) return `${Math.round(n)} ms`;
  if (n < 60000) return `${(n / 1000).toFixed(n < 10000 ? 2 : 1)} s`;
  return span(n);
}
export const us = (n: number) => ms(n / 1000);

export const bytes = (n: number) => (n < 1 << 20 ? `${Math.round(n / 1024)} KiB` : `${Math.round(n / (1 << 20))} MiB`);

// span formats a duration in its two largest units.
export function span(ms: number) {
  const s = Math.max(0, Math.round(ms / 1000));
  if (s < 60) return `${s} s`;
  if (s < 3600) return `${Math.floor(s / 60)} min${s < 600 && s % 60 ? ` ${s % 60} s` : ""}`;
  if (s < 86400) return `${Math.floor(s / 3600)} h ${Math.floor((s % 3600) / 60)} min`;
  return `${Math.floor(s / 86400)} d ${Math.floor((s % 86400) / 3600)} h`;
}

const two = (n: number) => String(n).padStart(2, "0");
export function clock(t: Date, withDay = false) {
  const time = `${two(t.getHours())}:${two(t.getMinutes())}:${two(t.getSeconds())}`;
  return withDay ? `${t.getFullYear()}-${two(t.getMonth() + 1)}-${two(t.getDate())} ${time}` : time;
}

export const circuitState = (s: string) =>
  s.replace("STATE_", "").toLowerCase().replace("_", " ").replace("half open", "half-open");
export const layerName = (l: string) => l.replace("LAYER_", "").toLowerCase();
export const typeName = (t: string) => t.replace("TYPE_", "").toLowerCase();
export const plural = (n: number, one: string, many = `${one}s`) => `${n} ${n === 1 ? one : many}`;
