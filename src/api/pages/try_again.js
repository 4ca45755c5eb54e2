// The button counts down until a retry makes sense. Without this script it can be pressed at any time.
const announcements = document.querySelector("[data-announcements]");
const enabledAt = Date.now() + Number(button.dataset.waitMs);
const countdown = setInterval(count, 250);
function count() {
  const left = Math.ceil((enabledAt - Date.now()) / 1000);
  button.disabled = left > 0;
  if (left > 0) {
    const clock = left < 60 ? left + " s" : Math.floor(left / 60) + ":" + String(left % 60).padStart(2, "0");
    button.textContent = label + " in " + clock;
    return;
  }
  clearInterval(countdown);
  button.textContent = label;
  announcements.textContent = "You can try again now.";
  if (document.activeElement === document.body) button.focus();
}
count();
