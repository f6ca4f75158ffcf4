// Charts, drawn from numbers: lines with their names at their ends, and a map of cells that lead to their dialogues. Every value is told on hover and focus.
import { $, make } from "./shared.js";
import { count, interval, percent } from "./words.js";

const SVG = "http://www.w3.org/2000/svg";
const drawn = (tag, values, ...children) => {
  const node = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(values)) if (value !== undefined && value !== null) node.setAttribute(name, value);
  node.append(...children);
  return node;
};

export const tip = {
  show(lines, x, y) {
    const node = $("tip");
    node.replaceChildren(...lines.map((line, place) => make("p", place ? "" : "first", line)));
    node.hidden = false;
    const box = node.getBoundingClientRect();
    node.style.left = `${Math.max(4, Math.min(x + 12, innerWidth - box.width - 4))}px`;
    node.style.top = `${y + 16 + box.height > innerHeight ? Math.max(4, y - box.height - 8) : y + 16}px`;
  },
  hide() { $("tip").hidden = true; },
};

// Ends of the axis of shares, each with a step that makes round numbers.
const AXES = [[0.1, 0.02], [0.25, 0.05], [0.5, 0.1], [0.75, 0.25], [1, 0.25]];
const LABEL_PIXELS = 15;
const SIGN_PIXELS = 6.9;
const short = (name, pixels) => {
  const most = Math.max(6, Math.floor(pixels / SIGN_PIXELS));
  return name.length > most ? `${name.slice(0, Math.ceil(most / 2) - 1)}…${name.slice(-Math.floor(most / 2))}` : name;
};

// Places for labels that want to stand at `wanted`, none nearer to another than its height, all between top and bottom.
const spread = (wanted, top, bottom) => {
  const order = wanted.map((_, place) => place).sort((one, two) => wanted[one] - wanted[two]);
  const places = [...wanted];
  const gap = Math.min(LABEL_PIXELS, (bottom - top) / Math.max(1, order.length - 1));
  let floor = top;
  for (const place of order) { places[place] = Math.max(places[place], floor); floor = places[place] + gap; }
  let ceiling = bottom;
  for (const place of [...order].reverse()) { places[place] = Math.min(places[place], ceiling); ceiling = places[place] - gap; }
  return places;
};

const pointLines = (series, point, word) => [series.name, `${word} ${point.turn}: ASR ${percent(point.asr)}`, interval(point.ci_low, point.ci_high) ? `95% interval ${interval(point.ci_low, point.ci_high)}` : "",
  `${count(point.unsafe)} unsafe, ${count(point.safe)} safe, ${count(point.missing)} missing`].filter(Boolean);

