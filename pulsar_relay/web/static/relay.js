// The relay this page came from: its address, and requests to it. Every request the page makes goes through here; who
// asks is said by `session.js`, which has an `ask` of its own.

/** Where the page is, without what was chosen on it; ends with a slash. */
export const ADDRESS = new URL("./", location.href.split(/[?#]/, 1)[0]).href;

export const WEBSOCKET_ADDRESS = ADDRESS.replace(/^http/, "ws") + "ws";

/** Whether people have accounts on it. */
export const HAS_ACCOUNTS = document.querySelector("meta[name=accounts]").content === "on";

const NAME = /^(?=.*[A-Za-z0-9])[A-Za-z0-9_-]{1,255}$/;

export const NAME_RULE = "A topic's name is 1 to 255 of A-Z a-z 0-9 _ -, at least one of them a letter or a digit.";

export function isTopicName(text) {
  return NAME.test(text);
}

/**
 * Something was not done, or nobody knows whether it was. `code` is null where nobody said one. `waitMs`: the relay asks
 * not to come again before.
 */
export class RelayError extends Error {
  constructor(code, message, { isRetryable = false, isOutcomeUnknown = false, waitMs = 0 } = {}) {
    super(message);
    Object.assign(this, { code, isRetryable, isOutcomeUnknown, waitMs });
  }

  get words() {
    return this.code === null ? this.message : `${this.message} (${this.code})`;
  }
}

export function lost(message) {
  return new RelayError(null, message, { isRetryable: true, isOutcomeUnknown: true });
}

/** The error as the relay says it: an answer's, or a frame's. */
export function refusal({ error, code = error, message = "", detail, details = detail, retry }, waitMs = 0) {
  // As a text it is the message again, or what an older relay said for it.
  const wrong = Array.isArray(details)
    ? details.map(({ loc = [], msg }) => ` ${loc.slice(1).join(".")} ${msg}.`).join("")
    : "";
  return new RelayError(code, message + wrong, { isRetryable: retry === true, waitMs });
}

/**
 * What the relay answers: {answer, headers}. `also` are statuses that are answers too, besides those below 300.
 * Throws RelayError.
 */
export async function ask(path, { also = [], seconds = 10, ...options } = {}) {
  let response, text;
  try {
    const signal = AbortSignal.timeout(seconds * 1000);
    response = await fetch(ADDRESS + path, { ...options, cache: "no-store", signal });
    text = await response.text();
  } catch {
    throw lost("No answer came from the relay.");
  }
  const answer = response.status === 204 ? null : asJson(text);
  if (answer !== undefined && (response.ok || also.includes(response.status)) && answer?.error === undefined) {
    return { answer, headers: response.headers };
  }
  if (typeof answer?.error === "string") {
    throw refusal(answer, 1000 * (Number(response.headers.get("Retry-After")) || 0));
  }
  // A proxy that gave up waiting does not know what became of the request.
  const isRetryable = response.status >= 502 && response.status <= 504;
  const words = "What answered is not the relay, but something between.";
  throw new RelayError(`status ${response.status}`, words, { isRetryable, isOutcomeUnknown: isRetryable });
}

/** The first names of topics that begin so, {names, hasMore}. `after` is one of them, to go on from. */
export async function namesOfTopics(caller, start, limit, after = before(start)) {
  const { answer, headers } = await caller.ask(`api/v1/topics?${new URLSearchParams({ limit, after })}`);
  const names = answer.map((entry) => entry.topic_name).filter((name) => name.startsWith(start));
  return { names, hasMore: names.length === answer.length && headers.has("Link") };
}

/** What comes before all names that begin so, with no name between: none has a tilde. */
function before(start) {
  const last = start.length - 1;
  return start && start.slice(0, last) + String.fromCharCode(start.charCodeAt(last) - 1) + "~";
}

function asJson(text) {
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
}
