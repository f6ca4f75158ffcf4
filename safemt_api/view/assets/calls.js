// What is behind a reply or a verdict: the call as it went out, the vendor's body, attempts and waits, what the judge and the moderator were shown.
import { $, make } from "./shared.js";
import { asked } from "./api.js";
import { plain } from "./text.js";
import { count, dollars, seconds } from "./words.js";

const facts = (pairs) => {
  const node = make("ul", "facts");
  for (const [name, value] of pairs) {
    if (value === null || value === undefined || value === "") continue;
    const item = make("li", "", `${name} `);
    item.append(make("b", "", plain(value)));
    node.append(item);
  }
  return node;
};

const words = (title, text) => {
  const node = make("div", "said");
  node.append(make("p", "who", title), make("p", "words", plain(text)));
  return node;
};

const pre = (title, text) => {
  const node = make("details", "raw");
  node.append(make("summary", "", title), make("pre", "", plain(text)));
  return node;
};

const waits = (call) => {
  const tried = call.charges.length > 1 ? call.charges.map((one) => `${one.at_utc.slice(11, 19)} ${one.state}${one.usd ? ` ${dollars(one.usd)}` : ""}`).join(" · ") : "";
  return facts([["attempts", call.attempts && String(call.attempts)], ["waited", seconds(call.waited_seconds)], ["latency", seconds(call.reply.latency_seconds)],
    ["cost", call.cost_usd === null ? "" : dollars(call.cost_usd)], ["tokens", call.reply.usage ? `${count(call.reply.usage.input_tokens)} in (${count(call.reply.usage.cached_input_tokens)} cached), ${count(call.reply.usage.output_tokens)} out` : ""],
    ["model", call.reply.served_model], ["tier", call.reply.served_tier], ["request", call.reply.request_id], ["kept", call.created_utc.slice(0, 19).replace("T", " ")], ["booked", tried]]);
};

const filled = (node, call) => {
  const parts = [waits(call)];
  if (call.system) parts.push(words("System message", call.system));
  for (const message of call.messages) parts.push(words(message.role === "user" ? "User message" : `${message.role} message`, message.text));
  parts.push(pre("The request as the store keeps it", JSON.stringify(call.request, null, 2)));
  if (call.raw) parts.push(pre("The vendor's whole answer", call.raw));
  node.append(...parts);
};

const fold = (title, run, key) => {
  const node = make("details", "call");
  node.append(make("summary", "", title));
  let asking = false;
  node.addEventListener("toggle", async () => {
    if (!node.open || asking) return;
    asking = true;
    try { filled(node, (await asked("call", { run, key })).answer); } catch (error) { node.append(make("p", "note", plain(error.message))); }
  });
  return node;
};

// Everything behind one turn of one run.
export const callNodes = (run, turn) => {
  const nodes = [];
  if (turn.reply_key) nodes.push(fold("Call and answer", run, turn.reply_key));
  turn.moderator_reply_keys.forEach((key, place, all) => nodes.push(fold(`Moderator's call${all.length > 1 ? ` ${place + 1}` : ""}`, run, key)));
  if (turn.moderator_failure) nodes.push(facts([["moderator failed", turn.moderator_failure]]));
  for (const opinion of turn.opinions) {
    opinion.reply_keys.forEach((key, place, all) => nodes.push(fold(`What ${opinion.judge} was shown and said${all.length > 1 ? `, ${place + 1} of ${all.length}` : ""}`, run, key)));
    if (!opinion.reply_keys.length && opinion.raw) nodes.push(pre(`${opinion.judge} in its own words`, opinion.raw));
  }
  return nodes;
};

// A picture by itself, large.
export const pictureNode = (small) => {
  const node = make("button", "enlarge", "Picture, large");
  node.type = "button";
  node.addEventListener("click", () => {
    const image = $("large").querySelector("img");
    image.alt = "The picture of this dialogue";
    image.src = `${small.querySelector("img").getAttribute("src")}&large=1`;
    $("large").showModal();
  });
  return node;
};

// A picture in the text, blurred until it is pressed.
export const shown = (source) => {
  const node = make("button", "picture"), image = make("img");
  node.type = "button";
  node.setAttribute("aria-pressed", "false");
  node.setAttribute("aria-label", "Picture of this dialogue, blurred. Press to show it, or to blur it again");
  image.alt = "";
  image.src = source;
  node.append(image);
  node.addEventListener("click", () => node.setAttribute("aria-pressed", String(node.getAttribute("aria-pressed") !== "true")));
  return node;
};
