// The list of runs and studies, which moves while they run.
import { make } from "./shared.js";
import { link } from "./address.js";
import { plain } from "./text.js";
import { age, count, dollars, interval, percent } from "./words.js";

export const stateNode = (one) => {
  const node = make("span", `state ${one.state.replaceAll(" ", "-")}`, one.state);
  if (one.player) node.title = one.player;
  if (one.problem) node.title = one.problem;
  return node;
};

export const progressNode = (one) => {
  const done = (one.finished ?? 0) + (one.failed ?? 0);
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

const cell = (tag, className, ...parts) => {
  const node = make(tag, className);
  node.append(...parts);
  return node;
};

const row = (one) => {
  const node = make("tr");
  const name = make("a", "", plain(one.run));
  name.href = link(one.arms === null ? { run: one.run } : { study: one.run });
  const kind = one.arms === null ? plain(one.model ?? "") : `study of ${count(one.arms)} ${one.arms === 1 ? "arm" : "arms"}`;
  const title = cell("th", "", name);
  title.scope = "row";
  if (one.problem) title.append(make("small", "problem", plain(one.problem)));
  node.append(title, cell("td", "model", kind), cell("td", "", stateNode(one)), cell("td", "", progressNode(one)),
    cell("td", "number", ...(one.arms === null ? asrNodes(one) : ["see its arms"])), cell("td", "number", count(one.missing)), cell("td", "number", spentText(one)),
    cell("td", "number", one.state === "running" ? "now" : age(one.age_seconds)));
  return node;
};

const HEADINGS = [["Name"], ["Model"], ["State"], ["Dialogues"], ["ASR so far", true], ["Missing", true], ["Spent", true], ["Last played", true]];

export const runsView = () => {
  const root = make("div", "runs");
  const lede = make("p", "lede");
  const scroll = make("div", "scroll");
  const table = make("table", "runs");
  const head = make("thead"), heads = make("tr"), body = make("tbody");
  for (const [name, number] of HEADINGS) {
    const heading = make("th", number ? "number" : "", name);
    heading.scope = "col";
    heads.append(heading);
  }
  head.append(heads);
  table.append(head, body);
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
    if (focused) [...body.querySelectorAll("a")].find((one) => one.getAttribute("href") === focused)?.focus();
  };
  return { root, update };
};
