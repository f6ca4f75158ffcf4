// How a dialogue is drawn, one by itself or as every run answered it. Here and in the viewer a dialogue is the same plain object:
//   { run, id, scenario, kind, length, repeat, method, protocol, failure, note, pictured, picture,
//     messages: [{ role: "user" | "assistant", text }],
//     turns: [{ turn, outcome, reply, detail, finish, latency_seconds, cost_usd, input_tokens, output_tokens, from_store, flagged, policy,
//               moderator_text, label, opinions: [{ judge, label, source, reason, probability, counts }] }] }
// `run` counts in `runs`; `picture` is an address or null where `pictured` says that one belongs to it. Every text becomes text content.

// On a harmless dialogue nothing is attacked: what counts there is whether the assistant helped.
const ON_BENIGN = { unsafe: "helped", safe: "declined" };

const swatch = ([colour, dash]) => {
  const node = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  const line = document.createElementNS("http://www.w3.org/2000/svg", "line");
  for (const [name, value] of Object.entries({ class: "key", viewBox: "0 0 22 8", "aria-hidden": "true" })) node.setAttribute(name, value);
  for (const [name, value] of Object.entries({ x1: 0, x2: 22, y1: 4, y2: 4, stroke: `var(--series-${colour + 1})`, "stroke-width": 3, "stroke-dasharray": dash.join(" ") })) line.setAttribute(name, value);
  node.append(line);
  return node;
};

