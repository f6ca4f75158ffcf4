// Transcripts. Strings stand once in one table and are referred to by number; -1 is "none".
if (!$("transcripts")) return;
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
  const [turn, outcome, reply, detail, finish, latency_seconds, cost_usd, input_tokens, output_tokens, from_store, flagged, policy, moderator_text, verdicts] = row;
  const opinions = verdicts.map(unpackVerdict);
  const counting = opinions.find((verdict) => verdict.counts);
  const labels = new Set(opinions.filter((verdict) => verdict.label !== "missing").map((verdict) => verdict.label));
  return { turn, outcome: text(outcome), reply, detail, finish, latency_seconds, cost_usd, input_tokens, output_tokens, from_store, flagged, policy, moderator_text, opinions,
    label: counting ? counting.label : "missing", disagree: labels.size > 1 };
};
const overall = (turns) => {
  if (turns.some((turn) => turn.label === "unsafe")) return "unsafe";
  return turns.length === 0 || turns.some((turn) => turn.label === "missing") ? "missing" : "safe";
};
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
const known = (values) => {
  const held = values.filter((value) => value !== null);
  return held.length ? held.reduce((sum, value) => sum + value, 0) : null;
};
const unpack = (row) => {
  const [run, id, scenario, kind, length, method, image, messages, packedTurns, failure, note, protocol, repeat, cost_usd] = row;
  const turns = packedTurns.map(unpackTurn);
  const last = turns[turns.length - 1];
  const tokens = known(turns.flatMap((turn) => [turn.input_tokens, turn.output_tokens])), seconds = known(turns.map((turn) => turn.latency_seconds));
  return { run, id: text(id), scenario: text(scenario), kind: text(kind), length, method, image, messages, turns, failure, note, protocol: text(protocol), repeat, cost_usd, tokens, seconds,
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
    group.bad = unsafe;
    const good = bad === "unsafe" ? "safe" : "helped";
    group.verdict = unsafe ? bad : labels.has("missing") ? "missing" : good;
    group.spoken = unsafe ? `${unsafe} of ${held.length} ${bad}` : group.differ ? `${good}, missing` : group.verdict;
    group.held = held.length;
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
    const top = chosen * lines.rowPixels, below = top + lines.rowPixels + lines.headPixels - list.clientHeight;
    if (top < list.scrollTop) list.scrollTop = top;
    else if (below > list.scrollTop) list.scrollTop = below;
  }
  paint();
  list.setAttribute("aria-activedescendant", `option-${chosen}`);
  open(shown[chosen]);
  note();
  if (focus) { detail.focus({ preventScroll: true }); if (matchMedia("(max-width: 44rem)").matches) detail.scrollIntoView(); }
};

// What a table adds up of a dialogue, and what its columns sort by; what is alike stays in the order of reading, what is unknown stands last.
const SEVERITY = ["unsafe", "declined", "missing", "safe", "helped"];
const summed = (dialogue, name) => (dialogue.arms ? known(dialogue.arms.map((one) => (one ? one[name] : null))) : dialogue[name]);
const KEYS = {
  id: (one) => one.rank, run: (one) => (one.arms ? one.held : one.run), scenario: (one) => one.scenario, kind: (one) => one.kind, method: (one) => text(one.method) || null,
  turns: (one) => one.length, repeat: (one) => one.repeat, outcome: (one) => one.outcome,
  verdict: (one) => (one.arms ? -one.bad / one.held : SEVERITY.indexOf(one.verdict)),
  cost: (one) => summed(one, "cost_usd"), tokens: (one) => summed(one, "tokens"), seconds: (one) => summed(one, "seconds"),
};
const inOrder = (dialogues) => {
  const wanted = sortOf(lines.sort);
  if (!wanted) return dialogues;
  const keyed = dialogues.map((dialogue) => [KEYS[wanted.name](dialogue), dialogue]);
  keyed.sort(([one], [two]) => {
    if (one === null || two === null) return (one === null) - (two === null);
    const order = one < two ? -1 : one > two ? 1 : 0;
    return wanted.down ? -order : order;
  });
  return keyed.map(([, dialogue]) => dialogue);
};
const lineOf = (dialogue) => ({
  ...dialogue, method: text(dialogue.method), run: dialogue.arms ? undefined : dialogue.run, mark: dialogue.arms ? dialogue.differ : dialogue.disagree,
  cost_usd: summed(dialogue, "cost_usd"), tokens: summed(dialogue, "tokens"), seconds: summed(dialogue, "seconds"),
});
const paint = () => {
  const first = Math.max(0, Math.floor(list.scrollTop / lines.rowPixels) - EXTRA_ROWS);
  const last = Math.min(shown.length, Math.ceil((list.scrollTop + list.clientHeight) / lines.rowPixels) + EXTRA_ROWS);
  const nodes = [];
  for (let place = first; place < last; place += 1) nodes.push(lines.node(lineOf(shown[place]), place, { chosen: place === chosen, total: shown.length }));
  spacer.style.height = `${shown.length * lines.rowPixels}px`;
  spacer.replaceChildren(...nodes);
};

