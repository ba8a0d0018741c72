// What a terminal shows: characters and control sequences in, rows of cells out.
//
// Sources: ECMA-48, and XTerm Control Sequences (invisible-island.net/xterm/ctlseqs). What is not known is swallowed whole.

const PLAIN = null;
const MOST_PARAMETERS = 32;
const LONGEST_STRING = 4096;
const WIDE = /[\u1100-\u115f\u2e80-\u303e\u3041-\u33ff\u3400-\u4dbf\u4e00-\u9fff\ua000-\ua4cf\uac00-\ud7a3\uf900-\ufaff\ufe30-\ufe6f\uff00-\uff60\uffe0-\uffe6]|[\u{1f300}-\u{1f64f}\u{1f680}-\u{1faff}\u{20000}-\u{3fffd}]/u;
const NONE = /\p{Mn}|\p{Me}|[\u200b-\u200f\ufe00-\ufe0f]/u;
// DEC special graphics, from "`" on.
const GRAPHICS = "◆▒␉␌␍␊°±␤␋┘┐┌└┼⎺⎻─⎼⎽├┤┴┬│≤≥π≠£·";

const blank = (look = PLAIN) => ({ text: " ", look });

export class Screen {
  constructor(cols, rows) {
    [this.cols, this.rows] = [cols, rows];
    this.answer = () => {};
    this.reset();
  }

  reset() {
    [this.x, this.y, this.look] = [0, 0, PLAIN];
    this.cursorShown = true;
    this.applicationKeys = false;
    this.bracketedPaste = false;
    this.wraps = true;
    this.inserts = false;
    this.origin = false;
    this.graphics = [false, false];
    this.shift = 0;
    this.saved = null;
    this.other = null;
    [this.top, this.bottom] = [0, this.rows - 1];
    this.lines = Array.from({ length: this.rows }, () => this.blankLine());
    this.tabs = new Set(Array.from({ length: 64 }, (_, i) => i * 8));
    this.state = this.ground;
    this.touchAll();
  }

  blankLine() {
    const back = this.look?.back ?? null;
    const look = back === null ? PLAIN : { front: null, back };
    return Array.from({ length: this.cols }, () => blank(look));
  }

  line(row) { return this.lines[row]; }
  touch(row) { this.dirty.add(row); }
  touchAll() { this.dirty = new Set(this.lines.keys()); }

  takeDirty() {
    const taken = [...new Set([...this.dirty, this.drawnAt ?? 0, this.y])].filter((row) => row < this.rows);
    this.drawnAt = this.y;
    this.dirty.clear();
    return taken;
  }

  resize(cols, rows) {
    const fit = (lines) => {
      const kept = lines.map((line) => Array.from({ length: cols }, (_, i) => line[i] ?? blank()));
      while (kept.length < rows) kept.push(Array.from({ length: cols }, () => blank()));
      return kept;
    };
    const above = Math.max(0, this.y - rows + 1);
    this.lines = fit(this.lines.slice(above, above + rows));
    if (this.other) this.other.lines = fit(this.other.lines.slice(0, rows));
    [this.cols, this.rows, this.top, this.bottom] = [cols, rows, 0, rows - 1];
    this.moveTo(this.x, this.y - above);
    this.touchAll();
  }

  write(text) {
    for (const character of text) this.state(character);
  }

  ground(character) {
    if (character >= " " && character !== "\x7f") return this.put(character);
    this.control(character);
  }

  control(character) {
    switch (character) {
      case "\b": this.x = Math.max(0, Math.min(this.x, this.cols - 1) - 1); break;
      case "\t": do this.x += 1; while (this.x < this.cols - 1 && !this.tabs.has(this.x)); this.x = Math.min(this.x, this.cols - 1); break;
      case "\n": case "\v": case "\f": this.lineFeed(); break;
      case "\r": this.x = 0; break;
      case "\x0e": this.shift = 1; break;
      case "\x0f": this.shift = 0; break;
      case "\x1b": this.state = this.escape; break;
    }
  }

  put(character) {
    if (NONE.test(character)) {
      const before = this.lines[this.y][Math.max(0, this.x - 1)];
      if (before.text.length < 32) before.text += character;
      return this.touch(this.y);
    }
    if (this.graphics[this.shift] && character >= "`" && character <= "~") character = GRAPHICS[character.charCodeAt(0) - 96];
    const width = WIDE.test(character) ? 2 : 1;
    if (this.x + width > this.cols) {
      if (this.wraps) { this.x = 0; this.lineFeed(); } else this.x = this.cols - width;
    }
    const line = this.lines[this.y];
    if (this.inserts) { line.splice(this.x, 0, ...Array.from({ length: width }, () => blank())); line.length = this.cols; }
    line[this.x] = { text: character, look: this.look };
    if (width === 2 && this.x + 1 < this.cols) line[this.x + 1] = { text: "", look: this.look };
    this.x += width;
    this.touch(this.y);
  }

