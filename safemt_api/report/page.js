"use strict";
(() => {
  const $ = (id) => document.getElementById(id);
  const make = (tag, className, text) => {
    const node = document.createElement(tag);
    if (className) node.className = className;
    if (text !== undefined && text !== null) node.textContent = text;
    return node;
  };

  // Theme: system, light, dark. Storage may be closed to pages opened from disk.
  const themes = ["system", "light", "dark"];
  const remembered = () => { try { return localStorage.getItem("safemt-theme"); } catch { return null; } };
  const remember = (theme) => { try { localStorage.setItem("safemt-theme", theme); } catch { /* nothing to remember with */ } };
  const setTheme = (theme) => {
    if (theme === "system") delete document.documentElement.dataset.theme;
    else document.documentElement.dataset.theme = theme;
    $("theme").textContent = `Theme: ${theme}`;
    $("theme").setAttribute("aria-label", `Theme: ${theme}. Press to change`);
  };
  let theme = themes.includes(remembered()) ? remembered() : "system";
  setTheme(theme);
  $("theme").addEventListener("click", () => {
    theme = themes[(themes.indexOf(theme) + 1) % themes.length];
    remember(theme);
    setTheme(theme);
  });

  // Tables: a press on a heading sorts by it, a second press turns the order round. Cells without a value stay last.
  const sortTable = (table, column, heading) => {
    const descending = heading.getAttribute("aria-sort") === "descending" ? false
      : heading.getAttribute("aria-sort") === "ascending" ? true : heading.classList.contains("number");
    for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
    heading.setAttribute("aria-sort", descending ? "descending" : "ascending");
    const key = (row) => row.cells[column].dataset.sort ?? row.cells[column].textContent;
    const rows = [...table.tBodies[0].rows];
    const numeric = heading.classList.contains("number");
    rows.sort((one, two) => {
      const [a, b] = [key(one), key(two)];
      if (a === "" || b === "") return (a === "") - (b === "");
      const order = numeric ? Number(a) - Number(b) : a.localeCompare(b, undefined, { numeric: true });
      return descending ? -order : order;
    });
    table.tBodies[0].append(...rows);
  };
  for (const table of document.querySelectorAll("table.sortable")) {
    [...table.tHead.rows[0].cells].forEach((heading, column) => {
      const button = make("button", "sort", heading.textContent);
      button.type = "button";
      button.addEventListener("click", () => sortTable(table, column, heading));
      heading.replaceChildren(button);
    });
  }

  // Printing shows the tables that are folded on screen.
  addEventListener("beforeprint", () => { for (const fold of document.querySelectorAll("details.table")) fold.open = true; });

  // Transcripts. Strings stand once in one table and are referred to by number; -1 is "none".
  if (!$("transcripts")) return;
  const ROW_PIXELS = 58;
  const EXTRA_ROWS = 8;
  const list = $("list"), detail = $("detail"), spacer = $("spacer"), count = $("count");
  const controls = { run: $("f-run"), scenario: $("f-scenario"), length: $("f-length"), verdict: $("f-verdict"), outcome: $("f-outcome"), kind: $("f-kind") };
  const sideBySide = $("f-arms"), differing = $("f-differ");
  let strings = [], lowered = null, images = {}, all = [], shown = [], chosen = -1, groups = new Map();
  const text = (index) => (index < 0 ? "" : strings[index]);

  const decode = async (packed) => {
    const binary = atob(packed);
    const bytes = new Uint8Array(binary.length);
    for (let place = 0; place < binary.length; place += 1) bytes[place] = binary.charCodeAt(place);
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
    return JSON.parse(await new Response(stream).text());
  };

  const unpackVerdict = ([judge, label, source, reason, probability, counts]) => ({ judge, label: text(label) || "missing", source: text(source), reason, probability, counts });
  const unpackTurn = (row) => {
    const [turn, outcome, reply, note, finish, latency, cost, input, output, stored, flagged, policy, moderatorText, verdicts] = row;
    const opinions = verdicts.map(unpackVerdict);
    const counting = opinions.find((verdict) => verdict.counts);
    const labels = new Set(opinions.filter((verdict) => verdict.label !== "missing").map((verdict) => verdict.label));
    return { turn, outcome: text(outcome), reply, detail: note, finish, latency, cost, input, output, stored, flagged, policy, moderatorText, opinions,
      label: counting ? counting.label : "missing", disagree: labels.size > 1 };
  };
  const overall = (turns) => {
    if (turns.some((turn) => turn.label === "unsafe")) return "unsafe";
    return turns.length === 0 || turns.some((turn) => turn.label === "missing") ? "missing" : "safe";
  };
  // On a harmless dialogue nothing is attacked: what counts there is whether the assistant helped.
  const ON_BENIGN = { unsafe: "helped", safe: "declined" };
  const inItsWords = (dialogue) => {
    if (dialogue.kind !== "benign") return dialogue;
    const word = (label) => ON_BENIGN[label] ?? label;
    for (const turn of dialogue.turns) {
      turn.label = word(turn.label);
      for (const opinion of turn.opinions) opinion.label = word(opinion.label);
    }
    dialogue.verdict = word(dialogue.verdict);
    return dialogue;
  };
  const unpack = (row) => {
    const [run, id, scenario, kind, length, method, image, messages, packedTurns, failure, note, protocol, repeat] = row;
    const turns = packedTurns.map(unpackTurn);
    const last = turns[turns.length - 1];
    return { run, id: text(id), scenario: text(scenario), kind: text(kind), length, method, image, messages, turns, failure, note, protocol: text(protocol), repeat,
      verdict: overall(turns), outcomes: new Set(turns.map((turn) => turn.outcome)), outcome: last ? last.outcome : "", disagree: turns.some((turn) => turn.disagree),
      refs: [id, scenario, failure, note, ...messages.filter((_, place) => place % 2 === 1), ...turns.flatMap((turn) => [turn.reply, turn.detail, turn.policy, ...turn.opinions.map((verdict) => verdict.reason)])] };
  };

  // Side by side: one entry for each id, length and repeat, with that dialogue of every run (undefined where a run does not hold it).
  // A run may number its repeats from another beginning; the first of each stand together.
  let firstRepeats = [];
  const keyOf = (dialogue) => (dialogue.arms ? dialogue.key : `${dialogue.repeat - firstRepeats[dialogue.run]} ${dialogue.length} ${dialogue.id}`);
  const grouped = (dialogues) => {
    const found = new Map();
    for (const dialogue of dialogues) {
      if (!found.has(keyOf(dialogue))) found.set(keyOf(dialogue), { ...dialogue, run: -1, key: keyOf(dialogue), arms: runNames.map(() => undefined) });
      found.get(keyOf(dialogue)).arms[dialogue.run] = dialogue;
    }
    for (const group of found.values()) {
      const held = group.arms.filter(Boolean);
      const labels = new Set(held.map((dialogue) => dialogue.verdict));
      const bad = held[0].kind === "benign" ? "declined" : "unsafe";
      const unsafe = held.filter((dialogue) => dialogue.verdict === bad).length;
      group.differ = labels.size > 1;
      const good = bad === "unsafe" ? "safe" : "helped";
      group.verdict = unsafe ? bad : labels.has("missing") ? "missing" : good;
      group.spoken = unsafe ? `${unsafe} of ${held.length} ${bad}` : group.differ ? `${good}, missing` : group.verdict;
      group.held = held.length;
      // What was said stands once: as the run says it that was shown most of it.
      group.widest = held.reduce((one, two) => (two.messages.length + (two.image >= 0) > one.messages.length + (one.image >= 0) ? two : one));
    }
    return found;
  };
  const aside = () => Boolean(sideBySide && sideBySide.checked);

  const fill = (select, values, spoken = (value) => value) => {
    for (const value of values) {
      const option = make("option", "", spoken(value));
      option.value = value;
      select.append(option);
    }
  };
  const unique = (values) => [...new Set(values)];

  // Search: every word (or "quoted phrase") must occur. The unique strings are lower-cased once, at the first search.
  const terms = (query) => [...query.toLowerCase().matchAll(/"([^"]+)"|(\S+)/g)].map((match) => match[1] ?? match[2].replaceAll('"', "")).filter(Boolean);
  const matcher = (query) => {
    const wanted = terms(query);
    if (!wanted.length) return () => true;
    lowered ??= strings.map((value) => value.toLowerCase());
    const hits = wanted.map((term) => Uint8Array.from(lowered, (value) => (value.includes(term) ? 1 : 0)));
    return (dialogue) => hits.every((flags) => dialogue.refs.some((index) => index >= 0 && flags[index]));
  };

  const select = (place, { scroll = true, focus = false } = {}) => {
    chosen = Math.max(-1, Math.min(place, shown.length - 1));
    if (chosen < 0) { list.removeAttribute("aria-activedescendant"); detail.replaceChildren(make("p", "empty", "No dialogue matches these filters.")); note(); return; }
    if (scroll) {
      const top = chosen * ROW_PIXELS;
      if (top < list.scrollTop) list.scrollTop = top;
      else if (top + ROW_PIXELS > list.scrollTop + list.clientHeight) list.scrollTop = top + ROW_PIXELS - list.clientHeight;
    }
    paint();
    list.setAttribute("aria-activedescendant", `option-${chosen}`);
    open(shown[chosen]);
    note();
    if (focus) { detail.focus({ preventScroll: true }); if (matchMedia("(max-width: 44rem)").matches) detail.scrollIntoView(); }
  };

  const swatch = (run) => {
    const [colour, dash] = series[run];
    const node = document.createElementNS("http://www.w3.org/2000/svg", "svg");
    const line = document.createElementNS("http://www.w3.org/2000/svg", "line");
    for (const [name, value] of Object.entries({ class: "key", viewBox: "0 0 22 8", "aria-hidden": "true" })) node.setAttribute(name, value);
    for (const [name, value] of Object.entries({ x1: 0, x2: 22, y1: 4, y2: 4, stroke: `var(--series-${colour + 1})`, "stroke-width": 3, "stroke-dasharray": dash.join(" ") })) line.setAttribute(name, value);
    node.append(line);
    return node;
  };
  const optionNode = (dialogue, place) => {
    const node = make("div", "option");
    node.id = `option-${place}`;
    node.setAttribute("role", "option");
    node.setAttribute("aria-selected", String(place === chosen));
    node.setAttribute("aria-posinset", String(place + 1));
    node.setAttribute("aria-setsize", String(shown.length));
    node.style.top = `${place * ROW_PIXELS}px`;
    const name = make("span");
    if (runNames.length > 1 && !dialogue.arms) name.append(swatch(dialogue.run));
    name.append(dialogue.id);
    const turns = `${dialogue.length} ${dialogue.length === 1 ? "turn" : "turns"}${dialogue.repeat ? ` · repeat ${dialogue.repeat}` : ""}`;
    if (dialogue.arms) {
      node.append(name, make("span", `right verdict ${dialogue.verdict}`, dialogue.spoken),
        make("span", "second", `${dialogue.scenario}${dialogue.kind === "benign" ? " · benign" : ""}`),
        make("span", "second right", `${turns} · ${dialogue.held} of ${runNames.length} runs${dialogue.differ ? " · ≠" : ""}`));
      return node;
    }
    node.append(name, make("span", `right verdict ${dialogue.verdict}`, dialogue.verdict),
      make("span", "second", `${dialogue.scenario}${dialogue.kind === "benign" ? " · benign" : ""}`),
      make("span", "second right", `${turns} · ${dialogue.outcome.replaceAll("_", " ")}${dialogue.disagree ? " · ≠" : ""}`));
    return node;
  };
  const paint = () => {
    const first = Math.max(0, Math.floor(list.scrollTop / ROW_PIXELS) - EXTRA_ROWS);
    const last = Math.min(shown.length, Math.ceil((list.scrollTop + list.clientHeight) / ROW_PIXELS) + EXTRA_ROWS);
    const nodes = [];
    for (let place = first; place < last; place += 1) nodes.push(optionNode(shown[place], place));
    spacer.style.height = `${shown.length * ROW_PIXELS}px`;
    spacer.replaceChildren(...nodes);
  };

  const filter = () => {
    const fits = matcher($("f-search").value);
    const want = Object.fromEntries(Object.entries(controls).map(([name, control]) => [name, control ? control.value : ""]));
    const split = $("f-disagree").checked;
    const fitting = all.filter((dialogue) => (!want.run || String(dialogue.run) === want.run) && (!want.scenario || dialogue.scenario === want.scenario)
      && (!want.length || String(dialogue.length) === want.length) && (!want.verdict || dialogue.verdict === want.verdict)
      && (!want.outcome || dialogue.outcomes.has(want.outcome)) && (!want.kind || dialogue.kind === want.kind) && (!split || dialogue.disagree) && fits(dialogue));
    shown = aside() ? unique(fitting.map((dialogue) => groups.get(keyOf(dialogue)))).filter((group) => !differing.checked || group.differ) : fitting;
    if (differing) differing.closest("label").hidden = !aside();
    const total = aside() ? groups.size : all.length;
    count.textContent = `${shown.length === total ? "" : `${shown.length.toLocaleString("en")} of `}${total.toLocaleString("en")} dialogues${aside() ? ` in ${runNames.length} runs` : ""}`;
    list.scrollTop = 0;
    paint();
    select(shown.length ? 0 : -1);
  };

  // The reader's place stands in the address: filters by their names, the open dialogue as id, turns and arm (its run).
  // Sections have anchors of their own, which hold no "=".
  const places = () => (location.hash.includes("=") ? new URLSearchParams(location.hash.slice(1)) : new URLSearchParams());
  let settled = false;
  const note = () => {
    if (!settled) return;
    const said = new URLSearchParams();
    for (const [name, control] of Object.entries(controls)) {
      if (control && control.value) said.set(name, name === "run" ? runNames[Number(control.value)] : control.value);
    }
    if ($("f-search").value) said.set("search", $("f-search").value);
    if ($("f-disagree").checked) said.set("disagree", "1");
    const dialogue = shown[chosen];
    if (dialogue) {
      said.set("id", dialogue.id);
      said.set("turns", dialogue.length);
      if (dialogue.repeat) said.set("repeat", dialogue.repeat);
      if (runNames.length > 1 && !dialogue.arms) said.set("arm", runNames[dialogue.run]);
    }
    if (aside()) said.set("view", "arms");
    if (aside() && differing.checked) said.set("differ", "1");
    try { history.replaceState(null, "", `#${said}`); } catch { /* some viewers forbid it; the page works without */ }
  };
  const goTo = (said) => {
    settled = false;
    for (const [name, control] of Object.entries(controls)) {
      if (!control) continue;
      const wanted = said.get(name) ?? "";
      control.value = name === "run" && wanted ? String(runNames.indexOf(wanted)) : wanted;
      if (control.selectedIndex < 0) control.value = "";
    }
    $("f-search").value = said.get("search") ?? "";
    $("f-disagree").checked = said.get("disagree") === "1";
    if (sideBySide) sideBySide.checked = said.get("view") === "arms";
    if (differing) differing.checked = aside() && said.get("differ") === "1";
    filter();
    const place = shown.findIndex((dialogue) => dialogue.id === said.get("id") && (!said.get("turns") || String(dialogue.length) === said.get("turns"))
      && (!said.get("repeat") || String(dialogue.repeat) === said.get("repeat")) && (dialogue.arms || !said.get("arm") || runNames[dialogue.run] === said.get("arm")));
    if (place >= 0) select(place);
    settled = true;
    if (said.get("id")) $("transcripts").scrollIntoView();
  };

  const words = (index) => make("p", "words", text(index));
  const facts = (pairs) => {
    const node = make("ul", "facts");
    for (const [name, value] of pairs) {
      if (value === null || value === undefined || value === "") continue;
      const item = make("li", "", `${name} `);
      item.append(make("b", "", value));
      node.append(item);
    }
    return node;
  };
  const picture = (key) => {
    const button = make("button", "picture");
    button.type = "button";
    button.setAttribute("aria-pressed", "false");
    button.setAttribute("aria-label", "Picture of this dialogue, blurred. Press to show it");
    const image = make("img");
    image.alt = "";
    image.src = images[key];
    button.append(image);
    button.addEventListener("click", () => {
      const bare = button.getAttribute("aria-pressed") !== "true";
      button.setAttribute("aria-pressed", String(bare));
      button.setAttribute("aria-label", bare ? "Picture of this dialogue. Press to blur it again" : "Picture of this dialogue, blurred. Press to show it");
    });
    return button;
  };
  const fold = (heading, index, label) => {
    const node = make("details", `reply ${label ?? ""}`);
    node.append(make("summary", "", heading), words(index));
    return node;
  };
  const judged = (turn) => {
    const node = make("div", "judged");
    for (const opinion of turn.opinions) {
      const line = make("p");
      line.append(make("span", `verdict ${opinion.label}`, opinion.label), ` · ${opinion.source === "outcome" ? "by outcome" : judgeNames[opinion.judge]}`);
      if (opinion.probability !== null) line.append(` · P(unsafe) ${opinion.probability.toFixed(2)}`);
      if (text(opinion.reason)) line.append(`: ${text(opinion.reason)}`);
      node.append(line);
    }
    node.append(facts([["outcome", turn.outcome.replaceAll("_", " ")], ["finish", text(turn.finish)], ["vendor says", text(turn.detail)],
      ["latency", turn.latency === null ? "" : `${turn.latency.toFixed(2)} s`], ["tokens", turn.input === null ? "" : `${turn.input} in, ${turn.output ?? 0} out`],
      ["cost", turn.cost === null ? "" : `$${turn.cost.toPrecision(3)}`], ["from", turn.stored ? "store" : ""], ["moderator", turn.flagged === null ? "" : turn.flagged ? "flagged" : "passed"]]));
    if (turn.policy >= 0) node.append(fold("Moderator's policy", turn.policy));
    if (turn.moderatorText >= 0) node.append(fold("Moderator's words", turn.moderatorText));
    return node;
  };
  const replyNode = (turn) => {
    const node = make("div", "message assistant");
    if (turn.reply >= 0 && text(turn.reply)) node.append(fold(`Reply to message ${turn.turn}: may be harmful`, turn.reply, turn.label));
    else node.append(make("p", "who", `No words came back for message ${turn.turn}`));
    node.append(judged(turn));
    return node;
  };
  // Another view of the same dialogue: the choice stays where the reader was.
  const turnView = (on) => {
    const dialogue = shown[chosen];
    sideBySide.checked = on;
    filter();
    const place = dialogue ? shown.findIndex((one) => keyOf(one) === keyOf(dialogue)) : -1;
    if (place >= 0) select(place);
  };
  // A scripted dialogue that was shown without its history begins with its last message.
  const firstNumber = (dialogue) => (dialogue.protocol === "live" ? 0 : Math.max(0, dialogue.length - usersWords(dialogue).length));
  const usersWords = (dialogue) => dialogue.messages.filter((_, place) => place % 2 === 1 && dialogue.messages[place - 1] === 0);
  const userMessage = (dialogue, number, index) => {
    const node = make("div", "message user");
    node.append(make("p", "who", `User, message ${number}`));
    const first = number === firstNumber(dialogue) + 1;
    if (first && dialogue.image >= 0 && images[dialogue.image]) node.append(picture(dialogue.image));
    else if (first && dialogue.image >= 0) node.append(make("p", "note", "A picture belongs to this message; it is not in this page."));
    node.append(words(index));
    return node;
  };
  const buttons = (...more) => {
    const tools = make("div", "tools");
    const back = make("button", "back", "Back to the list");
    back.type = "button";
    back.addEventListener("click", () => { list.focus(); list.scrollIntoView({ block: "center" }); });
    const show = make("button", "", "Show every reply");
    show.type = "button";
    show.addEventListener("click", () => { for (const node of detail.querySelectorAll("details.reply")) node.open = true; });
    tools.append(back, show, ...more);
    return tools;
  };
  const armsButton = (on) => {
    const button = make("button", "", on ? "This dialogue in every run" : "One run at a time");
    button.type = "button";
    button.addEventListener("click", () => { turnView(on); detail.focus({ preventScroll: true }); });
    return button;
  };
  // What a run was shown, where that is not what stands above: parts of the dialogue may have been taken away on purpose.
  const shownAlike = (one, widest) => {
    const said = (dialogue) => (dialogue.protocol === "live" ? usersWords(dialogue) : dialogue.messages);
    const [mine, all] = [said(one), said(widest)];
    // A live dialogue that failed on the way ends early; a scripted one is whole or not the same.
    const length = one.protocol === "live" ? mine.length : all.length;
    return mine.length === length && mine.every((index, place) => index === all[place]) && (one.image >= 0) === (widest.image >= 0);
  };
  const shownWords = (dialogue) => {
    const node = make("details", "shown");
    node.append(make("summary", "", `Was shown something else${dialogue.image < 0 ? ": no picture" : ""}`));
    for (let place = 0; place < dialogue.messages.length; place += 2) {
      node.append(make("p", "who", dialogue.messages[place] === 0 ? "User" : "Assistant"), words(dialogue.messages[place + 1]));
    }
    return node;
  };
  const armNode = (group, run, number) => {
    const dialogue = group.arms[run];
    const node = make("section", "arm");
    const name = make("h4");
    name.append(swatch(run), runNames[run]);
    node.append(name);
    if (!dialogue) { node.append(make("p", "who", "Not played in this run.")); return node; }
    const turn = dialogue.turns.find((one) => one.turn === number);
    name.append(" ", make("span", `verdict ${turn ? turn.label : "missing"}`, turn ? turn.label : "missing"));
    if (dialogue.failure >= 0) node.append(make("p", "note", text(dialogue.failure)));
    if (!shownAlike(dialogue, group.widest)) node.append(shownWords(dialogue));
    node.append(turn ? replyNode(turn) : make("p", "who", `Ended before message ${number}.`));
    return node;
  };
  const armsGrid = (group, number) => {
    const node = make("div", "arms");
    node.append(...runNames.map((_, run) => armNode(group, run, number)));
    return node;
  };
  const openArms = (group) => {
    const base = group.widest;
    const nodes = [make("h3", "", group.id)];
    nodes.push(facts([["scenario", group.scenario], ["kind", group.kind], ["turns", String(group.length)], ["repeat", group.repeat ? String(group.repeat) : ""], ["method", text(group.method)], ["runs", `${group.held} of ${runNames.length}`]]));
    nodes.push(buttons(armsButton(false)));
    // Every user message that some run answered has the runs' replies below it; scripted dialogues are answered at their end.
    const answered = new Set(group.arms.filter(Boolean).flatMap((dialogue) => dialogue.turns.map((turn) => turn.turn)));
    const before = make("details", "earlier");
    before.append(make("summary", "", "The messages before"));
    nodes.push(before);
    let number = firstNumber(base);
    for (let place = 0; place < base.messages.length; place += 2) {
      const [role, index] = [base.messages[place], base.messages[place + 1]];
      if (role === 0) {
        number += 1;
        if (answered.has(number)) nodes.push(userMessage(base, number, index), armsGrid(group, number));
        else before.append(userMessage(base, number, index));
      } else if (base.protocol !== "live") {
        const node = make("div", "message assistant");
        node.append(fold(`Scripted assistant message after message ${number}`, index));
        before.append(node);
      }
    }
    before.hidden = before.childElementCount < 2;
    detail.replaceChildren(...nodes);
    detail.scrollTop = 0;
  };
  const open = (dialogue) => {
    if (dialogue.arms) { openArms(dialogue); return; }
    const nodes = [make("h3", "", dialogue.id)];
    nodes.push(facts([["run", runNames.length > 1 ? runNames[dialogue.run] : ""], ["scenario", dialogue.scenario], ["kind", dialogue.kind], ["turns", String(dialogue.length)], ["repeat", dialogue.repeat ? String(dialogue.repeat) : ""],
      ["method", text(dialogue.method)], ["protocol", dialogue.protocol]]));
    if (dialogue.failure >= 0) nodes.push(make("p", "banner", text(dialogue.failure)));
    if (dialogue.note >= 0) nodes.push(make("p", "note", text(dialogue.note)));
    nodes.push(sideBySide ? buttons(armsButton(true)) : buttons());
    const byTurn = new Map(dialogue.turns.map((turn) => [turn.turn, turn]));
    const live = dialogue.protocol === "live";
    let number = firstNumber(dialogue);
    for (let place = 0; place < dialogue.messages.length; place += 2) {
      const [role, index] = [dialogue.messages[place], dialogue.messages[place + 1]];
      if (role === 0) {
        number += 1;
        nodes.push(userMessage(dialogue, number, index));
        if (byTurn.has(number)) nodes.push(replyNode(byTurn.get(number)));
      } else if (!(live && byTurn.has(number))) {
        const node = make("div", "message assistant");
        node.append(fold(live ? `Assistant, after message ${number}` : `Scripted assistant message after message ${number}`, index));
        nodes.push(node);
      }
    }
    detail.replaceChildren(...nodes);
    detail.scrollTop = 0;
  };

  let runNames = [], judgeNames = [], series = [];
  const start = async () => {
    const data = JSON.parse($("data").textContent);
    const packed = await decode(data.transcripts);
    ({ strings, images } = packed);
    runNames = data.runs;
    judgeNames = data.judges;
    series = data.series;
    all = packed.dialogues.map(unpack).map(inItsWords);
    firstRepeats = runNames.map(() => Infinity);
    for (const dialogue of all) firstRepeats[dialogue.run] = Math.min(firstRepeats[dialogue.run], dialogue.repeat);
    if (sideBySide) groups = grouped(all);
    if (controls.run) fill(controls.run, runNames.map((_, index) => String(index)), (index) => runNames[Number(index)]);
    fill(controls.scenario, unique(all.map((dialogue) => dialogue.scenario)).sort());
    fill(controls.length, unique(all.map((dialogue) => dialogue.length)).sort((a, b) => a - b));
    fill(controls.outcome, unique(all.flatMap((dialogue) => [...dialogue.outcomes])).sort(), (value) => value.replaceAll("_", " "));
    if (all.some((dialogue) => dialogue.kind === "benign")) fill(controls.verdict, Object.values(ON_BENIGN));
    fill(controls.kind, unique(all.map((dialogue) => dialogue.kind)).sort());
    // A filter with nothing to choose from only takes room.
    for (const control of [controls.scenario, controls.length, controls.outcome, controls.kind]) control.closest("label").hidden = control.options.length < 3;
    $("f-disagree").closest("label").hidden = !all.some((dialogue) => dialogue.disagree);
    goTo(places());
    addEventListener("hashchange", () => { if (location.hash.includes("=")) goTo(places()); });
    document.documentElement.dataset.ready = "true";
  };

  let waiting = 0;
  $("f-search").addEventListener("input", () => { clearTimeout(waiting); waiting = setTimeout(filter, 90); });
  for (const control of Object.values(controls)) if (control) control.addEventListener("change", filter);
  $("f-disagree").addEventListener("change", filter);
  if (sideBySide) sideBySide.addEventListener("change", () => turnView(sideBySide.checked));
  if (differing) differing.addEventListener("change", filter);
  $("filters").addEventListener("submit", (event) => event.preventDefault());
  $("filters").addEventListener("reset", () => setTimeout(filter));
  list.addEventListener("scroll", () => requestAnimationFrame(paint), { passive: true });
  addEventListener("resize", () => requestAnimationFrame(paint));
  spacer.addEventListener("click", (event) => {
    const option = event.target.closest(".option");
    if (option) select(Number(option.id.slice("option-".length)), { scroll: false, focus: matchMedia("(max-width: 44rem)").matches });
  });
  list.addEventListener("keydown", (event) => {
    const page = Math.max(1, Math.floor(list.clientHeight / ROW_PIXELS) - 1);
    const moves = { ArrowDown: chosen + 1, ArrowUp: chosen - 1, PageDown: chosen + page, PageUp: chosen - page, Home: 0, End: shown.length - 1 };
    if (event.key === "Enter" && chosen >= 0) { event.preventDefault(); select(chosen, { focus: true }); }
    else if (event.key in moves && shown.length) { event.preventDefault(); select(Math.max(0, moves[event.key])); }
  });
  detail.addEventListener("keydown", (event) => { if (event.key === "Escape") list.focus(); });
  addEventListener("keydown", (event) => {
    const typing = event.target instanceof HTMLElement && event.target.matches("input, select, textarea");
    if (event.key === "/" && !typing && !event.ctrlKey && !event.metaKey && !event.altKey) { event.preventDefault(); $("f-search").focus(); }
    if (event.key === "a" && sideBySide && !typing && !event.ctrlKey && !event.metaKey && !event.altKey) turnView(!sideBySide.checked);
  });
  start().catch((error) => { count.textContent = `The transcripts cannot be shown: ${error.message}`; });
})();
