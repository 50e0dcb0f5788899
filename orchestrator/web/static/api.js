// Calls to the master. The browser keeps the login's cookie; changes carry its CSRF token, which lives in this page alone.

import { learnClock } from "./format.js";

const LINK = /^#link=(.+)$/;
let csrf = null;
let refused = () => {};

export class ApiError extends Error {
  constructor(status, message, fields = []) {
    super(message);
    this.status = status;
    this.fields = fields;
  }
}

/** `work()` is called when the master does not know the login any more. */
export function onRefused(work) {
  refused = work;
}

/** Whether the address holds a link that signs in once. */
export const hasLink = () => LINK.test(location.hash);

/** Sign in by the link in the address, which is taken out of it at once, else by the cookie that is there. */
export async function resume() {
  const [, link] = LINK.exec(location.hash) ?? [];
  const byCookie = async () => keep(await get("/session"));
  if (!link) return byCookie();
  history.replaceState(null, "", location.pathname);
  try {
    return keep(await send("POST", "/session", { link }));
  } catch (error) {
    return byCookie().catch(() => Promise.reject(error)); // a link that was used by this browser still leads in
  }
}

export const signIn = async (name, password, newPassword) =>
  keep(await send("POST", "/session", { name, password, new_password: newPassword || null }));

export async function signOut() {
  await send("DELETE", "/session").catch(() => {}); // a login that is over is signed out
  csrf = null;
}

function keep(session) {
  csrf = session.csrf;
  return session;
}

async function send(method, path, body = null) {
  const content = body && { body: JSON.stringify(body), headers: { "Content-Type": "application/json" } };
  return (await call(path, { method, ...content })).json();
}

/** The raw answer. Raises ApiError with the master's own words. */
export async function call(path, options = {}) {
  const asked = Date.now();
  let answer;
  try {
    answer = await fetch(`/api/v1${path}`, {
      ...options,
      cache: "no-store",
      headers: { ...options.headers, ...(csrf && options.method ? { "X-CSRF-Token": csrf } : {}) },
    });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ApiError(0, "the master does not answer");
  }
  learnClock(answer.headers.get("Date"), asked);
  if (answer.ok) return answer;
  const problem = await answer.json().catch(() => ({}));
  if (answer.status === 401) refused();
  throw new ApiError(answer.status, problem.detail ?? `the master answered ${answer.status}`, problem.errors);
}

export const get = async (path, options) => (await call(path, options)).json();
export async function post(path, body = null) {
  if (csrf === null) keep(await get("/session")); // the master was away when the page began
  return send("POST", path, body);
}