  lineFeed() {
    if (this.y === this.bottom) this.scroll(this.top, 1);
    else if (this.y < this.rows - 1) this.y += 1;
  }

  // Rows from `from` to the end of the region go up by `count`, or down when it is negative.
  scroll(from, count) {
    const height = this.bottom - from + 1;
    const steps = Math.min(Math.abs(count), height);
    const fresh = Array.from({ length: steps }, () => this.blankLine());
    if (count > 0) { this.lines.splice(from, steps); this.lines.splice(this.bottom - steps + 1, 0, ...fresh); }
    else { this.lines.splice(this.bottom - steps + 1, steps); this.lines.splice(from, 0, ...fresh); }
    for (let row = from; row <= this.bottom; row += 1) this.touch(row);
  }

  moveTo(x, y) {
    this.x = Math.max(0, Math.min(this.cols - 1, x));
    this.y = Math.max(0, Math.min(this.rows - 1, y));
  }

  escape(character) {
    this.state = this.ground;
    switch (character) {
      case "[": this.parameters = ""; this.state = this.sequence; break;
      case "]": case "P": case "X": case "^": case "_": this.length = 0; this.state = this.string; break;
      case "(": this.state = (set) => this.charset(0, set); break;
      case ")": this.state = (set) => this.charset(1, set); break;
      case "*": case "+": case "#": case "%": case " ": this.state = () => { this.state = this.ground; }; break;
      case "7": this.save(); break;
      case "8": this.restore(); break;
      case "D": this.lineFeed(); break;
      case "E": this.x = 0; this.lineFeed(); break;
      case "M": if (this.y === this.top) this.scroll(this.top, -1); else this.moveTo(this.x, this.y - 1); break;
      case "H": this.tabs.add(this.x); break;
      case "c": this.reset(); break;
      case "\x1b": this.state = this.escape; break;
    }
  }

  charset(which, set) {
    this.graphics[which] = set === "0";
    this.state = this.ground;
  }

  // A title, a colour, a query: ends with BEL or ESC \.
  string(character) {
    this.length += 1;
    if (character === "\x07" || character === "\x9c" || this.length > LONGEST_STRING) this.state = this.ground;
    else if (character === "\x1b") this.state = (next) => { this.state = this.ground; if (next !== "\\") this.escape(next); };
  }

  sequence(character) {
    if (character === "\x1b") { this.state = this.escape; return; }
    if (character < " ") return this.control(character);
    if (character < "@") {
      if (this.parameters.length < 8 * MOST_PARAMETERS) this.parameters += character;
      return;
    }
    this.state = this.ground;
    const mark = /^[<=>?]/.test(this.parameters) ? this.parameters[0] : "";
    const between = /[ -\/]/.exec(this.parameters)?.[0] ?? "";
    const numbers = this.parameters.slice(mark.length).replace(/[ -\/]/g, "").split(/[;:]/).slice(0, MOST_PARAMETERS).map((n) => Math.min(parseInt(n, 10) || 0, 9999));
    if (between) return;
    if (mark === "?" && (character === "h" || character === "l")) numbers.forEach((n) => this.mode(n, character === "h"));
    else if (mark === "") this.perform(character, numbers);
    else if (mark === ">" && character === "c") this.answer("\x1b[>0;0;0c");
  }

  perform(character, numbers) {
    const n = Math.max(1, numbers[0]);
    const column = Math.min(this.x, this.cols - 1);
    const upper = this.origin ? this.top : 0;
    switch (character) {
      case "A": this.moveTo(column, Math.max(this.y >= this.top ? this.top : 0, this.y - n)); break;
      case "B": case "e": this.moveTo(column, Math.min(this.y <= this.bottom ? this.bottom : this.rows - 1, this.y + n)); break;
      case "C": case "a": this.moveTo(column + n, this.y); break;
      case "D": this.moveTo(column - n, this.y); break;
      case "E": this.moveTo(0, this.y + n); break;
      case "F": this.moveTo(0, this.y - n); break;
      case "G": case "`": this.moveTo(n - 1, this.y); break;
      case "H": case "f": this.moveTo(Math.max(1, numbers[1] || 1) - 1, upper + n - 1); break;
      case "d": this.moveTo(column, upper + n - 1); break;
      case "J": this.eraseDisplay(numbers[0]); break;
      case "K": this.eraseLine(numbers[0]); break;
      case "L": if (this.inRegion()) { this.scroll(this.y, -n); this.x = 0; } break;
      case "M": if (this.inRegion()) { this.scroll(this.y, n); this.x = 0; } break;
      case "P": this.edit((line) => { line.splice(column, Math.min(n, this.cols)); while (line.length < this.cols) line.push(blank()); }); break;
      case "@": this.edit((line) => { line.splice(column, 0, ...Array.from({ length: Math.min(n, this.cols) }, () => blank())); line.length = this.cols; }); break;
      case "X": this.erase(this.y, column, column + n); break;
      case "S": this.scroll(this.top, n); break;
      case "T": this.scroll(this.top, -n); break;
      case "b": { const last = this.lines[this.y][Math.max(0, this.x - 1)].text || " "; for (let i = 0; i < Math.min(n, this.cols); i += 1) this.put(last[0]); break; }
      case "g": if (numbers[0] === 3) this.tabs.clear(); else this.tabs.delete(column); break;
      case "h": case "l": if (numbers.includes(4)) this.inserts = character === "h"; break;
      case "m": this.paint(numbers); break;
      case "n": if (numbers[0] === 6) this.answer(`\x1b[${this.y + 1};${column + 1}R`); else if (numbers[0] === 5) this.answer("\x1b[0n"); break;
      case "c": this.answer("\x1b[?6c"); break;
      case "r": this.region(n - 1, (numbers[1] || this.rows) - 1); break;
      case "s": this.save(); break;
      case "u": this.restore(); break;
    }
  }

