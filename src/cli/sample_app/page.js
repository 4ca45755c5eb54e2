"use strict";
// Everything here is an addition: without it the form posts, the page reloads, and all is still readable.
const el = (id) => document.getElementById(id);
const form = el("form"), list = el("entries"), timeBox = el("time");
const shown = new Set([...list.children].map((li) => Number(li.dataset.id)));
let newest = Math.max(0, ...shown);
let ended = false;

// -- entries
function make(tag, className, text) {
  const node = document.createElement(tag);
  if (className) node.className = className;
  if (text !== undefined) node.textContent = text;
  return node;
}

function ago(iso) {
  const at = new Date(iso), seconds = (Date.now() - at) / 1000;
  if (seconds < 60) return "just now";
  if (seconds < 3600) return Math.floor(seconds / 60) + " min ago";
  if (seconds < 86400) return Math.floor(seconds / 3600) + " h ago";
  return at.toLocaleString([], { dateStyle: "medium", timeStyle: "short" });
}

function show(entry) {
  if (shown.has(entry.id)) return false;
  shown.add(entry.id);
  newest = Math.max(newest, entry.id);
  const li = make("li", "fresh"), body = make("div"), by = make("p", "by"), when = make("time", "", ago(entry.at));
  li.dataset.id = entry.id;
  const face = make("span", "face tone-" + entry.tone, entry.initial);
  face.setAttribute("aria-hidden", "true");
  when.dateTime = entry.at;
  by.append(make("bdi", "", entry.name), when);
  const said = make("p", "said", entry.text);
  said.dir = "auto";
  body.append(by, said);
  li.append(face, body);
  // Newest first, whatever the order of arrival.
  const older = [...list.children].find((other) => Number(other.dataset.id) < entry.id);
  list.insertBefore(li, older || null);
  while (list.children.length > 200) list.lastElementChild.remove();
  el("empty").hidden = true;
  el("total").textContent = list.children.length;
  return true;
}

async function readAll() {
  const answer = await fetch("/entries", { cache: "no-store" });
  if (!answer.ok) throw new Error("HTTP " + answer.status);
  const book = await answer.json();
  book.entries.forEach(show);
  setLeft(book.left_ms);
}

// -- time left
let endsAt = null;

function setLeft(ms) {
  if (!timeBox || ms === null || ms === undefined) return;
  endsAt = Date.now() + ms;
  el("until").textContent = new Date(endsAt).toLocaleTimeString([], { timeStyle: "short" });
  if (ended && ms > 0) {
    ended = false;
    el("problem").textContent = "";
    el("send").disabled = false;
    connect();
  }
}

let asking = false;
function countDown() {
  if (endsAt === null) return;
  const left = Math.max(0, Math.ceil((endsAt - Date.now()) / 1000));
  const h = Math.floor(left / 3600), m = Math.floor(left / 60) % 60, s = left % 60;
  const two = (n) => String(n).padStart(2, "0");
  el("clock").textContent = ended ? "Ended" : (h ? h + ":" + two(m) : String(m)) + ":" + two(s);
  timeBox.toggleAttribute("data-soon", left <= 300);
  timeBox.toggleAttribute("data-ended", ended);
  // The end may have been put off since this page was loaded: ask before saying that it is over.
  if (left === 0 && !ended && !asking) {
    asking = true;
    readAll().catch(() => {}).then(() => {
      asking = false;
      if (endsAt - Date.now() <= 0) finish();
    });
  }
}

function finish() {
  ended = true;
  if (socket) socket.close();
  el("send").disabled = true;
  el("problem").textContent = "Your time with this app is over. Thank you for trying it!";
  status("ended", "Ended");
}

// -- live
function status(state, text) {
  const pill = el("live");
  pill.hidden = false;
  pill.dataset.state = state;
  el("live-text").textContent = text;
}

let pause = 1000, socket = null;
function connect() {
  if (ended || (socket && socket.readyState < 2)) return;
  socket = new WebSocket(location.origin.replace(/^http/, "ws") + "/live");
  socket.onmessage = (event) => {
    const message = JSON.parse(event.data);
    if (message.type === "entry") {
      if (show(message)) el("news").textContent = "New entry from " + message.name;
    } else if (message.type === "visitors") {
      here(message.n);
    } else if (message.type === "hello") {
      pause = 1000;
      here(message.visitors);
      setLeft(message.left_ms);
      if (message.last_id > newest) readAll().catch(() => {});
    } else if (message.type === "behind") {
      readAll().catch(() => {});
    }
  };
  socket.onclose = () => {
    if (ended) return;
    status("waiting", "Reconnecting…");
    setTimeout(connect, pause * (0.5 + Math.random()));
    pause = Math.min(pause * 2, 30000);
  };
}

function here(n) {
  if (ended) return;
  status("live", "Live · " + (n === 1 ? "only you here" : n + " tabs here"));
}

// -- the form
function count() {
  el("count").textContent = form.text.value.length + " / 500";
}

function complain(field, message) {
  for (const name of ["name", "text"]) {
    el(name + "-wrong").textContent = name === field ? message : "";
    form.elements[name].setAttribute("aria-invalid", String(name === field));
  }
  el("problem").textContent = field || !message ? "" : message;
  if (field) form.elements[field].focus();
}

form.addEventListener("submit", async (event) => {
  event.preventDefault();
  el("send").disabled = true;
  try {
    const answer = await fetch(form.action, {
      method: "POST", body: new URLSearchParams(new FormData(form)), headers: { Accept: "application/json" },
    });
    const said = await answer.json();
    if (answer.ok) {
      complain(null, "");
      show(said);
      el("news").textContent = "Your entry is in the book.";
      form.elements.text.value = "";
      count();
      form.elements.text.focus();
    } else {
      complain(said.field, said.error);
    }
  } catch {
    complain(null, "The app could not be reached. Your text is still here; please try again.");
  }
  el("send").disabled = ended;
});

form.elements.text.addEventListener("input", count);
count();
if (timeBox) setLeft(Number(timeBox.dataset.leftMs));
countDown();
setInterval(countDown, 1000);
setInterval(() => list.querySelectorAll("time").forEach((when) => { when.textContent = ago(when.dateTime); }), 20000);
setInterval(() => { if (!document.hidden && !ended) readAll().catch(() => {}); }, 60000);
document.addEventListener("visibilitychange", () => { if (!document.hidden) { readAll().catch(() => {}); connect(); } });
status("waiting", "Connecting…");
connect();