// `runs`: [{ name, look: [colour, dash] }]; `tools` gives the buttons that stand above a dialogue, `beside` what more there is to a turn.
const dialogueDrawer = ({ runs, tools, beside = () => [] }) => {
  const words = (text) => make("p", "words", text);
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
  const picture = (address) => {
    const button = make("button", "picture");
    button.type = "button";
    button.setAttribute("aria-pressed", "false");
    button.setAttribute("aria-label", "Picture of this dialogue, blurred. Press to show it");
    const image = make("img");
    image.alt = "";
    image.src = address;
    button.append(image);
    button.addEventListener("click", () => {
      const bare = button.getAttribute("aria-pressed") !== "true";
      button.setAttribute("aria-pressed", String(bare));
      button.setAttribute("aria-label", bare ? "Picture of this dialogue. Press to blur it again" : "Picture of this dialogue, blurred. Press to show it");
    });
    return button;
  };
  const fold = (heading, text, label) => {
    const node = make("details", `reply ${label ?? ""}`);
    node.append(make("summary", "", heading), words(text));
    return node;
  };
  const judged = (turn) => {
    const node = make("div", "judged");
    for (const opinion of turn.opinions) {
      const line = make("p");
      line.append(make("span", `verdict ${opinion.label}`, opinion.label), ` · ${opinion.source === "outcome" ? "by outcome" : opinion.judge}`);
      if (opinion.probability !== null) line.append(` · P(unsafe) ${opinion.probability.toFixed(2)}`);
      if (opinion.reason) line.append(`: ${opinion.reason}`);
      node.append(line);
    }
    node.append(facts([["outcome", turn.outcome.replaceAll("_", " ")], ["finish", turn.finish], ["vendor says", turn.detail],
      ["latency", turn.latency_seconds === null ? "" : `${turn.latency_seconds.toFixed(2)} s`],
      ["tokens", turn.input_tokens === null ? "" : `${turn.input_tokens} in, ${turn.output_tokens ?? 0} out`],
      ["cost", turn.cost_usd === null ? "" : `$${turn.cost_usd.toPrecision(3)}`], ["from", turn.from_store ? "store" : ""],
      ["moderator", turn.flagged === null ? "" : turn.flagged ? "flagged" : "passed"]]));
    if (turn.policy) node.append(fold("Moderator's policy", turn.policy));
    if (turn.moderator_text) node.append(fold("Moderator's words", turn.moderator_text));
    node.append(...beside(turn));
    return node;
  };
  const replyNode = (turn) => {
    const node = make("div", "message assistant");
    if (turn.reply) node.append(fold(`Reply to message ${turn.turn}: may be harmful`, turn.reply, turn.label));
    else node.append(make("p", "who", `No words came back for message ${turn.turn}`));
    node.append(judged(turn));
    return node;
  };
  const scripted = (heading, text) => {
    const node = make("div", "message assistant");
    node.append(fold(heading, text));
    return node;
  };
  // A scripted dialogue that was shown without its history begins with its last message.
  const said = (dialogue) => dialogue.messages.filter((message) => message.role === "user").map((message) => message.text);
  const firstNumber = (dialogue) => (dialogue.protocol === "live" ? 0 : Math.max(0, dialogue.length - said(dialogue).length));
  const userMessage = (dialogue, number, text) => {
    const node = make("div", "message user");
    node.append(make("p", "who", `User, message ${number}`));
    const first = number === firstNumber(dialogue) + 1;
    if (first && dialogue.pictured) node.append(dialogue.picture ? picture(dialogue.picture) : make("p", "note", "A picture belongs to this message; it is not in this page."));
    node.append(words(text));
    return node;
  };

  // What a run was shown, where that is not what stands above: parts of the dialogue may have been taken away on purpose.
  const shownAlike = (one, widest) => {
    const heard = (dialogue) => (dialogue.protocol === "live" ? said(dialogue) : dialogue.messages.map((message) => `${message.role} ${message.text}`));
    const [mine, all] = [heard(one), heard(widest)];
    // A live dialogue that failed on the way ends early; a scripted one is whole or not the same.
    const length = one.protocol === "live" ? mine.length : all.length;
    return mine.length === length && mine.every((text, place) => text === all[place]) && one.pictured === widest.pictured;
  };
  const shownWords = (dialogue) => {
    const node = make("details", "shown");
    node.append(make("summary", "", `Was shown something else${dialogue.pictured ? "" : ": no picture"}`));
    for (const message of dialogue.messages) node.append(make("p", "who", message.role === "user" ? "User" : "Assistant"), words(message.text));
    return node;
  };
  const armNode = (dialogue, run, widest, number) => {
    const node = make("section", "arm");
    const name = make("h4");
    name.append(swatch(runs[run].look), runs[run].name);
    node.append(name);
    if (!dialogue) { node.append(make("p", "who", "Not played in this run.")); return node; }
    const turn = dialogue.turns.find((one) => one.turn === number);
    name.append(" ", make("span", `verdict ${turn ? turn.label : "missing"}`, turn ? turn.label : "missing"));
    if (dialogue.failure) node.append(make("p", "note", dialogue.failure));
    if (!shownAlike(dialogue, widest)) node.append(shownWords(dialogue));
    node.append(turn ? replyNode(turn) : make("p", "who", `Ended before message ${number}.`));
    return node;
  };

  const title = (dialogue, more) => [make("h3", "", dialogue.id), facts([...more, ["scenario", dialogue.scenario], ["kind", dialogue.kind],
    ["turns", String(dialogue.length)], ["repeat", dialogue.repeat ? String(dialogue.repeat) : ""], ["method", dialogue.method]])];

  // One dialogue of one run.
  const alone = (dialogue) => {
    const nodes = title(dialogue, [["run", runs.length > 1 ? runs[dialogue.run].name : ""], ["protocol", dialogue.protocol]]);
    if (dialogue.failure) nodes.push(make("p", "banner", dialogue.failure));
    if (dialogue.note) nodes.push(make("p", "note", dialogue.note));
    nodes.push(tools(dialogue));
    const byTurn = new Map(dialogue.turns.map((turn) => [turn.turn, turn]));
    const live = dialogue.protocol === "live";
    let number = firstNumber(dialogue);
    for (const message of dialogue.messages) {
      if (message.role === "user") {
        number += 1;
        nodes.push(userMessage(dialogue, number, message.text));
        if (byTurn.has(number)) nodes.push(replyNode(byTurn.get(number)));
      } else if (!(live && byTurn.has(number))) {
        nodes.push(scripted(live ? `Assistant, after message ${number}` : `Scripted assistant message after message ${number}`, message.text));
      }
    }
    return nodes;
  };

  // The same dialogue as every run answered it (`arms`: one a run, undefined where a run does not hold it). What was said stands once:
  // as the run says it that was shown most of it; every user message that some run answered has the runs' replies below it.
  const together = (arms) => {
    const held = arms.filter(Boolean);
    const widest = held.reduce((one, two) => (2 * two.messages.length + two.pictured > 2 * one.messages.length + one.pictured ? two : one));
    const nodes = [...title(widest, [["runs", `${held.length} of ${runs.length}`]]), tools(widest, arms)];
    const answered = new Set(held.flatMap((dialogue) => dialogue.turns.map((turn) => turn.turn)));
    const before = make("details", "earlier");
    before.append(make("summary", "", "The messages before"));
    nodes.push(before);
    let number = firstNumber(widest);
    for (const message of widest.messages) {
      if (message.role === "user") {
        number += 1;
        if (!answered.has(number)) { before.append(userMessage(widest, number, message.text)); continue; }
        const grid = make("div", "arms");
        grid.append(...runs.map((_, run) => armNode(arms[run], run, widest, number)));
        nodes.push(userMessage(widest, number, message.text), grid);
      } else if (widest.protocol !== "live") before.append(scripted(`Scripted assistant message after message ${number}`, message.text));
    }
    before.hidden = before.childElementCount < 2;
    return nodes;
  };
  return { alone, together };
};
