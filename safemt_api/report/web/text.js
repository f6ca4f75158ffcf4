// What was searched for: words and "quoted phrases", and their marks in what is shown.
const terms = (query) => [...query.toLowerCase().matchAll(/"([^"]+)"|(\S+)/g)].map((match) => match[1] ?? match[2].replaceAll('"', "")).filter(Boolean);

// Marks the terms in all text below the node; what is folded over one opens.
const marked = (root, wanted) => {
  if (!wanted.length) return;
  const pattern = new RegExp(wanted.map((term) => term.replace(/[.*+?^${}()|[\]\\/]/g, "\\$&")).join("|"), "giu");
  const walker = document.createTreeWalker(root, NodeFilter.SHOW_TEXT);
  const found = [];
  while (walker.nextNode()) {
    const matches = walker.currentNode.parentElement.closest("button, summary, .facts") ? [] : [...walker.currentNode.data.matchAll(pattern)];
    if (matches.length) found.push([walker.currentNode, matches]);
  }
  for (const [node, matches] of found) {
    const pieces = [];
    let from = 0;
    for (const match of matches) {
      pieces.push(node.data.slice(from, match.index), make("mark", "", match[0]));
      from = match.index + match[0].length;
    }
    for (let fold = node.parentElement.closest("details"); fold; fold = fold.parentElement.closest("details")) fold.open = true;
    node.replaceWith(...pieces, node.data.slice(from));
  }
};