  inRegion() { return this.y >= this.top && this.y <= this.bottom; }

  region(top, bottom) {
    bottom = Math.min(bottom, this.rows - 1);
    if (top >= bottom) return;
    [this.top, this.bottom] = [top, bottom];
    this.moveTo(0, this.origin ? top : 0);
  }

  edit(change) {
    change(this.lines[this.y]);
    this.touch(this.y);
  }

  erase(row, from, to) {
    const fresh = this.blankLine();
    for (let column = from; column < Math.min(to, this.cols); column += 1) this.lines[row][column] = fresh[column];
    this.touch(row);
  }

  eraseLine(how) {
    const column = Math.min(this.x, this.cols - 1);
    this.erase(this.y, how === 0 ? column : 0, how === 1 ? column + 1 : this.cols);
  }

  eraseDisplay(how) {
    if (how < 2) this.eraseLine(how);
    const [from, to] = how === 0 ? [this.y + 1, this.rows] : how === 1 ? [0, this.y] : [0, this.rows];
    for (let row = from; row < to; row += 1) this.erase(row, 0, this.cols);
  }

  save() { this.saved = { x: this.x, y: this.y, look: this.look, graphics: [...this.graphics], shift: this.shift }; }

  restore() {
    const { x, y, look, graphics, shift } = this.saved ?? { x: 0, y: 0, look: PLAIN, graphics: [false, false], shift: 0 };
    [this.look, this.graphics, this.shift] = [look, [...graphics], shift];
    this.moveTo(x, y);
  }

  mode(number, on) {
    switch (number) {
      case 1: this.applicationKeys = on; break;
      case 6: this.origin = on; this.moveTo(0, on ? this.top : 0); break;
      case 7: this.wraps = on; break;
      case 25: this.cursorShown = on; this.touch(this.y); break;
      case 47: case 1047: this.alternate(on); break;
      case 1048: if (on) this.save(); else this.restore(); break;
      case 1049: if (on) { this.save(); this.alternate(true); } else { this.alternate(false); this.restore(); } break;
      case 2004: this.bracketedPaste = on; break;
    }
  }

  alternate(on) {
    if (on === (this.other !== null)) return;
    if (on) {
      this.other = { lines: this.lines };
      this.lines = Array.from({ length: this.rows }, () => this.blankLine());
    } else {
      this.lines = this.other.lines;
      this.other = null;
    }
    [this.top, this.bottom] = [0, this.rows - 1];
    this.touchAll();
  }

  paint(numbers) {
    let look = { front: null, back: null, ...(this.look ?? {}) };
    for (let i = 0; i < numbers.length; i += 1) {
      const n = numbers[i];
      if (n === 0) look = { front: null, back: null };
      else if (n === 1) look.bold = true;
      else if (n === 2) look.faint = true;
      else if (n === 3) look.italic = true;
      else if (n === 4) look.underline = true;
      else if (n === 7) look.inverse = true;
      else if (n === 22) look.bold = look.faint = false;
      else if (n === 23) look.italic = false;
      else if (n === 24) look.underline = false;
      else if (n === 27) look.inverse = false;
      else if (n >= 30 && n <= 37) look.front = n - 30;
      else if (n >= 40 && n <= 47) look.back = n - 40;
      else if (n >= 90 && n <= 97) look.front = n - 82;
      else if (n >= 100 && n <= 107) look.back = n - 92;
      else if (n === 39) look.front = null;
      else if (n === 49) look.back = null;
      else if (n === 38 || n === 48) {
        const part = n === 38 ? "front" : "back";
        if (numbers[i + 1] === 5) { look[part] = Math.min(numbers[i + 2] || 0, 255); i += 2; }
        else if (numbers[i + 1] === 2) { look[part] = `rgb(${numbers.slice(i + 2, i + 5).map((c) => Math.min(c || 0, 255)).join(",")})`; i += 4; }
      }
    }
    this.look = Object.values(look).some((value) => value !== null && value !== false) ? look : PLAIN;
  }
}
