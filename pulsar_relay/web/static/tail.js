import { byId, clock, count, made, say } from "./elements.js";
import { memberText } from "./json_text.js";
import { Subscription } from "./subscription.js";

/** So much is on the page, and no more. */
const MOST_ROWS = 300;
const MOST_CHARACTERS = 10_000;
/** To put rows in their places costs more than all else. */
const BETWEEN_MS = 100;
/** Who is so near the end, in pixels, wants to see what comes. */
const NEAR = 40;

const REASONS = {
  trimmed: "they are no longer kept",
  deleted: "they were deleted",
  unknown: "the relay cannot say why",
  ahead_of_stream: "the store has lost the topic's newest messages, or is another one",
  epoch_changed: "the topic was made anew, or the store has lost messages",
  unknown_cursor: "the topic never gave out the id of the last message read",
};

/** The chosen topic as it grows. */
export class Tail {
  #caller;
  #log = byId("tail-log");
  #state = byId("tail-state");
  #start = byId("tail-start");
  #pause = byId("tail-pause");
  #clear = byId("tail-clear");
  #topic = null;
  #subscription = null;
  #isPaused = false;
  #received = 0;
  #waiting = [];
  #isDue = false;
  #isFollowing = true;
  #shownAt = 0;
  #cut = made("p", { className: "dim", textContent: "What came before is no longer on this page." });

  constructor(caller) {
    this.#caller = caller;
    this.#start.addEventListener("change", () => this.#topic && this.follow(this.#topic));
    this.#pause.addEventListener("click", () => (this.#isPaused ? this.#goOn() : this.#rest()));
    this.#clear.addEventListener("click", () => this.#empty());
    const log = this.#log;
    log.addEventListener("scroll", () => {
      this.#isFollowing = log.scrollHeight - log.scrollTop - log.clientHeight < NEAR;
    });
    new ResizeObserver(() => this.#keepUp()).observe(log);
  }

  follow(topic) {
    this.#subscription?.stop();
    this.#topic = topic;
    this.#empty();
    say(byId("tail-topic"), topic);
    this.#log.hidden = this.#pause.disabled = this.#clear.disabled = false;
    this.#subscription = new Subscription(this.#caller, topic, this.#start.value, this);
    this.#goOn();
  }

  /** Nothing is read meanwhile: going on begins at the cursor, and misses nothing that is still kept. */
  #rest() {
    this.#subscription.stop();
    this.#isPaused = true;
    this.#pause.textContent = "Go on";
    this.#show("paused", "Paused. Going on begins after the last message here.");
  }

  #goOn() {
    this.#isPaused = false;
    this.#pause.textContent = "Pause";
    this.#subscription.start();
  }

  #empty() {
    this.#waiting = [];
    this.#received = 0;
    this.#isFollowing = true;
    this.#log.replaceChildren();
    say(byId("tail-count"), "");
  }

  #keepUp() {
    if (this.#isFollowing) this.#log.scrollTop = this.#log.scrollHeight;
  }

  #show(state, text) {
    this.#state.dataset.state = state;
    say(this.#state, text);
  }

  onState(state, error) {
    const texts = {
      connecting: () => "Connecting …",
      live: () => "Live.",
      // Without the seconds to the next try: who has this read out is told once, and not each time.
      lost: () => `${error.message} Trying again; reading goes on where it stopped.`,
      refused: () => error.words,
    };
    this.#show(state, texts[state]());
  }

  onMessage(frame, text) {
    this.#received++;
    this.#put({ frame: { ...frame, payload: null }, payload: excerpt(memberText(text, "payload")) });
  }

  onNotice(notice) {
    this.#put({ notice });
  }

  /** Shown with the next picture, in a flood with some later one; only what would stay is kept until then. */
  #put(item) {
    this.#waiting.push(item);
    // One more than is shown: by that it is seen that some are not.
    if (this.#waiting.length > 2 * MOST_ROWS) this.#waiting.splice(0, MOST_ROWS);
    if (!this.#isDue) {
      this.#isDue = true;
      const waitMs = Math.max(0, this.#shownAt + BETWEEN_MS - performance.now());
      setTimeout(() => requestAnimationFrame(() => this.#flush()), waitMs);
    }
  }

  #flush() {
    this.#isDue = false;
    const log = this.#log;
    log.append(...this.#waiting.splice(0).map(row));
    const rows = Array.from(log.querySelectorAll(":scope > div"));
    const surplus = rows.slice(0, -MOST_ROWS);
    for (const old of surplus) old.remove();
    if (surplus.length && !this.#cut.isConnected) log.prepend(this.#cut);
    this.#keepUp();
    say(byId("tail-count"), this.#received ? `${count(this.#received)} received` : "");
    this.#shownAt = performance.now();
  }
}

/** The payload as it was published, {shown, rest}: a long one is cut. */
function excerpt(text) {
  if (text.length <= MOST_CHARACTERS) return { shown: text, rest: 0 };
  // A copy: what is only cut would keep the whole text in memory.
  const shown = new TextDecoder().decode(new TextEncoder().encode(text.slice(0, MOST_CHARACTERS)));
  return { shown, rest: text.length - MOST_CHARACTERS };
}

function row(item) {
  return item.notice ? noticeRow(item.notice) : messageRow(item);
}

function messageRow({ frame, payload }) {
  const shown = made(
    "div",
    { className: "message" },
    made(
      "p",
      { className: "dim" },
      made("time", { dateTime: frame.timestamp, textContent: clock(new Date(frame.timestamp)) }),
      " ",
      made("span", { className: "id", textContent: frame.message_id }),
    ),
    made("pre", { textContent: payload.shown }),
  );
  if (payload.rest) {
    shown.append(made("p", { className: "dim", textContent: `… and ${count(payload.rest)} more characters.` }));
  }
  if (frame.metadata) {
    const metadata = excerpt(JSON.stringify(frame.metadata)).shown;
    shown.append(made("p", { className: "dim metadata", textContent: `metadata ${metadata}` }));
  }
  return shown;
}

function noticeRow({ type, reason, lost, first_available: first }) {
  const why = REASONS[reason] ?? reason;
  const missing = lost === 1 ? "1 message is" : `${lost === null ? "messages are" : `${count(lost)} messages are`}`;
  const what = type === "gap" ? `Gap: here ${missing} missing; ${why}.` : `Reset: reading begins anew here; ${why}.`;
  const where = first ? ` The next one there is: ${first}.` : "";
  return made("div", { className: "notice", textContent: what + where });
}
