"use strict";
// Makes the proof of work that ALTCHA's protocol defines (version 2): finds a counter for which PBKDF2, over the nonce
// and the counter, makes a key that begins with the given digits. Then posts it with the form.
const form = document.querySelector("[data-challenge]"), button = form.querySelector("button");
const problem = document.querySelector("[data-problem]"), label = button.textContent;
const challenge = JSON.parse(form.dataset.challenge), wanted = challenge.parameters;
const ATTEMPTS_AT_ONCE = 32;
let isBusy = false;

const toBytes = (hex) => Uint8Array.from(hex.match(/../g), (digits) => parseInt(digits, 16));
const toHex = (bytes) => Array.from(new Uint8Array(bytes), (byte) => byte.toString(16).padStart(2, "0")).join("");

async function attempt(counter) {
  const nonce = toBytes(wanted.nonce), password = new Uint8Array(nonce.length + 4);
  password.set(nonce);
  new DataView(password.buffer).setUint32(nonce.length, counter);
  const key = await crypto.subtle.importKey("raw", password, "PBKDF2", false, ["deriveBits"]);
  const settings = { name: "PBKDF2", hash: "SHA-256", salt: toBytes(wanted.salt), iterations: wanted.cost };
  return toHex(await crypto.subtle.deriveBits(settings, key, wanted.keyLength * 8));
}

async function solve() {
  for (let first = 0; ; first += ATTEMPTS_AT_ONCE) {
    const counters = Array.from({ length: ATTEMPTS_AT_ONCE }, (_, index) => first + index);
    const keys = await Promise.all(counters.map(attempt));
    const found = keys.findIndex((key) => key.startsWith(wanted.keyPrefix));
    if (found >= 0) return { counter: first + found, derivedKey: keys[found] };
  }
}

form.addEventListener("submit", async (event) => {
  event.preventDefault();
  if (isBusy) return;
  isBusy = true;
  button.setAttribute("aria-disabled", "true");
  button.textContent = button.dataset.busy;
  const solution = await solve();
  form.elements.altcha.value = btoa(JSON.stringify({ challenge, solution }));
  // Without the event, so that this listener does not run again.
  form.submit();
});
addEventListener("pageshow", (event) => { if (event.persisted) location.replace("/"); });

// Browsers calculate only on pages that came over HTTPS, or from this computer.
const canCalculate = Boolean(globalThis.crypto && crypto.subtle);
button.disabled = !canCalculate;
button.textContent = label;
problem.textContent = canCalculate ? "" : "Your browser calculates only on pages that come over HTTPS.";
