// Numbers and states, spelled as the report spells them.
export const NOTHING = "–";
export const percent = (share) => (share === null || share === undefined ? NOTHING : `${(100 * share).toFixed(1)}%`);
export const interval = (low, high) => (low === null || low === undefined || high === null || high === undefined ? "" : `${(100 * low).toFixed(1)}–${(100 * high).toFixed(1)}%`);
export const index = (value) => (value === null || value === undefined ? NOTHING : value.toFixed(3));
export const count = (number) => (number === null || number === undefined ? NOTHING : number.toLocaleString("en"));
export const dollars = (usd) => {
  if (usd === null || usd === undefined) return "unknown";
  return usd === 0 || usd >= 1 ? `$${usd.toLocaleString("en", { minimumFractionDigits: 2, maximumFractionDigits: 2 })}` : `$${usd.toFixed(usd >= 0.0001 ? 4 : 7)}`;
};
export const seconds = (value) => (value === null || value === undefined ? "" : value < 60 ? `${value.toFixed(2)} s` : `${Math.floor(value / 60)} min ${Math.round(value % 60)} s`);
export const age = (value) => {
  if (value === null || value === undefined) return NOTHING;
  for (const [size, unit] of [[86400, "d"], [3600, "h"], [60, "min"]]) if (value >= size) return `${Math.floor(value / size)} ${unit}`;
  return value < 10 ? "now" : `${Math.round(value)} s`;
};
export const turnWord = (protocol) => (protocol === "live" ? "turn" : "length");
