// Where the reader is stands in the address, all of it: #study=…&id=…&arm=… can be sent, kept and gone back to.
export const here = () => Object.fromEntries(new URLSearchParams(location.hash.slice(1)));

const said = (place) => {
  const written = new URLSearchParams();
  for (const [name, value] of Object.entries(place)) if (value !== undefined && value !== null && value !== "" && value !== false) written.set(name, value === true ? "1" : value);
  return `#${written}`;
};

// A step that "back" takes back.
export const go = (place) => { location.hash = said(place); };
// A change on the way, which is none.
export const note = (place) => history.replaceState(null, "", said(place));
export const link = said;
