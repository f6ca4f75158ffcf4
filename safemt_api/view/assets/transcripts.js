// The transcripts of a study or run: a list of which only what is seen is fetched, and the chosen dialogue with all there is to know of it.
import { dialogueDrawer, dialogueList, make, marked, terms } from "./shared.js";
import { address, asked } from "./api.js";
import { here, link, note } from "./address.js";
import { callNodes, pictureNode, shown } from "./calls.js";
import { section } from "./study.js";
import { nameSigns, plain } from "./text.js";
import { count } from "./words.js";

const EXTRA_ROWS = 8;
const PAGE_ROWS = 200;
const MOST_PAGES = 12;
const FILTERS = ["only", "scenario", "length", "verdict", "outcome", "kind"];
const NAMES = { only: ["Run", "runs"], scenario: ["Scenario", "scenarios"], length: ["Turns", "lengths"], verdict: ["Verdict", "verdicts"], outcome: ["Outcome", "outcomes"], kind: ["Kind", "kinds"] };

const button = (className, said, press) => {
  const node = make("button", className, said);
  node.type = "button";
  node.addEventListener("click", press);
  return node;
};

const labelled = (name, control, className = "") => {
  const node = make("label", className, name);
  node.append(control);
  return node;
};

export const transcriptsView = (scope) => {
  // `scope`: { asks: what every question holds (study or run), arms }.
  const { asks, arms } = scope;
  const several = arms.length > 1;
  const names = new Map(arms.map((arm) => [arm.run, arm.name]));
  const controls = {};
  const form = make("form", "filters");
  form.id = "filters";
  const search = make("input");
  search.type = "search";
  search.id = "f-search";
  search.placeholder = "words or “a phrase”";
  form.append(labelled("Search", search, "wide"));
  for (const name of FILTERS) {
    const select = make("select");
    select.id = `f-${name}`;
    select.append(new Option("all", ""));
    controls[name] = select;
    form.append(labelled(NAMES[name][0], select));
  }
  const check = (id, said) => {
    const box = make("input");
    box.type = "checkbox";
    box.id = id;
    const node = make("label", "check");
    node.append(box, said);
    form.append(node);
    return box;
  };
  const disagree = check("f-disagree", "judges disagree");
  const together = several ? check("f-arms", "side by side") : null;
  const differ = several ? check("f-differ", "verdicts differ") : null;
  const clear = make("button", "", "Clear");
  clear.type = "reset";
  const save = make("a", "button", "Download");
  save.title = "The dialogues of this list with every turn and verdict, as lines of JSON";
  save.setAttribute("download", "dialogues.jsonl");
  form.append(clear);

  const total = make("p");
  total.id = "count";
  total.setAttribute("role", "status");
  const list = make("div", "list"), spacer = make("div", "spacer"), detail = make("div", "detail"), browser = make("div", "browser");
  list.id = "list";
  list.tabIndex = 0;
  list.setAttribute("role", "listbox");
  list.setAttribute("aria-label", "Dialogues");
  detail.id = "detail";
  detail.tabIndex = -1;
  list.append(spacer);
  browser.append(list, detail);
  const heading = make("div", "above");
  heading.append(total);
  const root = section("transcripts", "Transcripts", form, heading, browser);

  let pages = new Map(), height = 0, everything = 0, chosen = -1, chosenKey = null, version = "", turn = 0, fetching = new Set(), reading = null, stale = false;
  const aside = () => Boolean(together?.checked);
  const lines = dialogueList({
    list, spacer, runs: arms.map((arm) => ({ name: plain(arm.name), look: arm.look })), apart: () => !aside(),
    changed: (what) => { if (what === "sort") refresh({ keep: chosenKey, ordered: true }).catch(failed); else if (chosen >= 0) choose(chosen).catch(failed); else write(); },
  });
  lines.bar.append(save);
  heading.append(lines.bar);
  const keyOf = (row) => ({ id: row.dialogue_id, turns: row.length, repeat: row.repeat > 1 ? row.repeat : undefined, arm: row.run === undefined ? undefined : arms[row.run].run });
  const same = (one, two) => Boolean(one && two) && one.id === two.id && String(one.turns) === String(two.turns) && String(one.repeat ?? 1) === String(two.repeat ?? 1) && (!one.arm || !two.arm || one.arm === two.arm);
  const rowAt = (place) => pages.get(Math.floor(place / PAGE_ROWS))?.[place % PAGE_ROWS];
  const filters = () => ({
    ...Object.fromEntries(FILTERS.map((name) => [name, controls[name].value])),
    search: search.value.trim(), disagree: disagree.checked, sort: lines.sort, view: aside() ? "arms" : "", differ: aside() && differ.checked,
  });

  // The reader's place, as the address tells it.
  const told = () => {
    const said = { ...asks, ...filters(), ...lines.told(), arms: here().arms };
    if (said.only) said.only = names.get(said.only) ?? said.only;
    return { ...said, ...(chosenKey ? { ...chosenKey, arm: several && chosenKey.arm && !aside() ? names.get(chosenKey.arm) : undefined } : {}) };
  };
  const write = () => { note(told()); save.href = address("export", { ...asks, ...filters(), view: "" }); };
  const runNamed = (name) => arms.find((arm) => arm.name === name || arm.run === name)?.run ?? "";

  const take = (answer) => {
    if (answer.version !== version || answer.total !== height) { version = answer.version; height = answer.total; everything = answer.all; }
    pages.delete(answer.offset / PAGE_ROWS);
    pages.set(answer.offset / PAGE_ROWS, answer.rows);
    while (pages.size > MOST_PAGES) pages.delete(pages.keys().next().value);
    const all = count(everything);
    total.textContent = `${height === everything ? "" : `${count(height)} of `}${all} ${everything === 1 ? "dialogue" : "dialogues"}${aside() ? ` in ${arms.length} runs` : ""}`;
  };
  const fetchPage = async (number, more = {}) => {
    const mine = turn;
    const { answer } = await asked("dialogues", { ...asks, ...filters(), offset: number * PAGE_ROWS, ...more });
    return mine === turn ? answer : null;
  };
  const want = (number) => {
    if (pages.has(number) || fetching.has(number)) return;
    fetching.add(number);
    fetchPage(number).then((answer) => { if (answer) { take(answer); paint(); } }).catch(failed).finally(() => fetching.delete(number));
  };
  const failed = (error) => { if (error.name !== "AbortError") total.textContent = `The transcripts cannot be read: ${plain(error.message)}`; };

  // Filters changed, or dialogues came: the list anew, with the chosen dialogue where it stands now.
  // Another order shows its beginning, while what is being read stays.
  const refresh = async ({ keep = null, scroll = true, ordered = false } = {}) => {
    turn += 1;
    fetching = new Set();
    const looked = keep ? { id: keep.id, turns: keep.turns, repeat: keep.repeat, arm: keep.arm } : {};
    const answer = await fetchPage(0, looked);
    if (!answer) return;
    const page = Math.floor(answer.offset / PAGE_ROWS);
    pages = new Map();
    if (answer.offset % PAGE_ROWS) {
      const [one, two] = await Promise.all([fetchPage(page), fetchPage(page + 1)]);
      if (!one) return;
      take(one);
      if (two?.rows.length) take(two);
    } else take(answer);
    spacer.style.height = `${height * lines.rowPixels}px`;
    if (scroll) list.scrollTop = 0;
    const place = keep && answer.place !== null ? answer.place : height ? 0 : -1;
    const again = keep && answer.place !== null && same(keep, chosenKey);
    if ((ordered || !scroll) && again) {
      chosen = place;
      list.setAttribute("aria-activedescendant", `option-${chosen}`);
      paint();
      write();
      return;
    }
    if (!scroll && chosenKey && height) { paint(); return; }
    await choose(place, { scroll });
  };

  // A row of the list's answer as the list shows it.
  const lineOf = (row) => {
    const line = {
      ...row, id: plain(row.dialogue_id), scenario: plain(row.scenario), method: plain(row.method), repeat: row.repeat > 1 ? row.repeat : 0,
      seconds: row.latency_seconds, mark: aside() ? row.differ : row.disagree,
    };
    if (!row.verdicts) return line;
    const bad = row.kind === "benign" ? "declined" : "unsafe";
    const failed = row.verdicts.filter((one) => one.verdict === bad).length;
    return { ...line, held: row.verdicts.length, verdict: failed ? bad : row.verdict, spoken: failed ? `${failed} of ${row.verdicts.length} ${bad}` : row.differ ? "safe, missing" : row.verdict };
  };
  const paint = () => {
    const first = Math.max(0, Math.floor(list.scrollTop / lines.rowPixels) - EXTRA_ROWS);
    const last = Math.min(height, Math.ceil((list.scrollTop + list.clientHeight) / lines.rowPixels) + EXTRA_ROWS);
    const nodes = [];
    for (let place = first; place < last; place += 1) {
      if (!rowAt(place)) want(Math.floor(place / PAGE_ROWS));
      const row = rowAt(place);
      nodes.push(lines.node(row && lineOf(row), place, { chosen: place === chosen, total: height }));
    }
    spacer.style.height = `${height * lines.rowPixels}px`;
    spacer.replaceChildren(...nodes);
  };

  const choose = async (place, { scroll = true, focus = false } = {}) => {
    chosen = Math.max(-1, Math.min(place, height - 1));
    if (chosen < 0) {
      chosenKey = null;
      list.removeAttribute("aria-activedescendant");
      detail.replaceChildren(make("p", "empty", everything ? "No dialogue matches these filters." : "No dialogue is finished yet. The first one shows here as soon as it is."));
      paint();
      write();
      return;
    }
    if (scroll) {
      const top = chosen * lines.rowPixels, below = top + lines.rowPixels + lines.headPixels - list.clientHeight;
      if (top < list.scrollTop) list.scrollTop = top;
      else if (below > list.scrollTop) list.scrollTop = below;
    }
    paint();
    list.setAttribute("aria-activedescendant", `option-${chosen}`);
    if (!rowAt(chosen)) {
      const mine = turn;
      const answer = await fetchPage(Math.floor(chosen / PAGE_ROWS)).catch(failed);
      if (!answer || mine !== turn) return;
      take(answer);
      paint();
    }
    const row = rowAt(chosen);
    if (!row) return;
    chosenKey = keyOf(row);
    write();
    await read();
    if (focus) { detail.focus({ preventScroll: true }); if (matchMedia("(max-width: 44rem)").matches) detail.scrollIntoView(); }
  };

  const drawer = dialogueDrawer({
    runs: arms.map((arm) => ({ name: plain(arm.name), look: arm.look })),
    tools: (dialogue, all) => tools(dialogue, all),
    beside: (one) => callNodes(arms[one.run].run, one),
  });
  const pictureAddress = (dialogue, n) => address("picture", { ...asks, id: dialogue.id, turns: dialogue.length, arm: arms[dialogue.run].run, n: n || undefined });
  const withAddresses = (dialogue) => dialogue && {
    ...dialogue,
    repeat: dialogue.repeat > 1 ? dialogue.repeat : 0,
    turns: dialogue.turns.map((one) => ({ ...one, run: dialogue.run })),
    picture: dialogue.pictures[0]?.here ? pictureAddress(dialogue, 0) : null,
  };
  const read = async ({ whole = false } = {}) => {
    reading?.abort();
    reading = new AbortController();
    const key = chosenKey;
    try {
      const { answer } = await asked("dialogue", { ...asks, ...key, repeat: key.repeat ?? 1, arm: aside() ? undefined : key.arm, whole }, { signal: reading.signal });
      if (!same(key, chosenKey)) return;
      const held = answer.runs.map(withAddresses);
      detail.replaceChildren(...(aside() ? drawer.together(held.map((one) => one ?? undefined)) : drawer.alone(held.find(Boolean))));
      const cut = held.reduce((sum, one) => sum + (one?.cut ?? 0), 0);
      if (cut) detail.prepend(cutNode(cut));
      morePictures(held.find(Boolean));
      for (const picture of detail.querySelectorAll(".picture")) picture.after(pictureNode(picture));
      nameSigns(detail);
      marked(detail, terms(search.value));
      detail.scrollTop = 0;
      detail.querySelector("mark")?.scrollIntoView({ block: "nearest" });
    } catch (error) {
      if (error.name !== "AbortError") detail.replaceChildren(make("p", "empty", plain(error.message)));
    }
  };
  // The drawer shows the first picture; the others belong to later messages, or stand beside it.
  const morePictures = (dialogue) => dialogue.pictures.forEach((picture, n) => {
    if (!n || !picture.here) return;
    const message = [...detail.querySelectorAll(".message.user")].find((node) => node.querySelector(".who")?.textContent === `User, message ${picture.turn}`);
    message?.querySelector(".words").before(shown(pictureAddress(dialogue, n)));
  });
  const cutNode = (cut) => {
    const node = make("p", "note", `${count(cut)} more characters of very long texts are not shown. `);
    node.append(button("", "Show all of them", () => read({ whole: true })));
    return node;
  };
  const tools = (dialogue, all) => {
    const node = make("div", "tools");
    const copied = (press, text) => async () => {
      try { await navigator.clipboard.writeText(text()); press.textContent = "Copied"; } catch { press.textContent = "Cannot copy"; }
      setTimeout(() => { press.textContent = press.dataset.said; }, 1500);
    };
    const copy = (said, text) => {
      const press = button("", said, () => {});
      press.dataset.said = said;
      press.addEventListener("click", copied(press, text));
      return press;
    };
    node.append(button("back", "Back to the list", () => { list.focus(); list.scrollIntoView({ block: "center" }); }), button("", "Show every reply", toggleReplies));
    if (several) node.append(button("", all ? "One run at a time" : "This dialogue in every run", () => turnView(!all)));
    const file = make("a", "button", "Download");
    file.href = address("dialogue", { ...asks, ...chosenKey, repeat: chosenKey.repeat ?? 1, arm: all ? undefined : chosenKey.arm, whole: true });
    file.setAttribute("download", `${plain(dialogue.id)}-${dialogue.length}.json`);
    node.append(copy("Copy as text", () => asText(all ?? [dialogue])), copy("Copy the address", () => new URL(link(told()), location.href).href), file);
    return node;
  };
  const asText = (held) => held.filter(Boolean).map((dialogue) => [
    `${dialogue.id}, ${dialogue.length} ${dialogue.length === 1 ? "turn" : "turns"}, ${arms[dialogue.run].name}: ${dialogue.verdict}`,
    ...dialogue.messages.map((message) => `${message.role}: ${message.text}`),
    ...dialogue.turns.map((one) => `reply to message ${one.turn} (${one.outcome}, ${one.label}): ${one.reply}`),
  ].join("\n\n")).join("\n\n———\n\n");

  const toggleReplies = () => {
    const folds = [...detail.querySelectorAll("details.reply")];
    const opening = folds.some((fold) => !fold.open);
    for (const fold of folds) fold.open = opening;
  };
  const turnView = async (on) => {
    together.checked = on;
    differ.closest("label").hidden = !on;
    lines.draw();
    await refresh({ keep: chosenKey });
    detail.focus({ preventScroll: true });
  };

  const fill = (facets) => {
    const values = { only: several ? arms.map((arm) => arm.run) : [], ...Object.fromEntries(FILTERS.slice(1).map((name) => [name, facets[NAMES[name][1]]])) };
    for (const name of FILTERS) {
      const select = controls[name], before = select.value, listed = values[name].map(String);
      if ([...select.options].slice(1).map((option) => option.value).join("\n") !== listed.join("\n")) {
        select.replaceChildren(new Option("all", ""), ...listed.map((value) => new Option(name === "only" ? plain(names.get(value)) : plain(value.replaceAll("_", " ")), value)));
        select.value = before;
        if (select.selectedIndex < 0) select.value = "";
      }
      select.closest("label").hidden = listed.length < 2;
    }
    disagree.closest("label").hidden = !facets.disagree.length && !disagree.checked;
    if (differ) differ.closest("label").hidden = !aside();
  };
  const goTo = async (said, { reveal = true } = {}) => {
    for (const name of FILTERS) {
      const value = name === "only" ? runNamed(said.only ?? "") : said[name] ?? "";
      controls[name].value = value;
      if (controls[name].selectedIndex < 0) controls[name].value = "";
    }
    search.value = said.search ?? "";
    disagree.checked = said.disagree === "1";
    if (together) together.checked = said.view === "arms";
    if (differ) { differ.checked = aside() && said.differ === "1"; differ.closest("label").hidden = !aside(); }
    lines.take(said);
    const keep = said.id ? { id: said.id, turns: said.turns, repeat: said.repeat, arm: said.arm ? runNamed(said.arm) : undefined } : null;
    await refresh({ keep });
    if (reveal && (said.id || said.scenario || said.search)) root.scrollIntoView();
  };

  let waiting = 0;
  const filtered = () => refresh({ keep: null }).catch(failed);
  search.addEventListener("input", () => { clearTimeout(waiting); waiting = setTimeout(filtered, 150); });
  for (const control of [...Object.values(controls), disagree, differ]) control?.addEventListener("change", filtered);
  together?.addEventListener("change", () => turnView(together.checked).catch(failed));
  form.addEventListener("submit", (event) => event.preventDefault());
  form.addEventListener("reset", () => setTimeout(filtered));
  let painting = 0;
  list.addEventListener("scroll", () => { cancelAnimationFrame(painting); painting = requestAnimationFrame(paint); }, { passive: true });
  spacer.addEventListener("click", (event) => {
    const option = event.target.closest(".option");
    if (option) choose(Number(option.id.slice("option-".length)), { scroll: false, focus: matchMedia("(max-width: 44rem)").matches });
  });
  list.addEventListener("keydown", (event) => {
    if (event.target !== list) return;
    const page = Math.max(1, Math.floor((list.clientHeight - lines.headPixels) / lines.rowPixels) - 1);
    const moves = { ArrowDown: chosen + 1, ArrowUp: chosen - 1, PageDown: chosen + page, PageUp: chosen - page, Home: 0, End: height - 1 };
    if (event.key === "Enter" && chosen >= 0) { event.preventDefault(); choose(chosen, { focus: true }); }
    else if (event.key in moves && height) { event.preventDefault(); choose(Math.max(0, moves[event.key])); }
  });
  detail.addEventListener("keydown", (event) => { if (event.key === "Escape") list.focus(); });

  return {
    root,
    goTo,
    fill,
    paint,
    // New dialogues came: the list takes them in under the reader's eyes, and what is being read stays.
    async came(facets) {
      fill(facets);
      stale = true;
      if (document.hidden) return;
      stale = false;
      await refresh({ keep: chosenKey, scroll: false }).catch(failed);
    },
    key(name) {
      if (name === "/") search.focus();
      else if (name === "a" && together) turnView(!aside()).catch(failed);
      else if (name === "r") toggleReplies();
      else if (name === "t") lines.turnTo(!lines.asTable);
      else if (name === "j" && height) choose(chosen + 1);
      else if (name === "k" && height) choose(Math.max(0, chosen - 1));
      else return false;
      return true;
    },
  };
};
