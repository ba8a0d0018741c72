// One ship: what it is, its terminal, log, snapshots and changes.

import { act, state, ttlForm } from "./app.js";
import { call, get, session } from "./api.js";
import { button, duration, empty, left, make, size, table, time } from "./dom.js";
import { openTerminal } from "./terminal.js";

const TABS = { overview: "Overview", terminal: "Terminal", log: "Log", snapshots: "Snapshots", changes: "Changes" };

const notRunning = (purpose) => empty("The ship is not running", `Start it to ${purpose}.`);

function facts(ship) {
  const rows = [
    ["State", state(ship)],
    ["Time left", ship.status === 1 ? `${left(ship.expires_at)} (of ${duration(ship.ttl)})` : "–"],
    ["Sessions", `${ship.current_session_num} of ${ship.max_session_num}`],
    ["Created", time(ship.created_at)],
    ["Vessel", make("code", {}, ship.container_id || "–")],
  ];
  return make("table", {}, make("tbody", {}, rows.map(([name, value]) => make("tr", {}, make("th", { scope: "row" }, name), make("td", {}, value)))));
}

function sessionsOf(sessions) {
  if (sessions.length === 0) return empty("No sessions", "Nobody is aboard.");
  const rows = sessions.map((one) => [
    make("code", {}, one.session_id),
    one.is_active ? left(one.expires_at) : "over",
    time(one.last_activity),
    one.is_active ? [button("End", act(() => call("DELETE", `sessions/${encodeURIComponent(one.session_id)}`)))] : [],
  ]);
  return table(["Session", "Time left", "Last activity", ""], rows);
}

function overview(id) {
  const [what, who] = [make("section", {}), make("section", {})];
  const place = make("div", {}, what, who);
  let before = null;
  return { place, refresh: async (ship) => {
    const sessions = (await get("sessions")).sessions.filter((one) => one.ship_id === ship.id);
    const now = JSON.stringify([ship.status, ship.ttl, sessions.map((one) => [one.session_id, one.is_active])]);
    if (now === before && place.contains(document.activeElement)) return;
    before = now;
    const actions = ship.status === 1
      ? [ttlForm("Set time left", ship.ttl, (ttl) => call("POST", `ship/${id}/extend-ttl`, { ttl })), button("Stop", act(() => call("DELETE", `ship/${id}`)))]
      : ship.status === 0 ? [ttlForm("Start", ship.ttl, (ttl) => call("POST", `ship/${id}/start`, { ttl }, session()))] : [];
    const removal = button("Remove with all data", act(async () => {
      if (!confirm("Remove the ship and everything in it?")) return;
      await call("DELETE", `ship/${id}/permanent`);
      location.hash = "#/";
    }), "bad");
    what.replaceChildren(facts(ship), make("div", { class: "row" }, actions, removal));
    who.replaceChildren(make("h3", {}, "Sessions"), sessionsOf(sessions));
  } };
}

function terminal(id) {
  const place = make("section", {});
  let open = null;
  const connect = (as) => {
    open?.close();
    open = openTerminal(id, as);
    place.replaceChildren(make("div", { class: "row apart" }, make("span", { class: "faint" }, `as session ${as}`), open.status), open.element);
    open.focus();
  };
  const offer = (active) => {
    const choice = make("select", { "aria-label": "Session" }, active.map((one) => make("option", {}, one.session_id)));
    place.replaceChildren(make("form", { class: "row", onsubmit: (event) => { event.preventDefault(); connect(choice.value); } },
      make("label", {}, "Session", choice), make("button", { class: "main" }, "Open a terminal")));
  };
  let before = null;
  return { place, close: () => open?.close(), refresh: async (ship) => {
    if (open) return;
    const up = ship.status === 1;
    const active = up ? (await get(`ship/${id}/sessions`)).sessions.filter((one) => one.is_active) : [];
    const now = JSON.stringify([ship.status, active.map((one) => one.session_id)]);
    if (now === before) return;
    before = now;
    if (!up) place.replaceChildren(notRunning("open a terminal"));
    else if (active.length === 0) place.replaceChildren(empty("No sessions", "A terminal belongs to a session, and nobody is aboard."));
    else offer(active);
  } };
}

function log(id) {
  const text = make("pre", { class: "log", tabindex: 0 });
  const place = make("section", {}, text);
  let before = null;
  return { place, refresh: async () => {
    const { logs } = await get(`ship/logs/${id}`);
    if (logs === before) return;
    before = logs;
    const atEnd = text.scrollHeight - text.scrollTop - text.clientHeight < 40;
    if (logs) text.textContent = logs;
    place.replaceChildren(logs ? text : empty("Nothing yet", "Every operation on the ship since the service was started is a line here."));
    if (atEnd) text.scrollTop = text.scrollHeight;
  } };
}

