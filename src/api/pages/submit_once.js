"use strict";
// One click, one request. Without this script the form posts all the same.
const form = document.querySelector("[data-submit-once]"), button = form.querySelector("button");
const label = button.textContent;
let isBusy = false;
function reset() {
  isBusy = false;
  button.removeAttribute("aria-disabled");
  button.textContent = label;
}
form.addEventListener("submit", (event) => {
  if (isBusy) return event.preventDefault();
  isBusy = true;
  button.setAttribute("aria-disabled", "true");
  button.textContent = button.dataset.busy;
  setTimeout(reset, 15000);
});
addEventListener("pageshow", (event) => { if (event.persisted) reset(); });
