"use strict";
// Adds the time of day at which the visitor can try again to the wait that the page shows.
const element = document.getElementById("retry-time"), wait = Number(element.dataset.waitMs);
const at = new Date(Math.ceil((Date.now() + wait) / 60000) * 60000);
const isTomorrow = at.toDateString() !== new Date().toDateString();
if (wait >= 60000) {
  element.after(", " + (isTomorrow ? "tomorrow " : "") + "at " + at.toLocaleTimeString([], { timeStyle: "short" }));
}
