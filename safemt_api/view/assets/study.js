// One study, or one run: how far it came, what it found, and its transcripts.
import { make, sortable, swatch } from "./shared.js";
import { link } from "./address.js";
import { heatMap, lineChart, tip } from "./charts.js";
import { asrNodes, cell, doneOf, progressNode, sortedTable, spentText, stateNode, valued } from "./runs.js";
import { plain } from "./text.js";
import { count, index, turnWord } from "./words.js";

export const section = (key, title, ...parts) => {
  const node = make("section");
  node.id = key;
  const heading = make("h2", "", title);
  heading.id = `${key}-title`;
  node.setAttribute("aria-labelledby", heading.id);
  node.append(heading, ...parts);
  return node;
};

const facts = (pairs) => {
  const node = make("ul", "facts");
  for (const [name, ...values] of pairs) {
    if (!values.some((value) => value !== "" && value !== null && value !== undefined)) continue;
    const item = make("li", "", `${name} `);
    item.append(cell("b", "", ...values));
    node.append(item);
  }
  return node;
};

const indexNodes = (found) => {
  if (!found || found.value === null || found.value === undefined) return ["–"];
  return [index(found.value), " ", make("small", "second", `${index(found.ci_low)}–${index(found.ci_high)}`)];
};

const armRow = (arm) => {
  const node = make("tr");
  const name = make("a", "", plain(arm.name));
  name.href = link({ run: arm.run });
  const title = cell("th", "", swatch(arm.look), name);
  title.scope = "row";
  if (arm.problem) title.append(make("small", "problem", plain(arm.problem)));
  node.append(title, cell("td", "", stateNode(arm)), valued(doneOf(arm), cell("td", "", progressNode(arm))), valued(arm.asr, cell("td", "number", ...asrNodes(arm))),
    valued(arm.safety_index?.value, cell("td", "number", ...indexNodes(arm.safety_index))), valued(arm.missing, cell("td", "number", count(arm.missing))), valued(arm.spent_usd, cell("td", "number", spentText(arm))));
  return node;
};

const HEADINGS = [["Run", "run"], ["State", "state"], ["Dialogues", "dialogues"], ["ASR so far", "asr", true], ["Safety Index", "index", true], ["Missing", "missing", true], ["Spent", "spent", true]];

const lines = (arms) => {
  const protocols = [...new Set(arms.map((arm) => arm.protocol))];
  return protocols.map((protocol) => lineChart(
    arms.filter((arm) => arm.protocol === protocol).map((arm) => ({ name: plain(arm.name), look: arm.look, points: arm.asr_by_turn ?? [] })),
    { word: turnWord(protocol), label: `Attack success rate by ${turnWord(protocol)}; the numbers are told on hover, and stand in the tables` },
  ));
};

const map = (arms, asks) => {
  if (arms.length === 1) {
    const [arm] = arms;
    const cells = new Map(arm.scenario_lengths.map((row) => [`${row.scenario} ${row.length}`, row]));
    const scenarios = [...new Set(arm.scenario_lengths.map((row) => row.scenario))].sort();
    const lengths = [...new Set(arm.scenario_lengths.map((row) => row.length))].sort((one, two) => one - two);
    return scenarios.length ? heatMap({
      rows: scenarios.map((name) => ({ key: name, name: plain(name) })), columns: lengths.map((length) => ({ key: length, name: String(length) })),
      cellOf: (row, column) => cells.get(`${row.key} ${column.key}`), corner: "Scenario", caption: "ASR in percent by scenario and length. A cell opens its dialogues.",
      leadsTo: (row, column) => link({ ...asks, scenario: row.key, length: column.key }),
    }) : null;
  }
  const scenarios = [...new Set(arms.flatMap((arm) => arm.scenarios.map((row) => row.scenario)))].sort();
  const cells = new Map(arms.flatMap((arm) => arm.scenarios.map((row) => [`${arm.run} ${row.scenario}`, row])));
  return scenarios.length ? heatMap({
    rows: arms.map((arm) => ({ key: arm.run, name: arm.name })), columns: scenarios.map((name) => ({ key: name, name: plain(name) })),
    cellOf: (row, column) => cells.get(`${row.key} ${column.key}`), corner: "Run", caption: "ASR in percent of each run by scenario, all lengths together. A cell opens its dialogues.",
    leadsTo: (row, column) => link({ ...asks, only: row.name, scenario: column.key }),
  }) : null;
};

// The heading and the figures, and apart from them what is `told` in tables; `update` draws them anew, and leaves open what was opened.
export const studyView = (asks) => {
  const root = make("div"), title = make("h1"), about = make("div"), runs = make("div"), charts = make("div"), told = make("div");
  const { table, body, sort } = sortedTable("", HEADINGS, "arms");
  let drawn = "";
  title.textContent = plain(asks.study ?? asks.run);
  root.append(title, about, runs, charts);
  const update = (scope) => {
    title.textContent = plain(scope.name);
    document.title = `${plain(scope.name)} · SafeMT runs`;
    const whole = scope.study ?? scope.arms[0];
    const unique = (name) => [...new Set(scope.arms.map((arm) => arm[name]).filter(Boolean))].map(plain).join(", ");
    const parts = [facts([["state", stateNode(whole)], ["model", scope.arms.length > 1 ? "" : unique("model")], ["dialogues", progressNode(whole)], ["spent", spentText(whole)],
      ["judge", unique("judge")], ["moderator", scope.arms.length > 1 ? "" : unique("moderator")], ["protocol", unique("protocol")],
      ["started", (scope.arms.map((arm) => arm.started_utc).filter(Boolean).sort()[0] ?? "").slice(0, 16).replace("T", " ")]])];
    for (const sentence of scope.sentences ?? []) parts.push(make("p", "banner", plain(sentence)));
    about.replaceChildren(...parts);
    if (!runs.firstChild) runs.append(section("runs", scope.arms.length > 1 ? "Runs" : "Scores", cell("div", "scroll", table)));
    body.replaceChildren(...scope.arms.map(armRow));
    sort();
    // Charts stay as they are while their numbers do: somebody may be reading one.
    const numbers = JSON.stringify(scope.arms.map((arm) => [arm.run, arm.protocol, arm.asr_by_turn, arm.scenarios, arm.scenario_lengths]));
    if (numbers !== drawn) {
      drawn = numbers;
      const cells = map(scope.arms, asks);
      tip.hide();
      charts.replaceChildren(...(scope.arms.some((arm) => arm.asr_by_turn?.length) ? [section("scores", "ASR by turn", ...lines(scope.arms))] : []),
        ...(cells ? [section("scenarios", "Scenarios", cells)] : []));
    }
    // The report's own tables, as the report's own renderer wrote them: every name and word in them is escaped there.
    const open = new Set([...told.querySelectorAll("details[open] > summary")].map((node) => node.textContent));
    told.innerHTML = scope.tables ?? "";
    for (const one of told.querySelectorAll("table.sortable")) sortable(one);
    for (const fold of told.querySelectorAll("details")) fold.open ||= open.has(fold.querySelector("summary").textContent);
  };
  return { root, told, update };
};
