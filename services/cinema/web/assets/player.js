// Advances the position in a film and reports it every ten seconds, and after each jump. Without this script the buttons
// of the page do the same with forms.
"use strict";
(() => {
  const player = document.querySelector(".player");
  if (!player) return;
  const { session, speed } = player.dataset;
  const duration = Number(player.dataset.duration);
  const bar = player.querySelector(".at"), now = player.querySelector(".now"), toggle = player.querySelector(".toggle");
  const jumps = [...player.querySelectorAll(".jump")], by = [-600, 60, 600];
  let position = Number(player.dataset.position), next = Number(player.dataset.next);
  let running = false, last = 0, reported = 0;

  const two = (n) => String(n).padStart(2, "0");
  const within = (s) => Math.min(Math.max(s, 0), duration);
  const draw = () => {
    const s = Math.floor(position);
    bar.value = s;
    now.textContent = `${Math.floor(s / 3600)}:${two(Math.floor(s / 60) % 60)}:${two(s % 60)}`;
    for (const f of player.querySelectorAll("input[name=sequence]")) f.value = next;
    player.querySelector("input[name=position]").value = s;
    jumps.forEach((j, i) => { j.value = within(s + by[i]); });
  };
  const report = async (keepalive) => {
    reported = Date.now();
    const body = JSON.stringify({ sequence: next++, position: Math.floor(position) });
    draw();
    try {
      const headers = { "Content-Type": "application/json" };
      await fetch(`/api/playback/${session}/heartbeat`, { method: "POST", headers, body, keepalive });
    } catch { /* the next report has a newer position */ }
  };
  const jump = (seconds) => {
    position = within(position + seconds);
    report(false);
  };
  const tick = (t) => {
    if (!running) return;
    position = within(position + ((t - last) / 1000) * Number(speed));
    last = t;
    draw();
    if (position >= duration) run(false);
    else if (Date.now() - reported > 10000) report(false);
    if (running) requestAnimationFrame(tick);
  };
  const run = (on) => {
    if (running === on) return;
    if (on && position >= duration) position = 0; // play again from the beginning
    running = on;
    toggle.textContent = on ? "Pause" : "Play";
    if (on) requestAnimationFrame((t) => { last = t; reported = Date.now(); tick(t); });
    else report(true);
  };
  toggle.hidden = player.querySelector(".keys").hidden = false;
  toggle.addEventListener("click", () => run(!running));
  jumps.forEach((j, i) => j.addEventListener("click", (e) => { e.preventDefault(); jump(by[i]); }));
  const keys = { k: () => run(!running), j: () => jump(-600), l: () => jump(600) };
  player.addEventListener("keydown", (e) => {
    if (keys[e.key] && !e.ctrlKey && !e.metaKey && !e.altKey) keys[e.key]();
  });
  document.addEventListener("visibilitychange", () => { if (document.hidden && running) report(true); });
  draw(); // a page from the browser's cache has old values in its forms
})();
