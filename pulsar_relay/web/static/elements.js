// What is on the page. Texts go in as text, never as markup.

export function byId(id) {
  return document.getElementById(id);
}

/** A new element with `children`, elements or texts; `properties` as scripts name them. */
export function made(tag, properties, ...children) {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children);
  return element;
}

/** Change a text only if it is another one: what listens to it is told of news, and of nothing else. */
export function say(element, text) {
  if (element.textContent !== text) {
    element.textContent = text;
  }
}

export function topicLink(topic) {
  return made("a", { href: `#topic=${topic}`, className: "name", textContent: topic });
}

const COUNT = new Intl.NumberFormat("en");
const RATE = new Intl.NumberFormat("en", { minimumFractionDigits: 1, maximumFractionDigits: 1 });
const CLOCK = new Intl.DateTimeFormat("en-GB", { timeStyle: "medium" });

export function count(number) {
  return COUNT.format(number);
}

export function rate(number) {
  return number > 0 && number < 100 ? RATE.format(number) : COUNT.format(Math.round(number));
}

/** A time of day, the reader's. */
export function clock(date) {
  return CLOCK.format(date);
}