const filter = () => {
  const fits = matcher($("f-search").value);
  const want = Object.fromEntries(Object.entries(controls).map(([name, control]) => [name, control ? control.value : ""]));
  const split = $("f-disagree").checked;
  const fitting = all.filter((dialogue) => (!want.run || String(dialogue.run) === want.run) && (!want.scenario || dialogue.scenario === want.scenario)
    && (!want.length || String(dialogue.length) === want.length) && (!want.verdict || dialogue.verdict === want.verdict)
    && (!want.outcome || dialogue.outcomes.has(want.outcome)) && (!want.kind || dialogue.kind === want.kind) && (!split || dialogue.disagree) && fits(dialogue));
  shown = inOrder(aside() ? unique(fitting.map((dialogue) => groups.get(keyOf(dialogue)))).filter((group) => !differing.checked || group.differ) : fitting);
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
  for (const [name, value] of Object.entries(lines.told())) if (value) said.set(name, value);
  if (study) said.set("study", study);
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
  lines.take(Object.fromEntries(said));
  filter();
  const place = shown.findIndex((dialogue) => dialogue.id === said.get("id") && (!said.get("turns") || String(dialogue.length) === said.get("turns"))
    && (!said.get("repeat") || String(dialogue.repeat) === said.get("repeat")) && (dialogue.arms || !said.get("arm") || runNames[dialogue.run] === said.get("arm")));
  if (place >= 0) select(place);
  settled = true;
  if (said.get("id")) $("transcripts").scrollIntoView();
};

// An entry of the list as the drawer takes it: its texts in place of their numbers.
const plainTurn = (turn) => ({ ...turn, reply: text(turn.reply), detail: text(turn.detail), finish: text(turn.finish), policy: text(turn.policy), moderator_text: text(turn.moderator_text),
  opinions: turn.opinions.map((opinion) => ({ ...opinion, judge: judgeNames[opinion.judge], reason: text(opinion.reason) })) });
const plain = (dialogue) => dialogue && { ...dialogue, method: text(dialogue.method), failure: text(dialogue.failure), note: text(dialogue.note),
  pictured: dialogue.image >= 0, picture: dialogue.image >= 0 ? images[dialogue.image] : null, turns: dialogue.turns.map(plainTurn),
  messages: dialogue.messages.flatMap((role, place, all) => (place % 2 ? [] : [{ role: role === 0 ? "user" : "assistant", text: text(all[place + 1]) }])) };

// Another view or order of the same dialogues: the choice stays where the reader was; another order shows its beginning.
const again = (how) => {
  const dialogue = shown[chosen];
  filter();
  const place = dialogue ? shown.findIndex((one) => keyOf(one) === keyOf(dialogue) && (one.arms || dialogue.arms || one.run === dialogue.run)) : -1;
  if (place >= 0) select(place, how);
};
const turnView = (on) => {
  sideBySide.checked = on;
  lines.draw();
  again();
};
const button = (className, said, press) => {
  const node = make("button", className, said);
  node.type = "button";
  node.addEventListener("click", press);
  return node;
};
// A dialogue to take along: as words, as the address of this view, as JSON.
const asText = (held) => held.map((dialogue) => [
  `${dialogue.id}, ${dialogue.length} ${dialogue.length === 1 ? "turn" : "turns"}, ${runNames[dialogue.run]}: ${dialogue.verdict}`,
  ...dialogue.messages.map((message) => `${message.role}: ${message.text}`),
  ...dialogue.turns.map((turn) => `reply to message ${turn.turn} (${turn.outcome}, ${turn.label}): ${turn.reply}`),
].join("\n\n")).join("\n\n———\n\n");
const asRecord = ({ refs, outcomes, image, picture, rank, ...dialogue }) => ({ ...dialogue, run: runNames[dialogue.run] });
const tools = (dialogue, arms) => {
  const node = make("div", "tools");
  const held = (arms ?? [dialogue]).filter(Boolean);
  node.append(button("back", "Back to the list", () => { list.focus(); list.scrollIntoView({ block: "center" }); }),
    button("", "Show every reply", () => { for (const fold of detail.querySelectorAll("details.reply")) fold.open = true; }));
  if (sideBySide) node.append(button("", arms ? "One run at a time" : "This dialogue in every run", () => { turnView(!arms); detail.focus({ preventScroll: true }); }));
  node.append(button("", "Copy as text", (event) => copied(asText(held), event.target)), button("", "Copy the address", (event) => copied(location.href, event.target)),
    button("", "Download", () => download(`${fileName(dialogue.id)}-${dialogue.length}.json`, "application/json", JSON.stringify(held.map(asRecord), null, 2))));
  return node;
};
const open = (dialogue) => {
  detail.replaceChildren(...(dialogue.arms ? drawer.together(dialogue.arms.map(plain)) : drawer.alone(plain(dialogue))));
  marked(detail, terms($("f-search").value));
  detail.scrollTop = 0;
};

