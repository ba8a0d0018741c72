// A terminal: what the shell shows is drawn, what is typed is sent.

import { terminalAddress } from "./api.js";
import { make } from "./dom.js";
import { Screen } from "./screen.js";

const MARGIN = 2;
const KEYS = {
  Enter: "\r", Backspace: "\x7f", Tab: "\t", Escape: "\x1b", Home: "\x1b[H", End: "\x1b[F", Insert: "\x1b[2~", Delete: "\x1b[3~", PageUp: "\x1b[5~", PageDown: "\x1b[6~",
  F1: "\x1bOP", F2: "\x1bOQ", F3: "\x1bOR", F4: "\x1bOS", F5: "\x1b[15~", F6: "\x1b[17~", F7: "\x1b[18~", F8: "\x1b[19~", F9: "\x1b[20~", F10: "\x1b[21~", F11: "\x1b[23~", F12: "\x1b[24~",
};
const ARROWS = { ArrowUp: "A", ArrowDown: "B", ArrowRight: "C", ArrowLeft: "D" };

// What a key sends; null when it is for the browser, or comes as text.
export function keyBytes(event, applicationKeys) {
  const { key, ctrlKey, altKey, metaKey } = event;
  if (metaKey || (ctrlKey && event.shiftKey)) return null;
  if (key === "Tab" && event.shiftKey) return "\x1b[Z";
  if (ARROWS[key]) return (ctrlKey ? "\x1b[1;5" : applicationKeys ? "\x1bO" : "\x1b[") + ARROWS[key];
  if (KEYS[key]) return (altKey ? "\x1b" : "") + KEYS[key];
  if (key.length !== 1) return null;
  if (ctrlKey) {
    if (key === " ") return "\0";
    const code = key.toUpperCase().charCodeAt(0);
    return code >= 64 && code <= 95 ? String.fromCharCode(code - 64) : null;
  }
  return altKey ? "\x1b" + key : null;
}

function colour(value, fallback) {
  if (value === null) return fallback;
  if (typeof value === "string") return value;
  const base = ["#30363d", "#ff7b72", "#56d364", "#e3b341", "#79c0ff", "#d2a8ff", "#56d4dd", "#c9d1d9", "#6e7681", "#ffa198", "#7ee787", "#f2cc60", "#a5d6ff", "#e2c5ff", "#b3f0ff", "#ffffff"];
  if (value < 16) return base[value];
  if (value >= 232) { const grey = 8 + (value - 232) * 10; return `rgb(${grey},${grey},${grey})`; }
  const step = (n) => (n === 0 ? 0 : 55 + n * 40);
  const cube = value - 16;
  return `rgb(${step(Math.floor(cube / 36))},${step(Math.floor(cube / 6) % 6)},${step(cube % 6)})`;
}

// Runs of cells that look the same become one element.
function drawRow(place, cells, cursor) {
  const parts = [];
  for (let column = 0; column < cells.length;) {
    const { look } = cells[column];
    const here = column === cursor;
    let text = "";
    do { text += cells[column].text; column += 1; } while (column < cells.length && !here && column !== cursor && cells[column].look === look);
    const span = make("span", { class: here ? "cursor" : null }, text);
    if (!here && look) {
      const [front, back] = look.inverse ? [look.back ?? "#0e1116", look.front ?? "#d7dce2"] : [look.front, look.back];
      if (front !== null) span.style.color = colour(front, "");
      if (back !== null) span.style.background = colour(back, "");
      if (look.bold) span.style.fontWeight = "bold";
      if (look.faint) span.style.opacity = ".7";
      if (look.underline) span.style.textDecoration = "underline";
      if (look.italic) span.style.fontStyle = "italic";
    }
    parts.push(span);
  }
  place.replaceChildren(...parts);
}

function measure(element) {
  const probe = make("span", {}, "m".repeat(50));
  element.append(probe);
  const { width, height } = probe.getBoundingClientRect();
  probe.remove();
  return { width: width / 50 || 8, height: height || 18 };
}

export function openTerminal(ship, as) {
  const input = make("textarea", { "aria-label": "Terminal input", autocapitalize: "off", autocomplete: "off", spellcheck: "false" });
  const rows = make("div", { role: "log", "aria-label": "Terminal" });
  const element = make("div", { class: "terminal" }, rows, input);
  const status = make("span", { class: "faint" }, "connecting…");
  let [screen, socket, pending, closed] = [new Screen(80, 24), null, false, false];

  const draw = () => {
    pending = false;
    while (rows.children.length < screen.rows) rows.append(make("div", {}));
    while (rows.children.length > screen.rows) rows.lastChild.remove();
    for (const row of screen.takeDirty()) {
      drawRow(rows.children[row], screen.line(row), row === screen.y && screen.cursorShown && !closed ? Math.min(screen.x, screen.cols - 1) : -1);
    }
  };
  const drawSoon = () => { if (!pending) { pending = true; requestAnimationFrame(draw); } };
  const send = (text) => { if (socket?.readyState === WebSocket.OPEN) socket.send(text); };
  const fit = () => {
    const cell = measure(element);
    const style = getComputedStyle(element);
    const width = element.clientWidth - parseFloat(style.paddingLeft) - parseFloat(style.paddingRight);
    const cols = Math.max(20, Math.min(300, Math.floor(width / cell.width) || 80));
    const high = Math.max(10, Math.min(100, Math.floor((innerHeight * 0.65) / cell.height) - MARGIN));
    return { cols, rows: high };
  };
  const resize = () => {
    const { cols, rows: high } = fit();
    if (cols === screen.cols && high === screen.rows) return;
    screen.resize(cols, high);
    drawSoon();
    send(JSON.stringify({ type: "resize", cols, rows: high }));
  };
  const ended = (why) => {
    if (closed) return;
    closed = true;
    removeEventListener("resize", resize);
    status.textContent = why;
    screen.touchAll();
    drawSoon();
  };
  const connect = () => {
    const { cols, rows: high } = fit();
    screen = new Screen(cols, high);
    screen.answer = send;
    socket = new WebSocket(terminalAddress(ship, as, cols, high));
    socket.onopen = () => { status.textContent = "connected"; };
    socket.onmessage = (event) => { screen.write(event.data); drawSoon(); };
    socket.onclose = (event) => ended(event.code === 1006 ? "The connection was refused or lost." : event.reason || "The shell has ended.");
    draw();
  };
  input.addEventListener("keydown", (event) => {
    if (event.isComposing) return;
    const bytes = keyBytes(event, screen.applicationKeys);
    if (bytes === null) return;
    event.preventDefault();
    send(bytes);
  });
  input.addEventListener("input", (event) => {
    if (event.isComposing) return;
    send(input.value.replace(/\n/g, "\r"));
    input.value = "";
  });
  input.addEventListener("paste", (event) => {
    event.preventDefault();
    const text = event.clipboardData.getData("text").replace(/\r?\n/g, "\r");
    send(screen.bracketedPaste ? `\x1b[200~${text.replaceAll("\x1b", "")}\x1b[201~` : text);
  });
  element.addEventListener("mouseup", () => { if (getSelection().isCollapsed) input.focus({ preventScroll: true }); });
  addEventListener("resize", resize);
  // It has a size only once it is in the page.
  requestAnimationFrame(connect);
  return { element, status, focus: () => input.focus(), close: () => { ended("closed"); socket?.close(); } };
}
