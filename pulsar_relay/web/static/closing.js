import { lost, RelayError } from "./relay.js";

/**
 * Why the relay closes a connection, by the word it gives: what to tell, and whether to come back. What is wrong with a
 * token is asked about before that.
 */
const CLOSINGS = {
  going_away: ["The relay is stopping.", true],
  internal_error: ["Something went wrong inside the relay.", true],
  overloaded: ["The relay has more to do than it can hold.", true],
  too_many_connections: ["The relay has as many connections as it can hold.", true],
  subscriber_failed: ["The subscription failed inside the relay.", true],
  slow_subscriber: ["This page read too slowly, and the relay closed the connection.", true],
  ping_timeout: ["This page did not answer in time, and the relay closed the connection.", true],
  accounts_unconfirmed: ["The relay cannot tell at the moment who may do what.", true],
  token_expired: ["The connection was closed: what was signed in with had expired.", true],
  token_revoked: ["The connection was closed: what was signed in with was revoked.", true],
  user_unknown: ["The connection was closed: this account was deleted.", false],
  user_inactive: ["The connection was closed: this account was closed by an admin.", false],
  permission_required: ["The connection was closed: this account may not read any more.", false],
  grant_revoked: ["The connection was closed: its owner has taken back what was granted.", false],
  too_many_user_connections: ["This account has as many connections open as it may. Close one, then go on.", false],
  taken_over: ["Another connection reads under the same name.", false],
};

/** The words for an error's code, where there are some that say more. */
export function wordsOf(code) {
  return CLOSINGS[code]?.[0];
}

/** What became of a connection that was closed, as a RelayError. */
export function closed({ code, reason }, wasOpen) {
  if (!wasOpen) return lost("No WebSocket could be opened.");
  if (code === 1006) return lost("The connection broke.");
  // A relay that stops says when to come back.
  const waitMs = Number(/; retry_ms=(\d+)$/.exec(reason)?.[1] ?? 0);
  const word = reason.split(";", 1)[0] || String(code);
  const [words, isRetryable] = CLOSINGS[word] ?? ["The relay closed the connection.", true];
  return new RelayError(word, words, { isRetryable, waitMs });
}
