import { sleep } from "./backoff.js";
import { byId, count, made, rate, say, topicLink } from "./elements.js";
import { HAS_ACCOUNTS, isTopicName, NAME_RULE, namesOfTopics } from "./relay.js";

const EVERY_MS = 2000;
const SHORT_MS = 1000;
const ROWS = 20;
/** A browser opens no more connections to one server. */
const ASKED_AT_ONCE = 4;

/** The topics, a page of names at a time; only what is shown is asked about. */
export class Topics {
  #caller;
  #table = byId("topics-table");
  #body = this.#table.tBodies[0];
  #name = byId("find-name");
  /** Where the pages up to this one begin: after which name. */
  #pages = [undefined];
  /** The last name of the page that is shown. */
  #last;
  #looks = new Map();
  #chosen = null;
  #round = 0;
  #wake = () => {};

  /** `onFollow` is told a name that was typed. */
  constructor(caller, onFollow) {
    this.#caller = caller;
    byId("find").addEventListener("submit", (event) => {
      event.preventDefault();
      const name = this.#name.value.trim();
      if (isTopicName(name)) return onFollow(name);
      this.#name.setAttribute("aria-invalid", "true");
      this.#note(NAME_RULE);
    });
    this.#name.addEventListener("input", () => {
      this.#name.removeAttribute("aria-invalid");
      this.#turn([undefined]);
    });
    byId("topics-on").addEventListener("click", () => this.#turn([...this.#pages, this.#last]));
    byId("topics-back").addEventListener("click", () => this.#turn(this.#pages.slice(0, -1)));
  }

  choose(topic) {
    this.#chosen = topic;
    for (const row of this.#body.rows) mark(row, topic);
  }

  async watch() {
    for (;;) {
      if (!document.hidden) await this.#look();
      await Promise.race([sleep(EVERY_MS), new Promise((resolve) => (this.#wake = resolve))]);
    }
  }

  /** Look at once, and not in two seconds. */
  hurry() {
    this.#round++;
    this.#wake();
  }

  #turn(pages) {
    this.#pages = pages;
    this.hurry();
  }

  async #look() {
    const round = this.#round;
    try {
      const prefix = this.#name.value.trim();
      const page = namesOfTopics(this.#caller, prefix, ROWS, this.#pages.at(-1));
      const [{ names, hasMore }, total] = await Promise.all([page, this.#total()]);
      // Topics that a relay's users had, before it was without accounts, are nobody's now.
      const topics = await this.#ask(names.filter(isTopicName));
      if (round !== this.#round) return this.#wake();
      this.#last = names.at(-1);
      this.#show(topics, hasMore);
      this.#tell(total, prefix, topics.length);
    } catch (error) {
      if (round !== this.#round) return this.#wake();
      for (const row of this.#body.rows) showRate(row, null);
      this.#looks.clear();
      this.#note(`Topics as they were. ${error.words}`);
    }
  }

  /** How many topics there are. Null with accounts: it would be those of everybody. */
  async #total() {
    return HAS_ACCOUNTS ? null : (await this.#caller.ask("stats")).answer.total_topics;
  }

  /** What there is of each, with its rate since the last look; those that are gone by now are left out. */
  async #ask(names) {
    const found = new Map();
    const waiting = names.values();
    const askOne = async () => {
      for (const name of waiting) {
        const topic = await described(this.#caller, name);
        if (topic) found.set(name, compared(topic, this.#looks.get(name)));
      }
    };
    await Promise.all(Array.from({ length: ASKED_AT_ONCE }, askOne));
    this.#looks = found;
    return names.map((name) => found.get(name)).filter(Boolean);
  }

  #show(topics, hasMore) {
    const rows = new Map(Array.from(this.#body.rows, (row) => [row.dataset.topic, row]));
    const wanted = topics.map((topic) => filled(rows.get(topic.topic_name) ?? emptyRow(topic.topic_name), topic));
    // Rows that stay are not moved: who has the focus on one keeps it.
    if (wanted.some((row, index) => row !== this.#body.rows[index]) || this.#body.rows.length !== wanted.length) {
      this.#body.replaceChildren(...wanted);
    }
    this.choose(this.#chosen);
    this.#table.hidden = !topics.length;
    byId("topics-pages").hidden = !hasMore && this.#pages.length === 1;
    byId("topics-on").disabled = !hasMore;
    byId("topics-back").disabled = this.#pages.length === 1;
  }

  #tell(total, prefix, shown) {
    say(byId("topics-total"), total === null ? "" : count(total));
    if (this.#name.hasAttribute("aria-invalid") || /[^A-Za-z0-9_-]/.test(prefix)) this.#note(NAME_RULE);
    else if (prefix && !shown) this.#note(`No topic's name begins with ${prefix}. A topic is made by its first message.`);
    else if (total === null ? !shown : !total) this.#note("There are no topics yet. A topic is made by its first message.");
    else this.#note("");
  }

  #note(text) {
    say(byId("topics-note"), text);
  }
}

async function described(caller, name) {
  try {
    const { answer } = await caller.ask(`api/v1/topics/${name}`);
    return answer.topic_name === undefined ? null : { ...answer, at: performance.now() };
  } catch (error) {
    if (error.code === "topic_not_found") return null;
    throw error;
  }
}

/** The topic with its `rate`, messages a second since an earlier look; null where it cannot be told. */
function compared(topic, before) {
  // Two looks that follow each other at once say little: then it is the one before them that counts.
  const base = before && topic.at - before.at < SHORT_MS ? before.base : before;
  if (!base || base.epoch !== topic.epoch) return { ...topic, base: undefined, rate: null };
  // Ids count the messages that the topic ever had.
  const rate = Math.max(0, given(topic) - given(base)) / ((topic.at - base.at) / 1000);
  return { ...topic, base: { ...base, base: undefined }, rate };
}

function given(topic) {
  return Number(topic.last_id?.split("-")[1] ?? 0);
}

function emptyRow(name) {
  const row = made("tr", {}, made("td", {}, topicLink(name)), made("td"), made("td"), made("td"));
  row.dataset.topic = name;
  return row;
}

function filled(row, topic) {
  const [, , kept, readers] = row.cells;
  showRate(row, topic.rate);
  say(kept, count(topic.length));
  say(readers, count(topic.subscribers));
  return row;
}

function showRate(row, perSecond) {
  const cell = row.cells[1];
  say(cell, perSecond === null ? "–" : rate(perSecond));
  cell.classList.toggle("still", !perSecond);
}

function mark(row, chosen) {
  const link = row.querySelector("a");
  if (row.dataset.topic === chosen) link.setAttribute("aria-current", "true");
  else link.removeAttribute("aria-current");
}
