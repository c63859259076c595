// The frame of every page, and the view of each address.
import { effect } from "@preact/signals";
import { render } from "preact";
import { useEffect } from "preact/hooks";
import { CircuitsView } from "./circuits.tsx";
import { clock, span } from "./format.ts";
import { connect, connection, fleet, hello, now, readOnly, traffic } from "./live.ts";
import { MapView } from "./map.tsx";
import { RoutesView } from "./routes.tsx";
import { ServicesView } from "./services.tsx";
import { SettingsView } from "./settings.tsx";
import { TourView } from "./tour.tsx";
import { TracesView } from "./traces.tsx";
import { ActDialog, Empty, Link, Sign, url } from "./ui.tsx";

const views = [
  ["map", "Map"],
  ["services", "Services"],
  ["circuits", "Circuits"],
  ["settings", "Settings"],
  ["routes", "Routes"],
  ["traces", "Traces"],
  ["try", "Try it"],
];

function View() {
  const [view, a = "", b = ""] = url.value.pathname.slice(1).split("/").map(decodeURIComponent);
  switch (view) {
    case "":
    case "map":
      return <MapView />;
    case "services":
      return <ServicesView service={a} id={b} />;
    case "circuits":
      return <CircuitsView />;
    case "settings":
      return <SettingsView key={a} rest={a} />;
    case "routes":
      return <RoutesView />;
    case "traces":
      return <TracesView key={a} rest={a} />;
    case "try":
      return <TourView rest={a} />;
    default:
      return (
        <>
          <header class="view">
            <h1>Not found</h1>
          </header>
          <Empty>
            There is no view at {url.value.pathname}. Start from the <Link href="/map">map</Link>.
          </Empty>
        </>
      );
  }
}

function Connection() {
  const c = connection.value;
  if (c.open) {
    return (
      <span class="connection">
        <Sign tone="ok" /> live{readOnly.value && ", read-only"}
      </span>
    );
  }
  return (
    <span class="connection">
      <Sign tone="bad" /> not connected
    </span>
  );
}

function Disconnected() {
  const c = connection.value;
  if (c.open || now.value - c.since < 1500) return null;
  const wait = c.retryAt ? Math.max(0, c.retryAt - now.value) : 0;
  return (
    <p class="alert" role="alert">
      <Sign tone="bad" /> The console has not answered since {clock(new Date(c.since))}.{" "}
      {hello.value ? "The page shows the state of that time. " : ""}
      {wait > 500 ? `Trying again in ${span(wait)}.` : "Trying again now."}
    </p>
  );
}

function App() {
  const current = url.value.pathname.split("/")[1] || "map";
  const name = views.find(([path]) => path === current)?.[1] ?? "Not found";
  useEffect(() => {
    document.title = `${name} · Bijou console`;
  }, [name]);
  return (
    <>
      <a class="skip" href="#main">
        Skip to the view
      </a>
      <header class="top">
        <Link href="/map" class="brand" label="Bijou console, to the map">
          <img src="/icon.svg" alt="" width={18} height={18} /> Bijou
        </Link>
        <nav aria-label="Views">
          {views.map(([path, title]) => (
            <Link key={path} href={`/${path}`} current={path === current}>
              {title}
            </Link>
          ))}
        </nav>
        <Connection />
      </header>
      <main id="main" tabIndex={-1}>
        <Disconnected />
        <View />
      </main>
      <ActDialog />
    </>
  );
}

const root = document.getElementById("app");
if (!root) throw new Error("index.html has no element with the id app");
root.replaceChildren();
render(<App />, root);
// The browser tests read these marks: when the page can be used, and when it shows data.
requestAnimationFrame(() => performance.mark("interactive"));
const stop = effect(() => {
  if (traffic.value && fleet.value)
    requestAnimationFrame(() => {
      performance.mark("picture");
      stop();
    });
});
void connect();
