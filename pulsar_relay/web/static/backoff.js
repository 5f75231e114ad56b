/**
 * How long to wait before trying again: double from try to try, each shortened by chance, so that pages that were cut
 * off together do not come back together.
 */
export class Backoff {
  #first;
  #most;
  #next;

  constructor(firstMs, mostMs) {
    this.#first = this.#next = firstMs;
    this.#most = mostMs;
  }

  /** Milliseconds to wait now. What the relay asked for is waited in any case. */
  next(atLeastMs = 0) {
    const wait = this.#next * (0.5 + Math.random() / 2);
    this.#next = Math.min(2 * this.#next, this.#most);
    return Math.max(wait, atLeastMs);
  }

  /** It worked: the next wait is a first one again. */
  reset() {
    this.#next = this.#first;
  }
}

export function sleep(ms) {
  return new Promise((resolve) => setTimeout(resolve, ms));
}
