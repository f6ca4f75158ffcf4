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
const sortTable = (table, heading, descending) => {
  for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
  heading.setAttribute("aria-sort", descending ? "descending" : "ascending");
  const key = (row) => row.cells[heading.cellIndex].dataset.sort ?? row.cells[heading.cellIndex].textContent;
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
const sortable = (table, changed = () => {}) => [...table.tHead.rows[0].cells].forEach((heading) => {
  const button = make("button", "sort", heading.textContent);
  button.type = "button";
  button.addEventListener("click", () => {
    const now = heading.getAttribute("aria-sort");
    const descending = now ? now === "ascending" : heading.classList.contains("number");
    sortTable(table, heading, descending);
    changed(`${descending ? "-" : ""}${heading.dataset.name}`);
  });
  heading.replaceChildren(button);
});
// Sorted as an address says: by a heading's name, with "-" before it from the other end.
const sortAs = (table, said) => {
  const heading = [...table.tHead.rows[0].cells].find((one) => one.dataset.name === (said ?? "").replace(/^-/, ""));
  if (heading) sortTable(table, heading, said.startsWith("-"));
};
for (const table of document.querySelectorAll("table.sortable")) sortable(table);

// Printing shows the tables that are folded on screen.
addEventListener("beforeprint", () => { for (const fold of document.querySelectorAll("details.table")) fold.open = true; });
