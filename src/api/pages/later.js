"use strict";
// The time of day says more than a wait; without this the wait alone must do.
const later = document.getElementById("later"), wait = Number(later.dataset.waitMs);
const at = new Date(Math.ceil((Date.now() + wait) / 60000) * 60000);
const other = at.toDateString() !== new Date().toDateString();
if (wait >= 60000) {
  later.after(", " + (other ? "tomorrow " : "") + "at " + at.toLocaleTimeString([], { timeStyle: "short" }));
}
