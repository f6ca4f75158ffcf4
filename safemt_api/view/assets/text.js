// Text from outside, as the page shows it. It only ever becomes text: signs that would turn the writing direction or cannot be seen are named
// in a box of their own, and what was searched for is marked.
import { make } from "./shared.js";

const HIDDEN = /[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u2069\ufeff]/u;
const NAMED = new RegExp(HIDDEN, "gu");

export const plain = (text) => String(text ?? "").replace(NAMED, "");

// The words and quoted phrases of a search, as the server takes them.
export const terms = (query) => [...(query ?? "").toLowerCase().matchAll(/"([^"]+)"|(\S+)/g)].map((match) => match[1] ?? match[2].replaceAll('"', "")).filter(Boolean);

const named = (sign) => {
  const code = `U+${sign.codePointAt(0).toString(16).toUpperCase().padStart(4, "0")}`;
  const node = make("span", "sign", code);
  node.title = "A sign that is not seen, or turns the writing direction";
  return node;
};

const pieces = (text, pattern) => {
  const nodes = [];
  let from = 0;
  for (const match of text.matchAll(pattern)) {
    if (match.index > from) nodes.push(text.slice(from, match.index));
    nodes.push(HIDDEN.test(match[0]) && match[0].length === 1 ? named(match[0]) : make("mark", "", match[0]));
    from = match.index + match[0].length;
  }
  return nodes.length ? [...nodes, text.slice(from)] : null;
};

// Marks the terms in all text below the node, and names hidden signs; gives the number of marks. Folded replies that hold one are opened.
export const marked = (root, query) => {
  const escaped = terms(query).map((term) => term.replace(/[.*+?^${}()|[\]\\/]/g, "\\$&"));
  const pattern = new RegExp([HIDDEN.source, ...escaped].join("|"), "giu");
  const walker = document.createTreeWalker(root, NodeFilter.SHOW_TEXT);
  const found = [];
  while (walker.nextNode()) {
    const parts = pieces(walker.currentNode.data, pattern);
    if (parts) found.push([walker.currentNode, parts]);
  }
  for (const [node, parts] of found) node.replaceWith(...parts);
  const marks = root.querySelectorAll("mark");
  for (const mark of marks) for (let fold = mark.closest("details"); fold; fold = fold.parentElement.closest("details")) fold.open = true;
  return marks.length;
};
