// Calls to the master. The token lives in this tab alone.

import { learnClock } from "./format.js";

const KEY = "orchestrator-token";
let token = null;
let refused = () => {};

export class ApiError extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

/** Take the token out of the address (`/#token=…`) at once, else out of this tab's memory. */
export function takeToken() {
  const found = /^#token=(.+)$/.exec(location.hash);
  if (found) {
    history.replaceState(null, "", location.pathname);
    keepToken(safeDecode(found[1]));
  }
  token = sessionStorage.getItem(KEY);
  return token !== null;
}

function safeDecode(text) {
  try {
    return decodeURIComponent(text);
  } catch {
    return text;
  }
}

export function keepToken(text) {
  token = text.trim();
  sessionStorage.setItem(KEY, token);
}

export function forgetToken() {
  token = null;
  sessionStorage.removeItem(KEY);
}

/** `work()` is called when the master no longer knows the token. */
export function onRefused(work) {
  refused = work;
}

/** The raw answer. Raises ApiError with the master's own words. */
export async function call(path, options = {}) {
  if (token !== null && !/^[\x21-\x7e]+$/.test(token)) {
    refused();
    throw new ApiError(401, "an API token has no spaces or special letters; copy the whole line");
  }
  const asked = Date.now();
  let answer;
  try {
    answer = await fetch(`/api/v1${path}`, {
      ...options,
      cache: "no-store",
      headers: { Authorization: `Bearer ${token}`, ...options.headers },
    });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ApiError(0, "the master does not answer");
  }
  learnClock(answer.headers.get("Date"), asked);
  if (answer.ok) return answer;
  const problem = await answer.json().catch(() => ({}));
  if (answer.status === 401) refused();
  throw new ApiError(answer.status, problem.detail ?? `the master answered ${answer.status}`);
}

export const get = async (path, options) => (await call(path, options)).json();
export const post = async (path, body = null) => {
  const content = body && { body: JSON.stringify(body), headers: { "content-type": "application/json" } };
  return (await call(path, { method: "POST", ...content })).json();
};
