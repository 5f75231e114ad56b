import { byId, made, say } from "./elements.js";
import { ADDRESS, HAS_ACCOUNTS } from "./relay.js";

/** A longer payload is not for a command line. */
const MOST_CHARACTERS = 2000;
const EXAMPLE = '{"message": "Hello, Persistent World!"}';

/** A token on a command line can be seen by everybody on the machine: the line names a variable. */
const WHO = HAS_ACCOUNTS ? '-H "Authorization: Bearer $RELAY_TOKEN" ' : "";

const TITLES = { publish: "Publish", poll: "Read, and wait for the next (long-poll)", stream: "Read as it comes" };

/** Lines for a shell that do what the page does. */
export class CurlLines {
  #codes = {};

  constructor() {
    for (const [name, title] of Object.entries(TITLES)) {
      const code = made("code", { id: `curl-${name}` });
      const button = made("button", { type: "button", textContent: "Copy" });
      button.setAttribute("aria-label", `Copy: ${title}`);
      button.addEventListener("click", () => this.#copy(code, button));
      const heading = made("h3", { textContent: title });
      byId("curl").append(made("div", { className: "line" }, heading, button, made("pre", { tabIndex: 0 }, code)));
      this.#codes[name] = code;
    }
  }

  /** `payload` is JSON, or null for an example. */
  show(topic, payload) {
    const body = payload === null || payload.length > MOST_CHARACTERS ? EXAMPLE : payload;
    const message = `{"topic": "${topic}", "payload": ${onOneLine(body)}}`;
    const query = `?topics=${topic}&since=earliest`;
    const json = quoted("Content-Type: application/json");
    say(this.#codes.publish, `curl ${WHO}-X POST ${quoted(ADDRESS + "api/v1/messages")} -H ${json} -d ${quoted(message)}`);
    say(this.#codes.poll, `curl ${WHO}${quoted(ADDRESS + "api/v1/poll" + query)}`);
    say(this.#codes.stream, `curl ${WHO}-N ${quoted(ADDRESS + "api/v1/stream" + query)}`);
  }

  async #copy(code, button) {
    try {
      await navigator.clipboard.writeText(code.textContent);
    } catch {
      // No clipboard without https. What is selected is copied by hand.
      getSelection().selectAllChildren(code);
      if (!document.execCommand("copy")) return say(byId("curl-copied"), "Selected; copy it with Ctrl+C.");
    }
    say(byId("curl-copied"), "Copied.");
    button.textContent = "Copied";
    setTimeout(() => {
      button.textContent = "Copy";
      say(byId("curl-copied"), "");
    }, 2000);
  }
}

/** One word of a POSIX shell, whatever is in the text. */
function quoted(text) {
  return `'${text.replaceAll("'", "'\\''")}'`;
}

/** JSON without spaces between its parts: an interactive shell takes a tab for a question. */
function onOneLine(json) {
  return json.replace(/("(?:[^"\\]|\\.)*")|[ \t\r\n]+/g, "$1");
}
