// Requests to the service that this page came from.

const KEY = "vesselrt-token";
const SESSION = "vesselrt-session";

export class Refused extends Error {
  constructor(status, detail) {
    super(detail);
    this.status = status;
  }
}

// The token lives as long as the tab; the name of the session that this browser uses, longer.
export const token = {
  get: () => sessionStorage.getItem(KEY),
  set: (value) => sessionStorage.setItem(KEY, value),
  forget: () => sessionStorage.removeItem(KEY),
};

export function session() {
  let name = localStorage.getItem(SESSION);
  if (!name) {
    name = "page-" + Array.from(crypto.getRandomValues(new Uint8Array(8)), (byte) => byte.toString(16).padStart(2, "0")).join("");
    localStorage.setItem(SESSION, name);
  }
  return name;
}

function detail(body, status) {
  if (typeof body?.detail === "string") return body.detail;
  if (Array.isArray(body?.detail)) return body.detail.map((part) => `${(part.loc || []).slice(1).join(".")}: ${part.msg}`).join("; ");
  return `the service answered ${status}`;
}

export async function call(method, path, body, as = null) {
  const headers = { Authorization: `Bearer ${token.get() || ""}` };
  if (as) headers["X-SESSION-ID"] = as;
  if (body !== undefined) headers["Content-Type"] = "application/json";
  let response;
  try {
    response = await fetch(path, { method, headers, body: body === undefined ? undefined : JSON.stringify(body) });
  } catch {
    throw new Refused(0, "The service does not answer. Is it still running?");
  }
  const text = await response.text();
  let parsed = null;
  try {
    parsed = text ? JSON.parse(text) : null;
  } catch {
    throw new Refused(response.status, `the service answered ${response.status}, and not with JSON`);
  }
  if (!response.ok) throw new Refused(response.status, detail(parsed, response.status));
  return parsed;
}

export const get = (path) => call("GET", path);

export function terminalAddress(ship, as, cols, rows) {
  const address = new URL(`ship/${encodeURIComponent(ship)}/term`, location.href);
  address.protocol = address.protocol === "https:" ? "wss:" : "ws:";
  address.hash = "";
  address.search = new URLSearchParams({ token: token.get() || "", session_id: as, cols, rows }).toString();
  return address;
}
