// The list of dialogues in either form: lines of two rows, or a table whose columns can be chosen. Both forms stand in the same order, which the
// headings of the table, or the choice above it, change. Here and in the viewer a line is the same plain object:
//   { id, scenario, kind, length, repeat, method, verdict, spoken, outcome, mark, run, held, cost_usd, tokens, seconds }
// `run` counts in `runs`, and is undefined where a line stands for that dialogue in `held` of them; `repeat` is 0 where there is but one.

const LINE_PIXELS = 58, ROW_PIXELS = 34;
const ORDERED = { words: ["A to Z", "Z to A"], numbers: ["least first", "most first"], verdicts: ["worst first", "best first"], places: ["first to last", "last to first"] };
const amount = (value, said) => (value === null || value === undefined ? "–" : said(value));
const usd = (value) => (value === 0 || value >= 1 ? value.toFixed(2) : value.toFixed(value >= 0.0001 ? 4 : 7));
const verdictNode = (line) => make("span", `verdict ${line.verdict}`, line.spoken ?? line.verdict);

// Column by its name in the address: heading, least width in rem and share of what room is left, what stands in the cell, and what its order is of.
const COLUMNS = {
  id: { title: "Id", rem: 7, share: 3, cell: (line) => line.id, order: "words" },
  run: { title: "Run", rem: 9, share: 2, order: "places" },
  scenario: { title: "Scenario", rem: 9, share: 2, cell: (line) => line.scenario, order: "words" },
  kind: { title: "Kind", rem: 5.5, share: 0, cell: (line) => line.kind, order: "words" },
  method: { title: "Method", rem: 7, share: 1, cell: (line) => line.method || "–", order: "words" },
  turns: { title: "Turns", rem: 4, share: 0, cell: (line) => String(line.length), order: "numbers" },
  repeat: { title: "Repeat", rem: 5, share: 0, cell: (line) => (line.repeat ? String(line.repeat) : "–"), order: "numbers" },
  verdict: { title: "Verdict", rem: 6, share: 0, cell: verdictNode, order: "verdicts" },
  outcome: { title: "Outcome", rem: 7.5, share: 1, cell: (line) => (line.outcome ?? "").replaceAll("_", " "), order: "words" },
  cost: { title: "Cost, $", rem: 5.4, share: 0, cell: (line) => amount(line.cost_usd, usd), said: (line) => amount(line.cost_usd, (value) => `$${usd(value)}`), order: "numbers" },
  tokens: { title: "Tokens", rem: 5.5, share: 0, cell: (line) => amount(line.tokens, (value) => value.toLocaleString("en")), said: (line) => `${amount(line.tokens, (value) => value.toLocaleString("en"))} tokens`, order: "numbers" },
  seconds: { title: "Seconds", rem: 5.5, share: 0, cell: (line) => amount(line.seconds, (value) => value.toFixed(2)), said: (line) => amount(line.seconds, (value) => `${value.toFixed(2)} s`), order: "numbers" },
};
const USUAL = ["id", "run", "scenario", "turns", "verdict", "outcome", "cost", "tokens", "seconds"];
const NARROW = ["id", "turns", "verdict", "cost"];
// Name and direction of a sort, as the address tells it: "cost", or "-cost" for the most first.
const sortOf = (said) => {
  const name = (said ?? "").replace(/^-/, "");
  return Object.hasOwn(COLUMNS, name) ? { name, down: said.startsWith("-") } : null;
};

