// What is shown: the token is asked for, then the list of ships, or one of them.

import { call, get, Refused, session, token } from "./api.js";
import { button, duration, empty, left, make, table, time } from "./dom.js";
import { showShip } from "./ship.js";

export const STATES = ["stopped", "running", "creating"];
const EVERY = 3000;

const main = document.getElementById("main");
const trouble = document.getElementById("trouble");
const counts = document.getElementById("counts");
const leave = document.getElementById("leave");

// What the view that is shown wants to be told: when it is time to look again, and when it goes.
let shown = { key: null, refresh: null, close: null };
// What is asked for counts only while the same is still shown.
let turn = 0;

export function complain(error) {
  const text = error instanceof Refused ? error.message : String(error);
  trouble.replaceChildren(make("span", {}, text), button("Close", () => { trouble.hidden = true; }, "quiet"));
  trouble.hidden = false;
  if (error instanceof Refused && (error.status === 401 || error.status === 403)) askForToken();
}

// Does something, once at a time for a button, and says what went wrong.
export function act(work) {
  return async (event) => {
    const source = event?.currentTarget;
    if (source) source.disabled = true;
    try {
      await work();
      trouble.hidden = true;
    } catch (error) {
      complain(error);
    } finally {
      if (source) source.disabled = false;
      await refresh();
    }
  };
}

export function state(ship) {
  const name = STATES[ship.status] || "unknown";
  return make("span", { class: `state ${name}` }, name);
}

function show(view) {
  shown.close?.();
  shown = view;
}

function askForToken() {
  token.forget();
  leave.hidden = true;
  counts.textContent = "";
  const input = make("input", { type: "password", name: "token", required: true, autocomplete: "current-password", "aria-label": "Access token" });
  const form = make("form", { class: "row", onsubmit: async (event) => {
    event.preventDefault();
    token.set(input.value.trim());
    try {
      await get("stat/overview");
      trouble.hidden = true;
      route();
    } catch (error) {
      complain(error);
    }
  } }, input, make("button", { class: "main" }, "Continue"));
  show({ key: "token", refresh: null, close: null });
  main.replaceChildren(make("section", {}, make("h2", {}, "Access token"),
    make("p", { class: "faint" }, "What the service was started with, or what it said where it keeps the one that it made. It is forgotten with this tab."), form));
  input.focus();
}

function ttlForm(label, value, action, kind) {
  const input = make("input", { type: "number", min: 1, max: 315360000, value, required: true, "aria-label": "Seconds to live" });
  return make("form", { class: "row", onsubmit: (event) => {
    event.preventDefault();
    act(() => action(input.valueAsNumber))();
  } }, make("label", {}, "Seconds", input), make("button", { class: kind }, label));
}

export { ttlForm };

async function createShip(ttl) {
  const ship = await call("POST", "ship", { ttl, max_session_num: 10, force_create: true }, session());
  location.hash = `#/${ship.id}`;
}

function listOf(ships) {
  if (ships.length === 0) return empty("No ships", "A ship is a workspace with users, Python and a shell, that goes when its time is over.");
  const rows = ships.map((ship) => [
    make("a", { href: `#/${ship.id}`, class: "mono" }, ship.id),
    state(ship),
    `${ship.current_session_num} of ${ship.max_session_num}`,
    ship.status === 1 ? left(ship.expires_at) : "–",
    time(ship.created_at),
    ship.status === 1
      ? [button("Stop", act(() => call("DELETE", `ship/${ship.id}`)))]
      : ship.status === 0 ? [button("Start", act(() => call("POST", `ship/${ship.id}/start`, { ttl: ship.ttl }, session())))] : [],
  ]);
  return table(["Ship", "State", "Sessions", "Time left", "Created", ""], rows);
}

function showList() {
  const list = make("div", {});
  const create = ttlForm("New ship", 3600, createShip, "main");
  main.replaceChildren(make("section", {}, make("div", { class: "row apart" }, make("h2", {}, "Ships"), create), list));
  let before = null;
  const refresh = async () => {
    const ships = await get("ships");
    // What a keyboard is on must not be taken away by a list that says the same.
    const now = JSON.stringify(ships) + ships.map((ship) => left(ship.expires_at)).join();
    if (now !== before && !list.contains(document.activeElement)) list.replaceChildren(listOf(ships));
    before = list.contains(document.activeElement) ? null : now;
  };
  show({ key: "list", refresh, close: null });
}

async function refresh() {
  const mine = ++turn;
  if (!token.get()) return;
  try {
    const overview = await get("stat/overview");
    if (mine !== turn) return;
    leave.hidden = false;
    const { ships, sessions } = overview;
    counts.textContent = `${ships.running} running, ${ships.stopped} stopped, ${sessions.active} ${sessions.active === 1 ? "session" : "sessions"} · version ${overview.version}`;
    await shown.refresh?.();
    if (trouble.dataset.lost) trouble.hidden = true;
    delete trouble.dataset.lost;
  } catch (error) {
    if (mine !== turn) return;
    if (error.status === 0) trouble.dataset.lost = "yes";
    complain(error);
  }
}

async function route() {
  if (!token.get()) return askForToken();
  // What went wrong elsewhere is not said of what is shown now.
  if (!trouble.dataset.lost) trouble.hidden = true;
  const [ship, tab] = location.hash.replace(/^#\/?/, "").split("/").map(decodeURIComponent);
  if (!ship) showList();
  else if (shown.key === `ship ${ship}` && shown.select) shown.select(tab || "overview");
  else show(showShip(main, ship, tab || "overview"));
  await refresh();
}

leave.addEventListener("click", askForToken);
addEventListener("hashchange", route);
setInterval(() => { if (!document.hidden) refresh(); }, EVERY);
route();

export { duration };
