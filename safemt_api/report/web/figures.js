// What figures do: a mark says its value where one points or stops, the other lines step back meanwhile, tables and charts can be taken along.
// Everything hangs on the document, so that figures that come later behave alike.

const tip = make("div", "tip");
tip.setAttribute("role", "tooltip");
tip.hidden = true;
document.body.append(tip);
const REACH_PIXELS = 26;
const HERE_PIXELS = 3;
const away = (mark, x, y) => {
  const box = mark.getBoundingClientRect();
  return Math.hypot(box.x + box.width / 2 - x, box.y + box.height / 2 - y);
};
// The dots nearest to the pointer: several, where they lie on each other.
const nearest = (svg, x, y) => {
  const dots = [...svg.querySelectorAll(".mark-symbol [data-said]")].map((mark) => [mark, away(mark, x, y)]);
  const best = Math.min(...dots.map(([, far]) => far));
  return best > REACH_PIXELS ? [] : dots.filter(([, far]) => far < best + HERE_PIXELS).map(([mark]) => mark);
};
const light = (svg, runs) => {
  svg.classList.toggle("lit", runs.length > 0);
  for (const mark of svg.querySelectorAll("[data-run]")) mark.classList.toggle("on", runs.includes(mark.dataset.run));
};
const tell = (marks, x, y) => {
  tip.replaceChildren(...marks.map((mark) => make("p", "", mark.dataset.said)));
  tip.hidden = false;
  const { width, height } = tip.getBoundingClientRect();
  tip.style.left = `${Math.max(4, Math.min(x + 12, document.documentElement.clientWidth - width - 4))}px`;
  tip.style.top = `${y - height - 12 > 4 ? y - height - 12 : y + 16}px`;
};
const hush = () => {
  tip.hidden = true;
  for (const svg of document.querySelectorAll("svg.lit")) light(svg, []);
};
const tellAt = (target, x, y) => {
  const svg = target instanceof Element ? target.closest("svg.chart") : null;
  for (const other of document.querySelectorAll("svg.lit")) if (other !== svg) light(other, []);
  if (!svg) { tip.hidden = true; return; }
  const marks = nearest(svg, x, y);
  const under = target.closest("[data-said], [data-run]");
  if (!marks.length && under && under.dataset.said) marks.push(under);
  const owners = marks.length ? marks : under ? [under] : [];
  light(svg, owners.map((mark) => mark.dataset.run).filter(Boolean));
  if (marks.length) tell(marks, x, y);
  else tip.hidden = true;
};
// Where a mouse rests: what scrolls below it is told, too. A finger that scrolls rests nowhere.
let resting = null;
document.addEventListener("pointermove", (event) => {
  resting = event.pointerType === "mouse" ? [event.clientX, event.clientY] : null;
  tellAt(event.target, event.clientX, event.clientY);
});
document.documentElement.addEventListener("pointerleave", () => { resting = null; hush(); });
const tellFocused = () => {
  const mark = document.activeElement?.matches("svg.chart a") ? document.activeElement.querySelector("[data-said]") : null;
  if (!mark) { hush(); return; }
  const box = mark.getBoundingClientRect();
  tell([mark], box.right, box.top);
};
document.addEventListener("focusin", () => { resting = null; tellFocused(); });
document.addEventListener("keydown", (event) => { if (event.key === "Escape") { resting = null; hush(); } });
const tellAgain = () => {
  if (resting) tellAt(document.elementFromPoint(...resting), ...resting);
  else if (!tip.hidden) tellFocused();
};
addEventListener("scroll", () => requestAnimationFrame(tellAgain), { passive: true, capture: true });

// Pages opened from disk may have no clipboard of their own; then what is chosen on the page is copied.
const copied = async (text, button) => {
  const before = button.textContent;
  try { await navigator.clipboard.writeText(text); } catch {
    const area = make("textarea", "aside", text);
    document.body.append(area);
    area.select();
    document.execCommand("copy");
    area.remove();
  }
  button.textContent = "Copied";
  setTimeout(() => { button.textContent = before; }, 1200);
};
const download = (name, kind, text) => {
  const link = make("a");
  link.href = URL.createObjectURL(new Blob([text], { type: kind }));
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
};
const fileName = (text) => text.toLowerCase().replaceAll(/[^a-z0-9]+/g, "-").replaceAll(/^-|-$/g, "").slice(0, 60) || "figure";

// Cells as a spreadsheet takes them: a tab between, an interval in brackets, and no words that it would run as a formula.
const cellText = (cell) => {
  const [value, ...more] = [...cell.childNodes].filter((node) => !(node instanceof SVGElement)).map((node) => node.textContent.trim()).filter(Boolean);
  const text = `${value ?? ""}${more.length ? ` [${more.join("; ")}]` : ""}`.replaceAll(/\s+/g, " ");
  return !cell.classList.contains("number") && /^[=+\-@]/.test(text) ? `'${text}` : text;
};
const tableText = (table) => [...table.rows].map((row) => [...row.cells].map(cellText).join("\t")).join("\n");

// A chart by itself has no style sheet around it: its colours are written out as this theme has them.
const svgText = (svg) => {
  const style = getComputedStyle(document.documentElement);
  const probe = make("i");
  document.body.append(probe);
  const colour = (name) => { probe.style.color = style.getPropertyValue(name); return getComputedStyle(probe).color; };
  const text = new XMLSerializer().serializeToString(svg).replaceAll(/var\((--[a-z0-9-]+)\)/g, (_, name) => colour(name));
  probe.remove();
  return text;
};
document.addEventListener("click", (event) => {
  const button = event.target instanceof Element ? event.target.closest("button[data-take]") : null;
  if (!button) return;
  if (button.dataset.take === "table") copied(tableText(button.closest("table")), button);
  else {
    const svg = button.closest("figure").querySelector("svg.chart");
    download(`${fileName(svg.getAttribute("aria-label").split(";")[0])}.svg`, "image/svg+xml", svgText(svg));
  }
});
