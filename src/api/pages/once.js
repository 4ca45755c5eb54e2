"use strict";
// One click, one copy; without this the form posts all the same.
const form = document.querySelector("[data-once]"), button = form.querySelector("button"), label = button.textContent;
let busy = false;
function free() {
  busy = false;
  button.removeAttribute("aria-disabled");
  button.textContent = label;
}
form.addEventListener("submit", (event) => {
  if (busy) return event.preventDefault();
  busy = true;
  button.setAttribute("aria-disabled", "true");
  button.textContent = button.dataset.busy;
  setTimeout(free, 15000);
});
addEventListener("pageshow", (event) => { if (event.persisted) free(); });
