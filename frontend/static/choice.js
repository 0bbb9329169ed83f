/** The walks that are chosen for an exhibition, in the order of choosing; they stay through searches and pages. */

import { announce } from "./announce.js";

const KEY = "momalisa.choice";
const COPIED_FOR = 4000; // milliseconds for which the button says so
const wall = document.getElementById("wall");
const form = document.getElementById("choice");
const [status, copy, none] = [".chosen", ".copy", ".none"].map((name) => form.querySelector(name));
const error = document.getElementById("gallery-error");
const most = Number(form.dataset.most);

function remembered() {
  try {
    return JSON.parse(sessionStorage.getItem(KEY)) ?? [];
  } catch {
    return [];
  }
}

let chosen = remembered();
let reset; // the timer that forgets that the link was copied

const link = () => `${location.origin}/exhibition?walks=${chosen.join(",")}`;
const boxes = () => wall.querySelectorAll("input[name=walks]");

function choose(ids) {
  chosen = ids;
  try {
    sessionStorage.setItem(KEY, JSON.stringify(chosen));
  } catch { /* a browser that keeps nothing still chooses on this page */ }
  show();
}

function show() {
  for (const box of boxes()) {
    box.checked = chosen.includes(box.value);
    box.disabled = !box.checked && chosen.length >= most;
  }
  const words = chosen.length === 1 ? "1 walk chosen" : `${chosen.length} walks chosen`;
  status.textContent = !chosen.length ? `Choose up to ${most} walks` : chosen.length < most ? words : `${words}, the most there may be`;
  copy.textContent = "Copy link";
  copy.hidden = none.hidden = !chosen.length;
  error.textContent = "";
}

wall.addEventListener("change", ({ target }) => {
  choose(target.checked ? [...chosen, target.value] : chosen.filter((id) => id !== target.value));
});
form.addEventListener("submit", (event) => {
  event.preventDefault(); // it would send only what hangs on this page
  if (chosen.length) location.assign(link());
});
none.addEventListener("click", () => choose([]));
copy.addEventListener("click", async () => {
  try {
    await navigator.clipboard.writeText(link());
    copy.textContent = "Link copied";
    announce("The link to this exhibition is copied.");
    clearTimeout(reset);
    reset = setTimeout(() => (copy.textContent = "Copy link"), COPIED_FOR);
  } catch {
    error.textContent = `The browser does not let this page copy. The link is ${link()}`;
  }
});
new MutationObserver(show).observe(wall, { childList: true });
addEventListener("pageshow", show); // a browser restores check boxes by itself
show();
