import { announce } from "./announce.js";
import { motion } from "./motion.js";

const wall = document.querySelector(".wall");
const onward = document.querySelector(".onward");
const error = document.getElementById("gallery-error");
const MOST = 480; // walks on one wall; each further one would come more slowly
let playing = null; // the piece whose film runs

/** A still plays its film while it is pointed at, focused or tapped; one at a time, and not while all is still. */
function play(link) {
  if (playing?.link === link || motion.paused || !link.dataset.film) return;
  still();
  const film = document.createElement("video");
  Object.assign(film, { muted: true, loop: true, playsInline: true, src: link.dataset.film });
  film.setAttribute("aria-hidden", "true");
  film.addEventListener("playing", () => film.classList.add("running"), { once: true });
  link.querySelector(".hanging").append(film);
  link.classList.add("plays");
  playing = { link, film };
  film.play().catch(() => still()); // the browser saves data or power, and the still is there
}

function still() {
  if (!playing) return;
  playing.film.pause();
  playing.film.removeAttribute("src");
  playing.film.remove();
  playing.link.classList.remove("plays");
  playing = null;
}

const pieceOf = (event) => event.target.closest?.("a[data-film]");

wall.addEventListener("pointerover", (event) => {
  if (event.pointerType !== "touch" && pieceOf(event)) play(pieceOf(event));
});
wall.addEventListener("pointerout", (event) => {
  if (event.pointerType !== "touch" && playing && !playing.link.contains(event.relatedTarget)) still();
});
wall.addEventListener("focusin", (event) => {
  if (pieceOf(event)?.matches(":focus-visible")) play(pieceOf(event));
});
wall.addEventListener("focusout", still);
wall.addEventListener("click", (event) => {
  // The first tap plays, the second opens.
  const link = pieceOf(event);
  if (event.pointerType !== "touch" || !link || !event.target.closest(".hanging") || motion.paused || playing?.link === link) return;
  event.preventDefault();
  play(link);
});
motion.addEventListener("change", () => motion.paused && still());

/**
 * The next page of the gallery, from the page that the link leads to: the server alone knows how a piece is hung.
 * When the wall is full, the link is followed: however many walks there are, a page stays smooth.
 */
onward.addEventListener("click", async (event) => {
  const more = event.target.closest(".more");
  if (!more || event.ctrlKey || event.metaKey || event.shiftKey || event.button || wall.children.length >= MOST) return;
  event.preventDefault();
  if (more.ariaBusy === "true") return;
  more.ariaBusy = "true";
  error.textContent = "";
  try {
    const answer = await fetch(more.href, { headers: { Accept: "text/html" } });
    if (!answer.ok) throw new TypeError(String(answer.status));
    const page = new DOMParser().parseFromString(await answer.text(), "text/html");
    const pieces = [...page.querySelectorAll(".wall > .piece")];
    wall.append(...pieces);
    onward.replaceChildren(...page.querySelector(".onward").childNodes);
    const further = onward.querySelector(".more");
    if (further && wall.children.length >= MOST) further.textContent = "Walk on to the next room";
    pieces[0]?.querySelector("a").focus({ preventScroll: true });
    announce(`${pieces.length} more walks.`);
  } catch (failure) {
    if (!(failure instanceof TypeError)) throw failure;
    error.textContent = navigator.onLine
      ? "The museum does not answer just now. Load more once again in a moment."
      : "You are offline. The walks that hang here stay; load more when you are back.";
    more.ariaBusy = "false";
  }
});
