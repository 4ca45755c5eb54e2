// Until it is worth another try the button counts down; without this it can be pressed at any time.
const news = document.querySelector("[data-news]"), endsAt = Date.now() + Number(button.dataset.waitMs);
const waiting = setInterval(count, 250);
function count() {
  const left = Math.ceil((endsAt - Date.now()) / 1000);
  button.disabled = left > 0;
  if (left > 0) {
    const clock = left < 60 ? left + " s" : Math.floor(left / 60) + ":" + String(left % 60).padStart(2, "0");
    button.textContent = label + " in " + clock;
    return;
  }
  clearInterval(waiting);
  button.textContent = label;
  news.textContent = "You can try again now.";
  if (document.activeElement === document.body) button.focus();
}
count();
