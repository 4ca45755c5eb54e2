"use strict";
// The page works without this script: the forms post, and the page shows the state at the time of loading.
const cards = [...document.querySelectorAll("[data-template]")];
const announcements = document.querySelector("[data-announcements]");
const announce = (text) => { announcements.textContent = text; };

// A page from the back/forward cache shows an old state.
addEventListener("pageshow", (event) => { if (event.persisted) location.reload(); });

// -- Number of ready instances
function showReady(card, n) {
  const status = card.querySelector("[data-ready]"), state = n > 0 ? "some" : "none";
  card.querySelector("[data-ready-text]").textContent = n > 0 ? n + " ready now" : "being prepared…";
  if (status.dataset.ready === state) return;
  status.dataset.ready = state;
  // Not every number is announced: only whether there is one.
  announce(card.dataset.title + (n > 0 ? " is ready to try." : " is being prepared."));
}

let stream = null, backoff = 1000;
function openStream() {
  if (stream || document.hidden || !cards.length) return;
  stream = new EventSource("/ready");
  stream.addEventListener("ready", (event) => {
    backoff = 1000;
    const counts = JSON.parse(event.data);
    for (const card of cards) {
      const n = counts[card.dataset.template];
      if (Number.isInteger(n)) showReady(card, n);
    }
  });
  stream.onerror = () => {
    // A browser reconnects by itself after a broken stream, but not after a response that is no event stream.
    if (!stream || stream.readyState !== EventSource.CLOSED) return;
    stream = null;
    setTimeout(openStream, backoff * (0.5 + Math.random()));
    backoff = Math.min(backoff * 2, 30000);
  };
}
function closeStream() {
  if (stream) stream.close();
  stream = null;
}
// Browsers allow few connections to one host: hidden tabs must not hold one.
document.addEventListener("visibilitychange", () => {
  if (document.hidden) closeStream();
  else { openStream(); updateClocks(); }
});
addEventListener("pagehide", closeStream);
openStream();

// -- The visitor's instances
// The remaining time is counted down from now, so this computer's clock need not be right.
const instances = [...document.querySelectorAll("[data-remaining-ms]")].map((box) => ({
  box, card: box.closest("[data-template]"), endsAt: Date.now() + Number(box.dataset.remainingMs),
  announcedMark: null, isRefreshing: false,
}));

function clock(remaining) {
  const two = (n) => String(n).padStart(2, "0");
  const h = Math.floor(remaining / 3600), m = Math.floor(remaining / 60) % 60, s = remaining % 60;
  return (h ? h + ":" : "") + two(m) + ":" + two(s);
}

function updateClocks() {
  for (const instance of instances) {
    if (instance.box.hidden) continue;
    const remaining = Math.max(0, Math.ceil((instance.endsAt - Date.now()) / 1000));
    instance.box.querySelector("[data-clock]").textContent = clock(remaining);
    instance.box.toggleAttribute("data-ends-soon", remaining <= 300);
    const mark = [60, 300].find((seconds) => remaining <= seconds) || null;
    if (remaining === 0) refreshDeadline(instance);
    else if (instance.announcedMark !== mark) {
      instance.announcedMark = mark;
      announce("Your copy of " + instance.card.dataset.title + " ends in " +
        (remaining <= 60 ? "a minute." : "five minutes."));
    }
  }
}

// The lease may have been extended since the page was loaded: load the page again before showing the end.
async function refreshDeadline(instance) {
  if (instance.isRefreshing) return;
  instance.isRefreshing = true;
  let remaining = 0;
  try {
    const response = await fetch("/", { cache: "no-store", signal: AbortSignal.timeout(10000) });
    const text = await response.text();
    // Without the head: the policy of this page does not allow the styles of that one.
    const page = new DOMParser().parseFromString(text.slice(text.indexOf("</head>")), "text/html");
    const action = instance.box.querySelector("[data-end]").getAttribute("action");
    const same = [...page.querySelectorAll("[data-end]")].find((form) => form.getAttribute("action") === action);
    if (same) remaining = Number(same.closest("[data-remaining-ms]").dataset.remainingMs);
  } catch { /* Without a response the known deadline holds. */ }
  instance.isRefreshing = false;
  instance.endsAt = Date.now() + remaining;
  if (remaining > 0) updateClocks();
  else showEnd(instance);
}

function showEnd({ box, card }) {
  const form = card.querySelector("[data-try]"), hadFocus = box.contains(document.activeElement);
  box.hidden = true;
  form.hidden = false;
  form.querySelector("[data-ended]").hidden = false;
  if (hadFocus) form.querySelector("button").focus();
  announce("Your copy of " + card.dataset.title + " has ended.");
}
updateClocks();
setInterval(updateClocks, 1000);

// -- One click, one request
for (const form of document.querySelectorAll("form")) {
  const button = form.querySelector("button"), label = button.textContent;
  let isBusy = false;
  form.addEventListener("submit", (event) => {
    if (isBusy) return event.preventDefault();
    isBusy = true;
    button.setAttribute("aria-disabled", "true");
    button.textContent = button.dataset.busy;
    // The response is another page. If none comes, the button becomes usable again.
    setTimeout(() => {
      isBusy = false;
      button.removeAttribute("aria-disabled");
      button.textContent = label;
    }, 15000);
  });
}
