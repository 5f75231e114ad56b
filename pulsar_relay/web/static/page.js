import { wordsOf } from "./closing.js";
import { CurlLines } from "./curl.js";
import { byId, say } from "./elements.js";
import { PublishForm } from "./publish.js";
import { Readiness } from "./readiness.js";
import { HAS_ACCOUNTS, isTopicName } from "./relay.js";
import { ANYBODY, Session } from "./session.js";
import { SignIn } from "./sign_in.js";
import { Tail } from "./tail.js";
import { Topics } from "./topics.js";

const session = HAS_ACCOUNTS ? new Session(onEnd) : null;
const caller = session ?? ANYBODY;
const tail = new Tail(caller);
const curl = new CurlLines();
const topics = new Topics(caller, choose);
const publish = new PublishForm(caller, onPublished);
const readiness = new Readiness(showTitle);

let followed = null;
let isReady = true;

/** The choice is in the page's address: it can be kept, sent, and gone back from. */
function choose(topic) {
  location.hash = `topic=${topic}`;
}

function chosen() {
  const topic = new URLSearchParams(location.hash.slice(1)).get("topic") ?? "";
  return isTopicName(topic) ? topic : null;
}

function follow() {
  const topic = chosen();
  if (topic === null || topic === followed) return;
  followed = topic;
  tail.follow(topic);
  topics.choose(topic);
  publish.topic = topic;
  showCurl();
  showTitle(isReady);
}

function onPublished(topic) {
  if (followed === null) choose(topic);
  topics.hurry();
}

function showCurl() {
  const topic = followed ?? publish.topic;
  curl.show(isTopicName(topic) ? topic : "test", publish.payload);
}

function showTitle(ready) {
  isReady = ready;
  document.title = [isReady ? null : "not ready", followed, "pulsar-relay"].filter(Boolean).join(" · ");
}

/** What the page had shown is one user's: it begins anew, with nothing but why. */
function beginAnew(words) {
  history.replaceState({ words }, "");
  location.reload();
}

function onEnd(reason) {
  beginAnew(`${wordsOf(reason.code) ?? reason.words} Log in again.`);
}

async function logOut() {
  byId("log-out").disabled = true;
  await session.leave();
  beginAnew("Logged out.");
}

function showUser() {
  const { username, permissions } = session.user;
  say(byId("who-name"), username);
  say(byId("who-may"), permissions.length ? ` (${permissions.join(", ")})` : " (no permissions)");
  byId("who").hidden = false;
}

function signIn() {
  const words = history.state?.words;
  history.replaceState(null, "");
  byId("log-out").addEventListener("click", logOut);
  // Whoever comes back to a page that a browser has kept finds it without tokens: there it begins anew, too.
  addEventListener("pagehide", () => session.leave());
  addEventListener("pageshow", (event) => event.persisted && beginAnew("This page was left, and is logged out."));
  document.querySelector("main").hidden = true;
  new SignIn(session, () => {
    showUser();
    document.querySelector("main").hidden = false;
    work();
  }).show(words);
}

function work() {
  addEventListener("hashchange", follow);
  showCurl();
  follow();
  topics.watch();
}

publish.onInput(showCurl);
document.querySelector(".skip").addEventListener("click", (event) => {
  // Its address would take the place of the chosen topic.
  event.preventDefault();
  byId("tail").focus();
});
if (session) signIn();
else work();
readiness.watch();
