import { CurlLines } from "./curl.js";
import { byId } from "./elements.js";
import { PublishForm } from "./publish.js";
import { Readiness } from "./readiness.js";
import { isTopicName } from "./relay.js";
import { Tail } from "./tail.js";
import { Topics } from "./topics.js";

const tail = new Tail();
const curl = new CurlLines();
const topics = new Topics(choose);
const publish = new PublishForm(onPublished);
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

publish.onInput(showCurl);
addEventListener("hashchange", follow);
document.querySelector(".skip").addEventListener("click", (event) => {
  // Its address would take the place of the chosen topic.
  event.preventDefault();
  byId("tail").focus();
});
showCurl();
follow();
topics.watch();
readiness.watch();
