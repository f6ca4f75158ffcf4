// Every visible text and control of the page with its contrast by WCAG 2.2: [kind, name, ratio].
() => {
  const canvas = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
  const rgba = (colour) => {
    canvas.clearRect(0, 0, 1, 1); canvas.fillStyle = colour; canvas.fillRect(0, 0, 1, 1);
    const [r, g, b, a] = canvas.getImageData(0, 0, 1, 1).data; return [r, g, b, a / 255];
  };
  const over = (top, under) => top.slice(0, 3).map((value, place) => value * top[3] + under[place] * (1 - top[3]));
  const ground = (node) => {
    const layers = [];
    for (let one = node; one; one = one.parentElement) layers.push(rgba(getComputedStyle(one).backgroundColor));
    return layers.reverse().reduce((under, top) => over(top, under), [255, 255, 255]);
  };
  const luminance = (colour) => {
    const [r, g, b] = colour.map((value) => value / 255).map((value) => (value <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const ratio = (one, two) => { const [a, b] = [luminance(one), luminance(two)].sort((x, y) => y - x); return (a + 0.05) / (b + 0.05); };
  const found = [];
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const node = walker.currentNode.parentElement;
    if (!walker.currentNode.textContent.trim() || !node.checkVisibility() || node.closest("script, style")) continue;
    const svg = node.closest("svg");
    const colour = rgba(svg ? getComputedStyle(node).fill : getComputedStyle(node).color);
    const cell = svg ? [...svg.querySelectorAll("path")].find((path) => {
      const [box, mine] = [path.getBoundingClientRect(), node.getBoundingClientRect()];
      return Number(getComputedStyle(path).fillOpacity) > 0 && getComputedStyle(path).fill !== "none" && box.width > 20
        && box.left <= mine.left && box.right >= mine.right && box.top <= mine.top && box.bottom >= mine.bottom;
    }) : null;
    let under = ground(svg ?? node);
    if (cell) { const style = getComputedStyle(cell); const top = rgba(style.fill); under = over([...top.slice(0, 3), Number(style.fillOpacity)], under); }
    const name = `${node.tagName}.${node.getAttribute("class") ?? ""} ${walker.currentNode.textContent.trim().slice(0, 30)}`;
    found.push(["text", name, ratio(over(colour, under), under)]);
  }
  for (const node of document.querySelectorAll("button:not(.sort, .picture), select, input")) {
    if (node.checkVisibility() && node.type !== "checkbox") found.push(["control", node.id || node.textContent, ratio(over(rgba(getComputedStyle(node).borderTopColor), ground(node)), ground(node.parentElement))]);
  }
  return found;
}
