// The list of runs and studies, which moves while they run.
import { make, sortable, sortAs } from "./shared.js";
import { here, link, note } from "./address.js";
import { plain } from "./text.js";
import { age, count, dollars, interval, percent } from "./words.js";

export const stateNode = (one) => {
  const node = make("span", `state ${one.state.replaceAll(" ", "-")}`, one.state);
  if (one.player) node.title = one.player;
  if (one.problem) node.title = one.problem;
  return node;
};

export const progressNode = (one) => {
  const done = doneOf(one);
  const node = make("span", "progress");
  const bar = make("progress");
  bar.max = one.planned || 1;
  bar.value = one.planned ? done : 0;
  bar.setAttribute("aria-label", `${count(done)} of ${count(one.planned)} dialogues`);
  node.append(bar, make("span", "", `${count(done)} of ${count(one.planned)}`));
  if (one.failed) node.append(make("small", "", `${count(one.failed)} failed`));
  return node;
};

export const spentText = (one) => `${dollars(one.spent_usd)}${one.ceiling_usd === null || one.ceiling_usd === undefined ? "" : ` of ${dollars(one.ceiling_usd)}`}`;

export const asrNodes = (one) => {
  const nodes = [percent(one.asr)];
  const between = interval(one.asr_low, one.asr_high);
  if (between) nodes.push(" ", make("small", "second", between));
  return nodes;
};

export const cell = (tag, className, ...parts) => {
  const node = make(tag, className);
  node.append(...parts);
  return node;
};
// A cell of numbers, and what it sorts by; null stays last.
export const valued = (value, node) => { node.dataset.sort = value ?? ""; return node; };
export const doneOf = (one) => (one.finished ?? 0) + (one.failed ?? 0);

// An empty table whose headings sort it; in which order stands in the address as `place`, and `sort` brings new rows into it.
export const sortedTable = (className, headings, place) => {
  const table = make("table", className), heads = make("tr");
  for (const [said, name, number] of headings) {
    const heading = make("th", number ? "number" : "", said);
    heading.scope = "col";
    heading.dataset.name = name;
    heads.append(heading);
  }
  table.append(cell("thead", "", heads), make("tbody"));
  sortable(table, (said) => note({ ...here(), [place]: said }));
  return { table, body: table.tBodies[0], sort: () => sortAs(table, here()[place]) };
};

const row = (one) => {
  const node = make("tr");
  const name = make("a", "", plain(one.run));
  name.href = link(one.arms === null ? { run: one.run } : { study: one.run });
  const kind = one.arms === null ? plain(one.model ?? "") : `study of ${count(one.arms)} ${one.arms === 1 ? "arm" : "arms"}`;
  const title = cell("th", "", name);
  title.scope = "row";
  if (one.problem) title.append(make("small", "problem", plain(one.problem)));
  node.append(title, cell("td", "model", kind), cell("td", "", stateNode(one)), valued(doneOf(one), cell("td", "", progressNode(one))),
    valued(one.arms === null ? one.asr : null, cell("td", "number", ...(one.arms === null ? asrNodes(one) : ["see its arms"]))), valued(one.missing, cell("td", "number", count(one.missing))),
    valued(one.spent_usd, cell("td", "number", spentText(one))), valued(one.state === "running" ? 0 : one.age_seconds, cell("td", "number", one.state === "running" ? "now" : age(one.age_seconds))));
  return node;
};

const HEADINGS = [["Name", "name"], ["Model", "model"], ["State", "state"], ["Dialogues", "dialogues"], ["ASR so far", "asr", true], ["Missing", "missing", true], ["Spent", "spent", true], ["Last played", "played", true]];

export const runsView = () => {
  const root = make("div", "runs");
  const lede = make("p", "lede");
  const scroll = make("div", "scroll");
  const { table, body, sort } = sortedTable("runs", HEADINGS, "sort");
  scroll.append(table);
  root.append(make("h1", "", "Runs and studies"), lede, scroll,
    make("p", "note", "ASR is over all lengths together, of live dialogues at their last turn, with its 95% interval over dialogue ids; verdicts that are missing are in neither count. The rules judge is a baseline."));
  const update = (answer) => {
    const listed = answer.runs.filter((one) => one.arms !== null || !answer.runs.some((other) => other.arms !== null && one.run.startsWith(`${other.run}/`)));
    const running = listed.filter((one) => one.state === "running").length;
    lede.textContent = listed.length ? `${count(listed.length)} in ${answer.results}${running ? `, ${running} under way` : ""}.` : `There is no run in ${answer.results} yet: safemt-api eval makes one, and it shows here while it is played.`;
    scroll.hidden = !listed.length;
    const focused = document.activeElement?.closest?.("tbody") === body ? document.activeElement.getAttribute("href") : null;
    body.replaceChildren(...listed.map(row));
    sort();
    if (focused) [...body.querySelectorAll("a")].find((one) => one.getAttribute("href") === focused)?.focus();
  };
  return { root, update, sort };
};
