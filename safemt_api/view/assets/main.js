// The page: what the address asks for, looked at again every other second while it is seen.
import { $, make } from "./shared.js";
import { asked } from "./api.js";
import { go, here } from "./address.js";
import { runsView } from "./runs.js";
import { studyView } from "./study.js";
import { plain } from "./text.js";
import { transcriptsView } from "./transcripts.js";

const LOOK_MILLISECONDS = 1500;
const main = $("main");
let view = null, steps = 0;

const scopeOf = (place) => (place.study ? { study: place.study } : place.run ? { run: place.run } : null);
const keyOf = (place) => JSON.stringify(scopeOf(place));

const parts = () => {
  const links = [...main.querySelectorAll("section[id] > h2")].map((heading) => {
    const node = make("button", "part", heading.textContent);
    node.type = "button";
    node.addEventListener("click", () => { heading.scrollIntoView(); heading.tabIndex = -1; heading.focus({ preventScroll: true }); });
    return node;
  });
  if ([...$("parts").children].map((node) => node.textContent).join("\n") !== links.map((node) => node.textContent).join("\n")) $("parts").replaceChildren(...links);
};

const listing = () => {
  const shown = runsView();
  main.replaceChildren(shown.root);
  document.title = "SafeMT runs";
  return { key: "null", async look() { const { answer, changed } = await asked("overview"); if (changed || !this.seen) { this.seen = true; shown.update(answer); } }, goTo: () => shown.sort() };
};

const reader = (place) => {
  const asks = scopeOf(place);
  let transcripts = null, version = null;
  const figures = studyView(asks);
  main.replaceChildren(figures.root, figures.told);
  return {
    key: keyOf(place),
    async look() {
      const { answer, changed } = await asked("scope", asks);
      if (!changed && transcripts) return;
      figures.update(answer);
      if (!transcripts || transcripts.arms !== answer.arms.map((arm) => arm.run).join("\n")) {
        transcripts?.root.remove();
        transcripts = Object.assign(transcriptsView({ asks, arms: answer.arms }), { arms: answer.arms.map((arm) => arm.run).join("\n") });
        figures.told.before(transcripts.root);
        transcripts.fill(answer.facets);
        version = answer.version;
        await transcripts.goTo(here());
      } else if (answer.version !== version) {
        version = answer.version;
        await transcripts.came(answer.facets);
      }
    },
    goTo: (said) => transcripts?.goTo(said),
    press: (name) => transcripts?.key(name),
    paint: () => transcripts?.paint(),
  };
};

const connection = (error) => {
  $("connection").textContent = error ? (error.status ? plain(error.message) : "The viewer has ended; this is what was seen last.") : "";
};

const look = async () => {
  const mine = view;
  try {
    await mine.look();
    if (mine !== view) return;
    connection(null);
    parts();
    document.documentElement.dataset.ready = "true";
  } catch (error) {
    if (mine !== view) return;
    connection(error);
    if (error.status === 404) main.replaceChildren(make("h1", "", "Not here"), make("p", "", plain(error.message)));
  }
};

const show = async () => {
  const place = here();
  if (view && view.key === keyOf(place)) { await view.goTo?.(place); return; }
  view = scopeOf(place) ? reader(place) : listing();
  scrollTo(0, 0);
  await look();
};

const follow = async () => {
  const step = (steps += 1);
  while (step === steps) {
    await new Promise((done) => { setTimeout(done, LOOK_MILLISECONDS); });
    if (!document.hidden && step === steps) await look();
  }
};

addEventListener("hashchange", show);
addEventListener("resize", () => requestAnimationFrame(() => view?.paint?.()));
document.addEventListener("visibilitychange", () => { if (!document.hidden) look(); });
$("skip").addEventListener("click", (event) => { event.preventDefault(); main.focus(); });
$("keys").addEventListener("click", () => $("help").showModal());
addEventListener("keydown", (event) => {
  const typing = event.target instanceof HTMLElement && event.target.matches("input:not([type=checkbox]), select, textarea");
  if (typing || event.ctrlKey || event.metaKey || event.altKey || document.querySelector("dialog[open]")) return;
  if (event.key === "?") $("help").showModal();
  else if (event.key === "h") go({});
  else if (!view?.press?.(event.key)) return;
  event.preventDefault();
});

await show();
follow();
