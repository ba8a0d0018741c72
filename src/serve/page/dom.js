// Elements by name, attributes and children. Text is always text: nothing that comes from a ship is ever read as markup.

export function make(name, attributes = {}, ...children) {
  const element = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (value === undefined || value === null || value === false) continue;
    if (key.startsWith("on")) element.addEventListener(key.slice(2), value);
    else element.setAttribute(key, value === true ? "" : value);
  }
  element.append(...children.flat().filter((child) => child !== null && child !== undefined));
  return element;
}

export function button(label, action, kind) {
  return make("button", { type: "button", class: kind, onclick: action }, label);
}

// Rows are lists of cells: a text, an element, or a list of elements, which are what can be done with the row.
export function table(columns, rows) {
  const head = make("thead", {}, make("tr", {}, columns.map((name) => make("th", { scope: "col" }, name))));
  const cell = (content, column) =>
    Array.isArray(content)
      ? make("td", { class: "actions" }, content)
      : make("td", { "data-name": columns[column] || null }, make("span", {}, content));
  const body = make("tbody", {}, rows.map((row) => make("tr", {}, row.map(cell))));
  return make("table", { class: "wide" }, head, body);
}

export function empty(title, text, ...more) {
  return make("div", { class: "empty" }, make("h3", {}, title), make("p", {}, text), more);
}

export function time(text) {
  if (!text) return "never";
  const date = new Date(/[zZ]|[+-]\d\d:?\d\d$/.test(text) ? text : text + "Z");
  return Number.isNaN(date.getTime()) ? text : make("time", { datetime: date.toISOString(), title: date.toString() }, date.toLocaleString());
}

export function left(text) {
  if (!text) return "–";
  const seconds = Math.round((new Date(/[zZ]|[+-]\d\d:?\d\d$/.test(text) ? text : text + "Z") - Date.now()) / 1000);
  return seconds <= 0 ? "over" : duration(seconds);
}

export function duration(seconds) {
  const [days, hours, minutes] = [Math.floor(seconds / 86400), Math.floor(seconds / 3600) % 24, Math.floor(seconds / 60) % 60];
  if (days) return `${days} d ${hours} h`;
  if (hours) return `${hours} h ${minutes} min`;
  return minutes ? `${minutes} min ${seconds % 60} s` : `${seconds} s`;
}

export function size(bytes) {
  if (bytes === null || bytes === undefined) return "–";
  const units = ["B", "kB", "MB", "GB", "TB"];
  let unit = 0;
  while (bytes >= 1000 && unit < units.length - 1) { bytes /= 1000; unit += 1; }
  return `${unit === 0 ? bytes : bytes.toPrecision(3)} ${units[unit]}`;
}