let runs = [], runNames = [], judgeNames = [], drawer = null, lines = null, study = "";
const start = async () => {
  const data = JSON.parse($("data").textContent);
  const packed = await decode(data.transcripts);
  ({ strings, images } = packed);
  runNames = data.runs;
  study = data.study;
  judgeNames = data.judges;
  runs = runNames.map((name, place) => ({ name, look: data.series[place] }));
  drawer = dialogueDrawer({ runs, tools });
  lines = dialogueList({ list, spacer, runs, apart: () => !aside(), changed: (what) => { if (what === "sort") again({ scroll: false }); else select(chosen); } });
  lines.bar.append($("save"));
  $("above").append(lines.bar);
  all = packed.dialogues.map(unpack).map(inItsWords);
  const ids = new Map(unique(all.map((dialogue) => dialogue.id)).sort(new Intl.Collator("en", { numeric: true }).compare).map((id, rank) => [id, rank]));
  for (const dialogue of all) dialogue.rank = ids.get(dialogue.id);
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
  // An address that is followed on the page (a cell of a heat map, a link) leads to what it names.
  addEventListener("hashchange", () => { if (location.hash.includes("=")) { goTo(places()); $("transcripts").scrollIntoView(); } });
  document.documentElement.dataset.ready = "true";
};

let waiting = 0;
$("f-search").addEventListener("input", () => { clearTimeout(waiting); waiting = setTimeout(filter, 90); });
for (const control of Object.values(controls)) if (control) control.addEventListener("change", filter);
$("f-disagree").addEventListener("change", filter);
if (sideBySide) sideBySide.addEventListener("change", () => turnView(sideBySide.checked));
if (differing) differing.addEventListener("change", filter);
$("save").addEventListener("click", () => {
  const held = shown.flatMap((dialogue) => (dialogue.arms ?? [dialogue]).filter(Boolean));
  download("dialogues.jsonl", "application/x-ndjson", held.map((dialogue) => `${JSON.stringify(asRecord(plain(dialogue)))}\n`).join(""));
});
$("filters").addEventListener("submit", (event) => event.preventDefault());
$("filters").addEventListener("reset", () => setTimeout(filter));
list.addEventListener("scroll", () => requestAnimationFrame(paint), { passive: true });
addEventListener("resize", () => requestAnimationFrame(paint));
spacer.addEventListener("click", (event) => {
  const option = event.target.closest(".option");
  if (option) select(Number(option.id.slice("option-".length)), { scroll: false, focus: matchMedia("(max-width: 44rem)").matches });
});
list.addEventListener("keydown", (event) => {
  if (event.target !== list) return;
  const page = Math.max(1, Math.floor((list.clientHeight - lines.headPixels) / lines.rowPixels) - 1);
  const moves = { ArrowDown: chosen + 1, ArrowUp: chosen - 1, PageDown: chosen + page, PageUp: chosen - page, Home: 0, End: shown.length - 1 };
  if (event.key === "Enter" && chosen >= 0) { event.preventDefault(); select(chosen, { focus: true }); }
  else if (event.key in moves && shown.length) { event.preventDefault(); select(Math.max(0, moves[event.key])); }
});
detail.addEventListener("keydown", (event) => { if (event.key === "Escape") list.focus(); });
addEventListener("keydown", (event) => {
  const typing = event.target instanceof HTMLElement && event.target.matches("input, select, textarea");
  if (event.key === "/" && !typing && !event.ctrlKey && !event.metaKey && !event.altKey) { event.preventDefault(); $("f-search").focus(); }
  if (event.key === "t" && lines && !typing && !event.ctrlKey && !event.metaKey && !event.altKey) lines.turnTo(!lines.asTable);
  if (event.key === "a" && sideBySide && !typing && !event.ctrlKey && !event.metaKey && !event.altKey) turnView(!sideBySide.checked);
});
start().catch((error) => { count.textContent = `The transcripts cannot be shown: ${error.message}`; });
