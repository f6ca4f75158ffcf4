// Questions to the server beside this page. An answer that has not changed is told from one that has by its tag, and is not sent again.
const known = new Map();
const MOST_KNOWN = 12;

export const query = (values) => {
  const said = new URLSearchParams();
  for (const [name, value] of Object.entries(values)) {
    for (const one of Array.isArray(value) ? value : [value]) if (one !== undefined && one !== null && one !== "" && one !== false) said.append(name, one === true ? "1" : one);
  }
  return said.toString();
};

export const address = (name, values = {}) => `api/${name}?${query(values)}`;

// The answer, and whether it is another than last time.
export const asked = async (name, values = {}, { signal } = {}) => {
  const url = address(name, values);
  const before = known.get(url);
  const response = await fetch(url, { signal, cache: "no-store", headers: before ? { "If-None-Match": before.tag } : {} });
  if (response.status === 304) return { answer: before.answer, changed: false };
  if (!response.ok) throw Object.assign(new Error(await response.text()), { status: response.status });
  const answer = await response.json();
  known.delete(url);
  known.set(url, { answer, tag: response.headers.get("ETag") });
  while (known.size > MOST_KNOWN) known.delete(known.keys().next().value);
  return { answer, changed: true };
};
