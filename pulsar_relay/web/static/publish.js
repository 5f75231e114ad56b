import { Backoff, sleep } from "./backoff.js";
import { byId, made, topicLink } from "./elements.js";
import { isTopicName, NAME_RULE } from "./relay.js";

const MOST_TRIES = 5;
const FIRST_WAIT_MS = 500;
const MOST_WAIT_MS = 8000;

/** The form. What is sent is the payload's text as it stands there, not what a parser makes of it. */
export class PublishForm {
  #caller;
  #form = byId("publish-form");
  #topic = byId("publish-topic");
  #payload = byId("publish-payload");
  #result = byId("publish-result");
  #onPublished;
  #isSending = false;
  /** What was sent and not answered for good: sent again it has the same key, and is stored once. */
  #open = null;

  /** `onPublished` is told the topic. */
  constructor(caller, onPublished) {
    this.#caller = caller;
    this.#onPublished = onPublished;
    this.#form.addEventListener("submit", (event) => {
      event.preventDefault();
      this.#submit();
    });
    this.#payload.addEventListener("keydown", (event) => {
      if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) this.#form.requestSubmit();
    });
    for (const field of [this.#topic, this.#payload]) {
      field.addEventListener("input", () => field.removeAttribute("aria-invalid"));
    }
  }

  get topic() {
    return this.#topic.value.trim();
  }

  set topic(name) {
    this.#topic.value = name;
    this.#topic.removeAttribute("aria-invalid");
  }

  /** Valid JSON, or null. */
  get payload() {
    return problem(this.#payload.value) === null ? this.#payload.value : null;
  }

  onInput(listener) {
    this.#form.addEventListener("input", listener);
  }

  async #submit() {
    if (this.#isSending) return;
    const topic = this.topic;
    if (!isTopicName(topic)) return this.#refuse(this.#topic, `Nothing was sent. ${NAME_RULE}`);
    const wrong = problem(this.#payload.value);
    if (wrong !== null) return this.#refuse(this.#payload, `Nothing was sent: the payload is not JSON. ${wrong}`);
    const body = `{"topic": ${JSON.stringify(topic)}, "payload": ${this.#payload.value}}`;
    if (this.#open?.body !== body) this.#open = { body, key: newKey() };
    this.#send(true);
    try {
      await this.#publish(topic);
    } finally {
      this.#send(false);
    }
  }

  async #publish(topic) {
    const { body, key } = this.#open;
    const headers = { "Content-Type": "application/json", "Idempotency-Key": key };
    const backoff = new Backoff(FIRST_WAIT_MS, MOST_WAIT_MS);
    let mayBeStored = false;
    this.#tell("", "Publishing …");
    for (let tries = 1; ; tries++) {
      try {
        const { answer } = await this.#caller.ask("api/v1/messages", { method: "POST", headers, body, seconds: 30 });
        this.#open = null;
        this.#tell("done", "Stored in ", topicLink(answer.topic), ` as ${answer.message_id}.`);
        this.#onPublished(answer.topic);
        return;
      } catch (error) {
        mayBeStored ||= error.isOutcomeUnknown;
        if (!error.isRetryable) {
          this.#open = null;
          return this.#tell("failed", error.words);
        }
        if (tries === MOST_TRIES) {
          const outcome = mayBeStored ? "It may be stored, or not." : "It is not stored.";
          const advice = "Publish it again, unchanged, within ten minutes: it is stored once at most.";
          return this.#tell("failed", `${error.words} ${outcome} ${advice}`);
        }
        this.#tell("failed", `${error.words} Trying again, with the same key …`);
        await sleep(backoff.next(error.waitMs));
      }
    }
  }

  #send(isSending) {
    this.#isSending = isSending;
    // Not `disabled`, which would take the focus away.
    byId("publish-send").setAttribute("aria-disabled", isSending);
  }

  #refuse(field, text) {
    field.setAttribute("aria-invalid", "true");
    field.focus();
    this.#tell("failed", text);
  }

  #tell(state, ...words) {
    this.#result.dataset.state = state;
    this.#result.replaceChildren(made("span", {}, ...words));
  }
}

/** What is wrong with a JSON text, in the browser's words; null if nothing is. */
function problem(text) {
  try {
    JSON.parse(text);
    return null;
  } catch (error) {
    return `${error.message}.`;
  }
}

/** Not `randomUUID`, which a page has only over https. */
function newKey() {
  return Array.from(crypto.getRandomValues(new Uint8Array(16)), (byte) => byte.toString(16).padStart(2, "0")).join("");
}