function snapshots(id) {
  const [list, message] = [make("div", {}), make("input", { "aria-label": "Message", placeholder: "Message", maxlength: 4096 })];
  const form = make("form", { class: "row", onsubmit: (event) => {
    event.preventDefault();
    act(async () => { await call("POST", `ship/${id}/snapshots`, { message: message.value }); message.value = ""; })();
  } }, message, make("button", { class: "main" }, "Take a snapshot"));
  const head = make("div", { class: "row apart" }, make("h3", {}, "Snapshots"), form);
  const place = make("section", {}, head, list);
  const actions = (one, ship) => [
    button("Restore", act(() => confirm("Go back to this snapshot? What was changed since is gone.") ? call("POST", `ship/${id}/snapshots/${one.id}/restore`) : null)),
    button("Fork", act(async () => {
      const made = await call("POST", `ship/${id}/fork`, { ttl: ship.ttl, snapshot: one.id }, session());
      location.hash = `#/${made.id}`;
    })),
  ];
  let before = null;
  return { place, refresh: async (ship) => {
    const all = ship.status === 1 ? (await get(`ship/${id}/snapshots`)).snapshots : null;
    const now = JSON.stringify(all);
    if (now === before) return;
    before = now;
    head.hidden = all === null;
    if (all === null) return list.replaceChildren(notRunning("see its snapshots"));
    const rows = all.map((one) => [make("code", {}, one.id), one.message || "–", time(one.created_at), size(one.size), actions(one, ship)]);
    list.replaceChildren(all.length ? table(["Snapshot", "Message", "Taken", "Size", ""], rows) : empty("No snapshots", "A snapshot keeps what the ship is now. It takes a few milliseconds."));
  } };
}

function changes(id) {
  const place = make("section", {});
  const draw = async () => {
    place.replaceChildren(make("p", { class: "faint" }, "Comparing…"));
    const answer = await get(`ship/${id}/diff`);
    const rows = answer.changes.map((one) => make("tr", {}, make("td", { class: `change-${one.status}` }, one.status),
      make("td", {}, make("code", {}, one.old_path ? `${one.old_path} → ${one.path}` : one.path)), make("td", { class: "faint" }, size((one.new ?? one.old)?.size))));
    const since = answer.from === "@image" ? "Since the image" : `Since snapshot ${answer.from}`;
    const again = button("Look again", act(draw));
    const more = answer.total > rows.length ? make("p", { class: "faint" }, `The first ${rows.length} of ${answer.total} changes.`) : null;
    place.replaceChildren(make("div", { class: "row apart" }, make("h3", {}, since), again),
      rows.length ? make("table", {}, make("tbody", {}, rows)) : empty("No changes", "Nothing was changed."), ...(more ? [more] : []));
  };
  let drawn = false;
  return { place, refresh: async (ship) => {
    if (ship.status !== 1) {
      drawn = false;
      return place.replaceChildren(notRunning("see what changed"));
    }
    if (drawn) return;
    drawn = true;
    await draw();
  } };
}

const VIEWS = { overview, terminal, log, snapshots, changes };

// Shows a ship; what is returned says how it is kept up to date, and what is to be done when it goes.
export function showShip(main, id, first) {
  const path = encodeURIComponent(id);
  const title = make("h2", { class: "mono" }, id);
  const tabs = make("nav", { class: "tabs", "aria-label": "About the ship" });
  const place = make("div", {});
  main.replaceChildren(make("p", {}, make("a", { href: "#/" }, "← All ships")), make("div", { class: "row apart" }, title), tabs, place);
  let view = null;
  const select = (name) => {
    view?.close?.();
    const chosen = VIEWS[name] ? name : "overview";
    tabs.replaceChildren(...Object.entries(TABS).map(([key, label]) =>
      make("a", { href: `#/${path}/${key}`, "aria-current": key === chosen ? "page" : null }, label)));
    view = VIEWS[chosen](path);
    place.replaceChildren(view.place);
  };
  select(first);
  const refresh = async () => {
    // One that was stopped by a request is not told by itself any more, but listed: it can be started or removed.
    const ship = (await get("ships")).find((one) => one.id === id);
    if (ship) return view.refresh(ship);
    view.close?.();
    place.replaceChildren(empty("There is no such ship", "It was removed, or its time was over long ago."));
    tabs.replaceChildren();
  };
  return { key: `ship ${id}`, refresh, select, close: () => view?.close?.() };
}
