// Talking to the server that this page came from: the API key, if one is asked for, and errors in the server's own words.

const KEY = "galley-api-key";
/** How long figures may be on their way. Answers take as long as the server lets them. */
const FIGURES_TIMEOUT = 5000;

/** A request that was not answered as wished; the message is for the reader. `status` is 0 where there was no answer. */
export class ApiError extends Error {
  constructor(message, status, body = null) {
    super(message);
    this.status = status;
    this.body = body;
  }
}

/** The key of this tab's session. Where storage is forbidden it lasts as long as the page. */
let key = read();

function read() {
  try {
    return sessionStorage.getItem(KEY);
  } catch {
    return null;
  }
}

export const hasKey = () => key !== null;

export function useKey(value) {
  key = value;
  try {
    sessionStorage.setItem(KEY, value);
  } catch {
    // See above.
  }
}

/** An address on this server, absolute: behind a path prefix, too. */
export const address = (path) => new URL(path, document.baseURI).href;

export const inferPath = (recipe) => `recipes/${encodeURIComponent(recipe)}/infer`;

/** Every served recipe with what can be tried on it. */
export async function recipes() {
  return (await json(await send("recipes"))).recipes;
}

/** One input to a recipe: `{ answer, seconds }`, the whole answer and how long it took to come. */
export async function infer(recipe, body, signal) {
  const start = performance.now();
  const response = await send(inferPath(recipe), { method: "POST", body, signal });
  const answer = await json(response);
  return { answer, seconds: (performance.now() - start) / 1000 };
}

/** The Prometheus text. */
export async function metrics() {
  const response = await send("metrics", { signal: AbortSignal.timeout(FIGURES_TIMEOUT) });
  return response.ok ? reached(response.text()) : json(response);
}

/** The server's state in its own words, `ready` or why it is not. */
export async function readiness() {
  const response = await send("readyz", { signal: AbortSignal.timeout(FIGURES_TIMEOUT) });
  const body = await response.json().catch(() => ({}));
  return { ready: response.ok, status: body.status ?? (response.ok ? "ready" : "not ready") };
}

async function send(path, options = {}) {
  const headers = key === null ? {} : { Authorization: `Bearer ${key}` };
  return reached(fetch(address(path), { ...options, headers, cache: "no-store" }));
}

/** What came over the network, or an `ApiError` where it broke off, took too long or did not begin. */
async function reached(promise) {
  try {
    return await promise;
  } catch {
    throw new ApiError("The server cannot be reached.", 0);
  }
}

/** The body of a success; anything else becomes an error. */
async function json(response) {
  const text = await reached(response.text());
  let body = null;
  try {
    body = JSON.parse(text);
  } catch {
    // Not from Galley, perhaps from a proxy before it.
  }
  if (response.ok && body !== null) {
    return body;
  }
  const reason = body?.reason ?? body?.error ?? body?.status ?? response.statusText;
  const wait = response.headers.get("Retry-After");
  const again = wait ? ` Try again in ${wait} s.` : "";
  throw new ApiError(`${response.status}: ${reason || "no reason given"}.${again}`, response.status, body);
}
