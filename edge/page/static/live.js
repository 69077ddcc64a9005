// Now, kept up to date: the journal's changes come as events, and the parts that differ are exchanged.
// What has the focus keeps it, and a page that no longer hears anything says so.
const place = document.getElementById("now");
const lost = document.getElementById("lost");
const news = document.getElementById("news");
const address = "/now/fragment" + location.search;
const LOOK_AGAIN_MS = 20000; // alarms that are no change of the journal, such as silence
const SILENT_MS = 40000; // twice the server's sign of life and more
const OLD_MS = 30000; // what is shown was gathered so long before it was sent: a share or the disk hangs

let source = null;
let heard = Date.now();
let fetching = false;
let asked = false;
let crowded = false;
let clockAhead = ahead(place.dataset.time);

function ahead(serverTime) {
  return serverTime ? Date.parse(serverTime) - Date.now() : 0;
}

function inWords(seconds) {
  const minutes = Math.floor(seconds / 60);
  if (minutes < 1) return `${Math.floor(seconds)} s`;
  if (minutes < 60) return `${minutes} min`;
  if (minutes < 48 * 60) return `${Math.floor(minutes / 60)} h ${String(minutes % 60).padStart(2, "0")} min`;
  return `${Math.floor(minutes / 1440)} days`;
}

function tellAges() {
  const now = Date.now() + clockAhead;
  for (const time of document.querySelectorAll("time[data-age]")) {
    const text = `${inWords(Math.max(0, (now - Date.parse(time.dateTime)) / 1000))} ago`;
    if (time.textContent !== text) time.textContent = text;
  }
}

// Children that have an id are told apart by it; whatever is the same stays the very node it was.
function exchange(from, to) {
  const before = new Map([...from.children].filter((one) => one.id).map((one) => [one.id, one]));
  const wanted = [...to.children].map((one) => {
    const old = one.id && before.get(one.id);
    if (!old) return document.importNode(one, true);
    if (!same(old, one)) {
      if (one.querySelector(":scope > ol.files") && old.querySelector(":scope > ol.files")) {
        exchange(old.querySelector(":scope > ol.files"), one.querySelector(":scope > ol.files"));
        for (const name of [".section-head", ".older"]) swap(old, one, name);
        return old;
      }
      return document.importNode(one, true);
    }
    return old;
  });
  wanted.forEach((one, index) => {
    if (from.children[index] !== one) from.insertBefore(one, from.children[index] ?? null);
  });
  while (from.children.length > wanted.length) from.lastElementChild.remove();
}

function swap(old, one, selector) {
  const was = old.querySelector(`:scope > ${selector}`);
  const is = one.querySelector(`:scope > ${selector}`);
  if (was && is && !was.isEqualNode(is)) was.replaceWith(document.importNode(is, true));
  else if (was && !is) was.remove();
  else if (!was && is) old.append(document.importNode(is, true));
}

// Ages move by themselves and are no difference.
function same(one, other) {
  const plain = (node) => {
    const copy = node.cloneNode(true);
    for (const time of copy.querySelectorAll("time[data-age]")) time.textContent = "";
    return copy;
  };
  return plain(one).isEqualNode(plain(other));
}

async function refresh() {
  if (fetching) {
    asked = true;
    return;
  }
  fetching = true;
  try {
    const answer = await fetch(address, { cache: "no-cache" });
    if (!answer.ok) throw new Error(`${answer.status}`);
    const [asOf, now] = [answer.headers.get("X-As-Of"), answer.headers.get("X-Now")];
    clockAhead = ahead(now);
    const page = new DOMParser().parseFromString(await answer.text(), "text/html");
    show(page.body);
    noteTime(asOf);
    found(Date.parse(now) - Date.parse(asOf));
  } catch {
    missed();
  } finally {
    fetching = false;
    if (asked) {
      asked = false;
      refresh();
    }
  }
}

function show(body) {
  const focused = document.activeElement?.id;
  const file = document.getElementById("latest")?.dataset.file;
  exchange(place, body);
  if (focused && document.activeElement?.id !== focused) document.getElementById(focused)?.focus({ preventScroll: true });
  const latest = document.getElementById("latest");
  if (latest?.dataset.file !== file && latest?.dataset.news) news.textContent = `New image. ${latest.dataset.news}`;
  tellAges();
}

function noteTime(asOf) {
  const time = document.getElementById("as-of");
  if (!time || !asOf) return;
  time.dateTime = asOf;
  time.textContent = asOf.slice(11, 19);
}

function found(behindMs) {
  heard = Date.now();
  if (behindMs > OLD_MS) outOfTouch("what the service stands on does not answer");
  else if (crowded) tell(`Too many windows are open: this one hears of changes only every ${LOOK_AGAIN_MS / 1000} s. Close others.`);
  else lost.hidden = true;
}

function missed() {
  outOfTouch("this page does not answer");
}

function outOfTouch(why) {
  const since = document.getElementById("as-of")?.textContent ?? "";
  tell(`Out of touch: ${why}. What is shown is as of ${since}, not now.`);
}

function tell(text) {
  if (lost.textContent !== text) lost.textContent = text;
  lost.hidden = false;
}

function listen() {
  source?.close();
  source = new EventSource("/events");
  source.addEventListener("open", () => {
    crowded = false;
  });
  source.addEventListener("changed", refresh);
  source.addEventListener("error", () => {
    if (source.readyState !== EventSource.CLOSED) missed();
    else refused().finally(() => setTimeout(listen, 5000)); // nobody else tries again
  });
}

// A source that was refused does not say why: a question for the head alone does.
async function refused() {
  try {
    const answer = await fetch("/events", { method: "HEAD", cache: "no-store" });
    crowded = answer.status === 503;
    if (crowded) await refresh();
    else if (!answer.ok) missed();
  } catch {
    missed();
  }
}

listen();
setInterval(refresh, LOOK_AGAIN_MS);
setInterval(() => {
  tellAges();
  if (Date.now() - heard > SILENT_MS) missed();
}, 1000);
addEventListener("pageshow", (event) => {
  if (event.persisted) listen();
});
addEventListener("pagehide", () => source?.close());
