import { byId, clock, say } from "./elements.js";
import { sleep } from "./backoff.js";
import { ask } from "./relay.js";

const EVERY_MS = 2000;

/** Whether the relay is ready, and if not, why: the words are the relay's. */
export class Readiness {
  #line = byId("readiness");
  #onChange;
  #silentSince = null;

  /** `onChange` is told whether it is, each time that is news. */
  constructor(onChange) {
    this.#onChange = onChange;
  }

  async watch() {
    for (;;) {
      if (!document.hidden) await this.#look();
      await sleep(EVERY_MS);
    }
  }

  async #look() {
    try {
      const { answer } = await ask("ready", { also: [503], seconds: 5 });
      if (this.#silentSince !== null || !byId("version").textContent) await this.#askVersion();
      this.#silentSince = null;
      const failed = Object.entries(answer.checks).filter(([, check]) => !check.ok);
      if (answer.ready) {
        this.#show("ready", `Ready. Durability: ${answer.durability}.`);
      } else {
        this.#show("unready", `Not ready. ${reasons(failed)}`);
      }
    } catch (error) {
      this.#silentSince ??= new Date();
      this.#show("unready", `Not reached since ${clock(this.#silentSince)}. ${error.words}`);
    }
  }

  async #askVersion() {
    const { answer } = await ask("health", { seconds: 5 });
    say(byId("version"), answer.version);
  }

  #show(state, text) {
    say(this.#line, text);
    if (this.#line.dataset.state !== state) {
      this.#line.dataset.state = state;
      this.#onChange(state === "ready");
    }
  }
}

/** Each reason once, with all that fails for it. */
function reasons(failed) {
  const names = new Map();
  for (const [name, { code, message }] of failed) {
    const reason = `${message} (${code}`;
    names.set(reason, [...(names.get(reason) ?? []), name]);
  }
  return [...names].map(([reason, checks]) => `${reason}: ${checks.join(", ")})`).join(" ");
}
