// JSON texts as they were written. What JSON.parse makes of a payload is not always what was published: large numbers
// lose digits, members that come twice are dropped.

/** The text of an object's member, as it stands in the object's text; undefined if there is none. */
export function memberText(text, name) {
  let at = skipSpace(text, text.indexOf("{") + 1);
  while (text[at] === '"') {
    const nameEnd = valueEnd(text, at);
    const begin = skipSpace(text, text.indexOf(":", nameEnd) + 1);
    const end = valueEnd(text, begin);
    if (JSON.parse(text.slice(at, nameEnd)) === name) {
      return text.slice(begin, end);
    }
    const comma = skipSpace(text, end);
    at = skipSpace(text, comma + 1);
  }
  return undefined;
}

function skipSpace(text, at) {
  while (at < text.length && " \t\n\r".includes(text[at])) at++;
  return at;
}

/** Where the value that begins at `at` ends. The text is known to be JSON. */
function valueEnd(text, at) {
  if (text[at] === '"') return stringEnd(text, at);
  if (text[at] !== "{" && text[at] !== "[") {
    while (at < text.length && !" \t\n\r,]}".includes(text[at])) at++;
    return at;
  }
  let depth = 0;
  do {
    const letter = text[at];
    if (letter === '"') {
      at = stringEnd(text, at);
      continue;
    }
    if (letter === "{" || letter === "[") depth++;
    if (letter === "}" || letter === "]") depth--;
    at++;
  } while (depth > 0);
  return at;
}

function stringEnd(text, at) {
  for (at++; text[at] !== '"'; at++) {
    if (text[at] === "\\") at++;
  }
  return at + 1;
}