// `series`: [{ name, look, points: rows of asr_by_turn }]; `word` names what the points are counted by.
export const lineChart = (series, { word, label }) => {
  const figure = make("figure", "lines");
  const held = series.map((one) => ({ ...one, points: one.points.filter((point) => point.asr !== null && point.asr !== undefined) })).filter((one) => one.points.length);
  const turns = [...new Set(held.flatMap((one) => one.points.map((point) => point.turn)))].sort((one, two) => one - two);
  const most = Math.max(0.1, ...held.flatMap((one) => one.points.map((point) => (held.length > 4 ? point.asr : point.ci_high ?? point.asr))));
  const [top, step] = AXES.find(([end]) => most <= end) ?? AXES[AXES.length - 1];
  let lit = null;
  const light = (name) => {
    lit = name;
    figure.classList.toggle("lit", lit !== null);
    for (const node of figure.querySelectorAll("[data-series]")) node.classList.toggle("on", node.dataset.series === lit);
  };
  const draw = () => {
    const width = Math.max(260, figure.clientWidth || 640);
    const named = held.length > 1;
    const right = named ? Math.min(190, width * 0.36) : 14, left = 42, above = 12, below = 40;
    const height = Math.max(220, Math.min(420, width * 0.5), named ? held.length * LABEL_PIXELS + above + below : 0);
    const [first, last] = [turns[0] ?? 1, turns[turns.length - 1] ?? 1];
    const x = (turn) => left + (last === first ? 0.5 : (turn - first) / (last - first)) * (width - left - right - 16) + 8;
    const y = (share) => above + (1 - share / top) * (height - above - below);
    const svg = drawn("svg", { class: "chart live", viewBox: `0 0 ${width} ${height}`, width, height, role: "img", "aria-label": label });
    for (let share = 0; share <= top + step / 2; share += step) {
      svg.append(drawn("line", { x1: left, x2: width - right, y1: y(share), y2: y(share), stroke: "var(--grid)" }),
        drawn("text", { x: left - 7, y: y(share) + 4, "text-anchor": "end", fill: "var(--muted)", "font-size": 12 }, `${Math.round(1000 * share) / 10}%`));
    }
    for (const turn of turns) svg.append(drawn("text", { x: x(turn), y: height - below + 18, "text-anchor": "middle", fill: "var(--muted)", "font-size": 12 }, String(turn)));
    svg.append(drawn("text", { x: (left + width - right) / 2, y: height - 6, "text-anchor": "middle", fill: "var(--muted)", "font-size": 12 }, word));
    const ends = spread(held.map((one) => y(one.points[one.points.length - 1].asr)), above + 4, height - below);
    held.forEach((one, place) => {
      const colour = `var(--series-${one.look[0] + 1})`;
      const group = drawn("g", { class: "series" });
      group.dataset.series = one.name;
      const banded = one.points.filter((point) => point.ci_low !== null && point.ci_low !== undefined);
      const there = banded.map((point) => `${x(point.turn)},${y(Math.min(top, point.ci_high))}`), back = banded.map((point) => `${x(point.turn)},${y(point.ci_low)}`).reverse();
      group.append(drawn("polygon", { class: held.length > 3 ? "band many" : "band", points: [...there, ...back].join(" "), fill: colour }),
        drawn("polyline", { points: one.points.map((point) => `${x(point.turn)},${y(point.asr)}`).join(" "), fill: "none", stroke: colour, "stroke-width": 2.2, "stroke-dasharray": one.look[1].join(" ") }));
      for (const point of one.points) group.append(drawn("circle", { cx: x(point.turn), cy: y(point.asr), r: 3.4, fill: colour }));
      if (named) {
        const end = one.points[one.points.length - 1];
        const text = drawn("text", { x: width - right + 12, y: ends[place] + 4, fill: "var(--ink)", "font-size": 12, tabindex: 0, class: "name" }, short(one.name, right - 14));
        group.append(drawn("path", { d: `M${x(end.turn) + 4} ${y(end.asr)} L${width - right - 4} ${ends[place]} L${width - right + 8} ${ends[place]}`, fill: "none", stroke: colour, "stroke-width": 1.2 }), text);
        const told = () => tip.show([one.name, ...one.points.map((point) => `${word} ${point.turn}: ${percent(point.asr)} (${interval(point.ci_low, point.ci_high)})`)], ...at(text));
        text.addEventListener("focus", () => { light(one.name); told(); });
        text.addEventListener("blur", () => { light(null); tip.hide(); });
      }
      svg.append(group);
    });
    const nearest = (event) => {
      const box = svg.getBoundingClientRect();
      const [px, py] = [(event.clientX - box.left) * (width / box.width), (event.clientY - box.top) * (height / box.height)];
      let best = null;
      held.forEach((one, place) => {
        for (const point of one.points) {
          const far = px > width - right ? Math.abs(py - ends[place]) : Math.hypot(px - x(point.turn), py - y(point.asr));
          if (!best || far < best.far) best = { far, one, point };
        }
      });
      return best && best.far < 60 ? best : null;
    };
    svg.addEventListener("pointermove", (event) => {
      const best = nearest(event);
      light(best ? best.one.name : null);
      if (best) tip.show(pointLines(best.one, best.point, word), event.clientX, event.clientY);
      else tip.hide();
    });
    svg.addEventListener("pointerleave", () => { light(null); tip.hide(); });
    figure.replaceChildren(svg);
  };
  new ResizeObserver(() => requestAnimationFrame(draw)).observe(figure);
  return figure;
};

const at = (node) => { const box = node.getBoundingClientRect(); return [box.left, box.bottom]; };

// `rows` and `columns`: [{ key, name }]; `cellOf(row, column)`: a row of counts or undefined; `leadsTo(row, column)`: the address of its dialogues.
export const heatMap = ({ rows, columns, cellOf, leadsTo, caption, corner }) => {
  const scroll = make("div", "scroll");
  const table = make("table", "heat");
  table.append(make("caption", "", caption));
  const head = make("thead"), top = make("tr"), body = make("tbody");
  const first = make("th", "", corner);
  first.scope = "col";
  top.append(first);
  const upright = columns.some((column) => column.name.length > 6);
  for (const column of columns) {
    const heading = make("th", upright ? "upright" : "");
    heading.scope = "col";
    heading.append(make("span", "", column.name));
    top.append(heading);
  }
  head.append(top);
  for (const row of rows) {
    const line = make("tr");
    const name = make("th", "", row.name);
    name.scope = "row";
    line.append(name);
    for (const column of columns) {
      const found = cellOf(row, column);
      const cell = make("td");
      if (found && found.asr !== null) {
        const node = make("a", "cell", `${Math.round(100 * found.asr)}`);
        node.href = leadsTo(row, column);
        node.style.setProperty("--share", found.asr);
        const lines = [`${row.name} · ${column.name}`, `ASR ${percent(found.asr)}`, `${count(found.unsafe)} unsafe, ${count(found.safe)} safe, ${count(found.missing)} missing`];
        node.setAttribute("aria-label", `${lines.join(", ")}. Opens these dialogues`);
        node.addEventListener("pointerenter", (event) => tip.show(lines, event.clientX, event.clientY));
        node.addEventListener("pointerleave", tip.hide);
        node.addEventListener("focus", () => tip.show(lines, ...at(node)));
        node.addEventListener("blur", tip.hide);
        node.addEventListener("click", tip.hide);
        cell.append(node);
      } else cell.append(make("span", "none", "–"));
      line.append(cell);
    }
    body.append(line);
  }
  table.append(head, body);
  scroll.append(table);
  return scroll;
};
