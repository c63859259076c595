// Runs the progress of a film and reports it every ten seconds. Without this script the page's buttons do the same.
"use strict";
(() => {
  const player = document.querySelector(".player");
  if (!player) return;
  const { session, speed } = player.dataset;
  const duration = Number(player.dataset.duration);
  const bar = player.querySelector(".at"), now = player.querySelector(".now"), toggle = player.querySelector(".toggle");
  let position = Number(player.dataset.position), next = Number(player.dataset.next);
  let running = false, last = 0, said = 0;

  const two = (n) => String(n).padStart(2, "0");
  const draw = () => {
    const s = Math.floor(position);
    bar.value = s;
    now.textContent = `${Math.floor(s / 3600)}:${two(Math.floor(s / 60) % 60)}:${two(s % 60)}`;
    for (const f of player.querySelectorAll("input[name=sequence]")) f.value = next;
    player.querySelector("input[name=position]").value = s;
    const jumps = player.querySelectorAll(".jump");
    [-600, 60, 600].forEach((d, i) => { jumps[i].value = Math.min(Math.max(s + d, 0), duration); });
  };
  const report = async (keepalive) => {
    said = Date.now();
    const body = JSON.stringify({ sequence: next++, position: Math.floor(position) });
    draw();
    try {
      await fetch(`/api/playback/${session}/heartbeat`, { method: "POST", headers: { "Content-Type": "application/json" }, body, keepalive });
    } catch { /* the next report says it again */ }
  };
  const tick = (t) => {
    if (!running) return;
    position = Math.min(position + ((t - last) / 1000) * Number(speed), duration);
    last = t;
    draw();
    if (position >= duration) run(false);
    else if (Date.now() - said > 10000) report(false);
    if (running) requestAnimationFrame(tick);
  };
  const run = (on) => {
    if (running === on) return;
    running = on;
    toggle.textContent = on ? "Pause" : "Run";
    if (on) requestAnimationFrame((t) => { last = t; said = Date.now(); tick(t); });
    else report(true);
  };
  toggle.hidden = false;
  toggle.addEventListener("click", () => run(!running));
  document.addEventListener("keydown", (e) => {
    if (e.key === "k" && !/^(INPUT|TEXTAREA)$/.test(e.target.tagName)) run(!running);
  });
  document.addEventListener("visibilitychange", () => { if (document.hidden && running) report(true); });
})();