// `apart` says whether a line stands for one run (or for a dialogue in all of them); `changed` is told "sort" or "look".
const dialogueList = ({ list, spacer, runs, apart, changed }) => {
  let columns = null, sort = "", asTable = false;
  const heads = make("div", "heads");
  heads.setAttribute("role", "row");
  heads.setAttribute("aria-rowindex", "1");
  const bar = make("div", "look"), order = make("select"), box = make("input"), menu = make("details", "columns"), choices = make("div", "choices");
  const held = (name) => name !== "run" || runs.length > 1;
  const usual = () => (matchMedia("(max-width: 44rem)").matches ? NARROW : USUAL).filter(held);
  const shownColumns = () => Object.keys(COLUMNS).filter((name) => (columns ?? usual()).includes(name) && (apart() || name !== "outcome"));
  const labelled = (said, node, className) => {
    const label = make("label", className);
    label.append(...(className === "check" ? [node, said] : [said, node]));
    return label;
  };

  order.id = "f-sort";
  order.append(new Option("as in the data", ""));
  for (const [name, column] of Object.entries(COLUMNS)) {
    if (!held(name)) continue;
    const [up, down] = ORDERED[column.order].map((said, place) => new Option(`${column.title.replace(", $", "").toLowerCase()}, ${said}`, place ? `-${name}` : name));
    order.append(...(column.order === "numbers" ? [down, up] : [up, down]));
  }
  box.type = "checkbox";
  box.id = "f-table";
  box.setAttribute("aria-keyshortcuts", "t");
  for (const [name, column] of Object.entries(COLUMNS)) {
    if (!held(name)) continue;
    const one = make("input");
    one.type = "checkbox";
    one.value = name;
    one.addEventListener("change", () => {
      columns = [...choices.querySelectorAll("input:checked")].map((node) => node.value);
      if (!columns.length || columns.join() === usual().join()) columns = null;
      draw();
      changed("look");
    });
    choices.append(labelled(column.title, one, "check"));
  }
  menu.append(make("summary", "button", "Columns"), choices);
  menu.addEventListener("keydown", (event) => { if (event.key === "Escape" && menu.open) { event.stopPropagation(); menu.open = false; menu.firstChild.focus(); } });
  document.addEventListener("pointerdown", (event) => { if (menu.open && !menu.contains(event.target)) menu.open = false; });
  bar.append(labelled("Order ", order, "order"), labelled("as a table", box, "check"), menu);

  const sorted = (said) => { sort = said; draw(); changed("sort"); };
  order.addEventListener("change", () => sorted(order.value));
  // A press sorts, the way that column is usually wanted; a second turns the order round; a third gives the data's own back.
  const pressed = (name) => {
    const ways = COLUMNS[name].order === "numbers" ? [`-${name}`, name] : [name, `-${name}`];
    sorted([...ways, ""][ways.indexOf(sort) + 1]);
  };
  const headNode = (name) => {
    const column = COLUMNS[name];
    const node = make("div", column.order === "numbers" ? "number" : ""), press = make("button", "sort", name === "run" && !apart() ? "Runs" : column.title);
    node.setAttribute("role", "columnheader");
    press.type = "button";
    press.dataset.column = name;
    press.addEventListener("click", () => pressed(name));
    node.append(press);
    return node;
  };
  const draw = () => {
    const names = shownColumns(), now = sortOf(sort);
    order.value = sort;
    box.checked = asTable;
    menu.hidden = !asTable;
    for (const one of choices.querySelectorAll("input")) one.checked = names.includes(one.value);
    list.classList.toggle("rows", asTable);
    list.parentElement.classList.toggle("stacked", asTable);
    list.setAttribute("role", asTable ? "grid" : "listbox");
    if (!asTable) { heads.remove(); spacer.removeAttribute("role"); list.removeAttribute("aria-rowcount"); return; }
    spacer.setAttribute("role", "rowgroup");
    const rem = (name) => COLUMNS[name].rem + (name === "verdict" && !apart() ? 4 : 0);
    list.style.setProperty("--columns", names.map((name) => `minmax(${rem(name)}rem, ${COLUMNS[name].share || 0.01}fr)`).join(" "));
    list.style.setProperty("--width", `${names.reduce((sum, name) => sum + rem(name), 0)}rem`);
    const drawn = [...heads.children].map((node) => node.firstChild.dataset.column);
    if (drawn.join() !== names.join() || !heads.isConnected) heads.replaceChildren(...names.map(headNode));
    for (const node of heads.children) {
      const press = node.firstChild, name = press.dataset.column;
      if (name === "run") press.textContent = apart() ? "Run" : "Runs";
      if (now && now.name === name) node.setAttribute("aria-sort", now.down ? "descending" : "ascending");
      else node.removeAttribute("aria-sort");
    }
    if (!heads.isConnected) list.prepend(heads);
  };
  const turnTo = (on) => { asTable = on; draw(); changed("look"); };
  box.addEventListener("change", () => turnTo(box.checked));

  const nameNode = (line, said) => {
    const node = make("span");
    if (runs.length > 1 && line.run !== undefined) node.append(swatch(runs[line.run].look));
    node.append(make("bdi", "", said));
    return node;
  };
  const runsOf = (line) => (line.run === undefined ? `${line.held} of ${runs.length}` : null);
  const cellNode = (line, name) => {
    const column = COLUMNS[name];
    const said = name === "run" ? runsOf(line) ?? nameNode(line, runs[line.run].name) : column.cell(line);
    const node = make("div", column.order === "numbers" ? "number" : "");
    node.setAttribute("role", "gridcell");
    node.append(said instanceof Node ? said : make("bdi", "", said));
    if (name === "verdict" && line.mark) node.append(" ≠");
    if (typeof said === "string") node.title = said;
    return node;
  };
  const rowCells = (line) => shownColumns().map((name) => cellNode(line, name));
  const twoRows = (line) => {
    const column = COLUMNS[sortOf(sort)?.name];
    const turns = `${line.length} ${line.length === 1 ? "turn" : "turns"}${line.repeat ? ` · repeat ${line.repeat}` : ""}`;
    const verdict = verdictNode(line);
    verdict.classList.add("right");
    return [nameNode(line, line.id), verdict, make("bdi", "second", `${line.scenario}${line.kind === "benign" ? " · benign" : ""}`),
      make("span", "second right", [turns, line.run === undefined ? `${runsOf(line)} runs` : (line.outcome ?? "").replaceAll("_", " "), column?.said?.(line), line.mark ? "≠" : ""].filter(Boolean).join(" · "))];
  };

  return {
    bar, draw, turnTo,
    get asTable() { return asTable; },
    get sort() { return sort; },
    get rowPixels() { return asTable ? ROW_PIXELS : LINE_PIXELS; },
    get headPixels() { return asTable ? ROW_PIXELS : 0; },
    // What the address says of the list, and what is taken from one.
    told: () => ({ as: asTable ? "table" : "", sort, columns: columns ? columns.join(".") : "" }),
    take(said) {
      const names = (said.columns ?? "").split(".").filter((name) => Object.hasOwn(COLUMNS, name) && held(name));
      [asTable, sort, columns] = [said.as === "table", sortOf(said.sort) && held(sortOf(said.sort).name) ? said.sort : "", names.length ? names : null];
      draw();
    },
    // The node of the line that stands at a place, of so many; without a line, one that is still asked for.
    node(line, place, { chosen, total }) {
      const node = make("div", "option");
      node.id = `option-${place}`;
      node.setAttribute("role", asTable ? "row" : "option");
      node.setAttribute("aria-selected", String(chosen));
      if (asTable) node.setAttribute("aria-rowindex", String(place + 2));
      else { node.setAttribute("aria-posinset", String(place + 1)); node.setAttribute("aria-setsize", String(total)); }
      node.style.top = `${place * (asTable ? ROW_PIXELS : LINE_PIXELS)}px`;
      if (asTable) list.setAttribute("aria-rowcount", String(total + 1));
      if (!line) node.append(make("span", "second", "…"));
      else node.append(...(asTable ? rowCells(line) : twoRows(line)));
      return node;
    },
  };
};
