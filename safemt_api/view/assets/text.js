// Text from outside, as the page shows it. It only ever becomes text; signs that would turn the writing direction or cannot be seen are left
// out of names, and named in boxes of their own in what was said.
import { make } from "./shared.js";

const HIDDEN = /[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u2069\ufeff]/gu;

export const plain = (text) => String(text ?? "").replace(HIDDEN, "");

const named = (sign) => {
  const node = make("span", "sign", `U+${sign.codePointAt(0).toString(16).toUpperCase().padStart(4, "0")}`);
  node.title = "A sign that is not seen, or turns the writing direction";
  return node;
};

// Names the hidden signs in all text below the node.
export const nameSigns = (root) => {
  const walker = document.createTreeWalker(root, NodeFilter.SHOW_TEXT);
  const found = [];
  while (walker.nextNode()) {
    const signs = [...walker.currentNode.data.matchAll(HIDDEN)];
    if (signs.length) found.push([walker.currentNode, signs]);
  }
  for (const [node, signs] of found) {
    const pieces = [];
    let from = 0;
    for (const sign of signs) {
      pieces.push(node.data.slice(from, sign.index), named(sign[0]));
      from = sign.index + sign[0].length;
    }
    node.replaceWith(...pieces, node.data.slice(from));
  }
};
