import { Backoff, sleep } from "./backoff.js";
import { closed } from "./closing.js";
import { lost, namesOfTopics, refusal, RelayError, WEBSOCKET_ADDRESS } from "./relay.js";

/** A connection that is silent for so long is asked; one that stays silent is dead. */
const PING_MS = 20_000;
const FIRST_WAIT_MS = 300;
const MOST_WAIT_MS = 10_000;
const RECENT = 10;
/** From here on close codes are the relay's, and may be about who is connected. */
const FIRST_OF_OURS = 4000;

/**
 * One topic over the relay's WebSocket, each message once and in order, across broken connections, pauses, and tokens
 * that expire meanwhile: `caller` has another one by then.
 *
 * `start` is `recent`, `latest`, `earliest` or a message's id. The listener is told of `onMessage(frame, text)`,
 * `onNotice(frame)`, and `onState(state, error)`: `connecting`, `live`, `lost` while it is tried again, or `refused` for
 * what trying again does not cure.
 */
export class Subscription {
  #caller;
  #topic;
  #cursor;
  #epoch = "";
  #listener;
  #backoff = new Backoff(FIRST_WAIT_MS, MOST_WAIT_MS);
  #running = null;

  constructor(caller, topic, start, listener) {
    this.#caller = caller;
    this.#topic = topic;
    this.#cursor = start;
    this.#listener = listener;
  }

  /** Go on after the last message that was told of. */
  start() {
    if (!this.#running) {
      this.#running = new AbortController();
      this.#keepReading(this.#running.signal);
    }
  }

  /** Nothing is told of any more. */
  stop() {
    this.#running?.abort();
    this.#running = null;
  }

  async #keepReading(signal) {
    this.#listener.onState("connecting");
    while (!signal.aborted) {
      try {
        if (this.#cursor === "recent") {
          const place = await placeBefore(this.#caller, this.#topic, RECENT);
          if (signal.aborted) return;
          this.#cursor = place;
        }
        const token = await this.#caller.token();
        if (signal.aborted) return;
        await this.#read(signal, token);
      } catch (error) {
        if (signal.aborted) return;
        if (!(error instanceof RelayError)) throw error;
        if (!error.isRetryable) {
          this.#listener.onState("refused", error);
          return;
        }
        this.#listener.onState("lost", error);
        await sleep(this.#backoff.next(error.waitMs));
      }
    }
  }

  /** Read until the connection ends, in whatever way: by a RelayError. */
  #read(signal, token) {
    return new Promise((_, reject) => {
      // As a subprotocol: addresses are in the logs of proxies.
      const socket = new WebSocket(WEBSOCKET_ADDRESS, token === null ? [] : ["bearer", `bearer.${token}`]);
      let isHeard = true;
      let wasOpen = false;
      let shown = token;

      const end = (error) => {
        clearInterval(watch);
        signal.removeEventListener("abort", leave);
        socket.onopen = socket.onmessage = socket.onclose = null;
        socket.close();
        reject(error);
      };
      const leave = () => end(lost("Left."));
      const watch = setInterval(() => {
        if (!isHeard) return end(lost("The relay has fallen silent."));
        isHeard = false;
        if (wasOpen) socket.send('{"type": "ping"}');
      }, PING_MS);

      const renew = async () => {
        try {
          shown = await this.#caller.next(shown);
          if (socket.readyState === WebSocket.OPEN) socket.send(JSON.stringify({ type: "authenticate", token: shown }));
        } catch (error) {
          // The relay closes what has expired; the next connection tries to get another token.
          if (!(error instanceof RelayError)) throw error;
        }
      };
      const explained = async (event) => {
        const error = closed(event, wasOpen);
        try {
          // A browser tells nobody why a WebSocket could not be opened.
          if (!wasOpen || event.code >= FIRST_OF_OURS) await this.#caller.check(shown, wasOpen ? error : null);
          return error;
        } catch (reason) {
          return reason instanceof RelayError && !reason.isRetryable ? reason : error;
        }
      };

      signal.addEventListener("abort", leave);
      socket.onopen = () => {
        wasOpen = true;
        socket.send(this.#subscribeFrame());
      };
      socket.onmessage = ({ data }) => {
        isHeard = true;
        try {
          if (this.#take(data) === "token_expiring") renew();
        } catch (error) {
          end(error);
        }
      };
      socket.onclose = async (event) => end(await explained(event));
    });
  }

  #subscribeFrame() {
    const topic = this.#topic;
    const epochs = this.#epoch ? { [topic]: this.#epoch } : {};
    return JSON.stringify({ type: "subscribe", topics: [topic], offset: { [topic]: this.#cursor }, epochs });
  }

  /** The frame's type. */
  #take(text) {
    const frame = JSON.parse(text);
    switch (frame.type) {
      case "subscribed":
        this.#cursor = frame.cursors[this.#topic];
        this.#epoch = frame.epochs[this.#topic];
        this.#backoff.reset();
        this.#listener.onState("live");
        break;
      case "message":
        // What an earlier connection sent, and this one sends again, is told once.
        if (isLater(frame.message_id, this.#cursor)) {
          this.#cursor = frame.message_id;
          this.#listener.onMessage(frame, text);
        }
        break;
      case "reset":
        // The old cursor is no part of this history: what comes may well have lower ids.
        this.#cursor = "earliest";
        this.#epoch = "";
        this.#listener.onNotice(frame);
        break;
      case "gap":
        this.#listener.onNotice(frame);
        break;
      case "error":
        throw refusal(frame);
    }
    return frame.type;
  }
}

/** The cursor from which the last `number` messages follow. */
async function placeBefore(caller, topic, number) {
  // Asked first: a browser complains of every 404.
  const { names } = await namesOfTopics(caller, topic, 1);
  if (names[0] !== topic) return "earliest";
  try {
    const address = `api/v1/topics/${topic}/messages?order=desc&limit=${number + 1}`;
    const { answer } = await caller.ask(address, { seconds: 30 });
    return answer.messages[number]?.message_id ?? "earliest";
  } catch (error) {
    if (error.code === "topic_not_found") return "earliest";
    throw error;
  }
}

/** Ids are two numbers, of any size. */
function isLater(id, cursor) {
  const [ours, theirs] = [id.split("-"), cursor.split("-")];
  if (theirs.length !== 2) return true;
  return (compared(ours[0], theirs[0]) || compared(ours[1], theirs[1])) > 0;
}

function compared(digits, others) {
  return digits.length - others.length || (digits > others) - (digits < others);
}
