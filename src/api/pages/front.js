"use strict";
// Everything here is an addition: without it the forms post, and the page tells the state of when it was loaded.
const cards = [...document.querySelectorAll("[data-template]")];
const news = document.querySelector("[data-news]");
const say = (text) => { news.textContent = text; };

// A page from the back/forward cache tells of the past.
addEventListener("pageshow", (event) => { if (event.persisted) location.reload(); });

// -- ready now
function showReady(card, n) {
  const line = card.querySelector("[data-ready]"), state = n > 0 ? "some" : "none";
  card.querySelector("[data-ready-text]").textContent = n > 0 ? n + " ready now" : "being prepared…";
  if (line.dataset.ready === state) return;
  line.dataset.ready = state;
  // Not each number is news: only whether there is one.
  say(card.dataset.title + (n > 0 ? " is ready to try." : " is being prepared."));
}

let stream = null, pause = 1000;
function listen() {
  if (stream || document.hidden || !cards.length) return;
  stream = new EventSource("/ready");
  stream.addEventListener("ready", (event) => {
    pause = 1000;
    const numbers = JSON.parse(event.data);
    for (const card of cards) {
      const n = numbers[card.dataset.template];
      if (Number.isInteger(n)) showReady(card, n);
    }
  });
  stream.onerror = () => {
    // A browser comes back by itself after a broken stream, but not after an answer that is none.
    if (!stream || stream.readyState !== EventSource.CLOSED) return;
    stream = null;
    setTimeout(listen, pause * (0.5 + Math.random()));
    pause = Math.min(pause * 2, 30000);
  };
}
function rest() {
  if (stream) stream.close();
  stream = null;
}
// Browsers allow few connections to one host: tabs that nobody looks at must not hold them.
document.addEventListener("visibilitychange", () => { if (document.hidden) rest(); else { listen(); tick(); } });
addEventListener("pagehide", rest);
listen();

// -- the visitor's copies
// What is left counts from now by this computer's own clock, so it need not be right.
const copies = [...document.querySelectorAll("[data-remaining-ms]")].map((box) => ({
  box, card: box.closest("[data-template]"), endsAt: Date.now() + Number(box.dataset.remainingMs), told: null,
  asking: false,
}));

function clock(left) {
  const two = (n) => String(n).padStart(2, "0");
  const h = Math.floor(left / 3600), m = Math.floor(left / 60) % 60, s = left % 60;
  return (h ? h + ":" : "") + two(m) + ":" + two(s);
}

function tick() {
  for (const copy of copies) {
    if (copy.box.hidden) continue;
    const left = Math.max(0, Math.ceil((copy.endsAt - Date.now()) / 1000));
    copy.box.querySelector("[data-clock]").textContent = clock(left);
    copy.box.toggleAttribute("data-soon", left <= 300);
    const mark = [60, 300].find((seconds) => left <= seconds) || null;
    if (left === 0) ask(copy);
    else if (copy.told !== mark) {
      copy.told = mark;
      say("Your copy of " + copy.card.dataset.title + " ends in " + (left <= 60 ? "a minute." : "five minutes."));
    }
  }
}

// The end may have been put off since the page was loaded: ask before saying that it is over.
async function ask(copy) {
  if (copy.asking) return;
  copy.asking = true;
  let left = 0;
  try {
    const answer = await fetch("/", { cache: "no-store", signal: AbortSignal.timeout(10000) });
    const text = await answer.text();
    // Without its styles, which the policy of this page does not know.
    const page = new DOMParser().parseFromString(text.slice(text.indexOf("</head>")), "text/html");
    const action = copy.box.querySelector("[data-end]").getAttribute("action");
    const same = [...page.querySelectorAll("[data-end]")].find((form) => form.getAttribute("action") === action);
    if (same) left = Number(same.closest("[data-remaining-ms]").dataset.remainingMs);
  } catch { /* Without an answer, what was known holds. */ }
  copy.asking = false;
  copy.endsAt = Date.now() + left;
  if (left > 0) tick();
  else over(copy);
}

function over({ box, card }) {
  const form = card.querySelector("[data-try]"), inside = box.contains(document.activeElement);
  box.hidden = true;
  form.hidden = false;
  form.querySelector("[data-over]").hidden = false;
  if (inside) form.querySelector("button").focus();
  say("Your copy of " + card.dataset.title + " has ended.");
}
tick();
setInterval(tick, 1000);

// -- one click, one copy
for (const form of document.querySelectorAll("form")) {
  const button = form.querySelector("button"), label = button.textContent;
  let busy = false;
  form.addEventListener("submit", (event) => {
    if (busy) return event.preventDefault();
    busy = true;
    button.setAttribute("aria-disabled", "true");
    button.textContent = button.dataset.busy;
    // The answer is another page. Should none come, the button must not stay like this.
    setTimeout(() => {
      busy = false;
      button.removeAttribute("aria-disabled");
      button.textContent = label;
    }, 15000);
  });
}
