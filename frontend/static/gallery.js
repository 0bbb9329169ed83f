import { announce } from "./announce.js";
import { motion } from "./motion.js";

const wall = document.querySelector(".wall");
const onward = document.querySelector(".onward");
const error = document.getElementById("gallery-error");
const MOST = 480; // walks on one wall; each further one would come more slowly
const films = new Map(); // link → the film that it shows

/** Between its two ends, a walk plays while it is pointed at, focused or, where nothing points, in view. */
function play(link) {
  if (films.has(link) || motion.paused || !link.dataset.film) return;
  const film = document.createElement("video");
  Object.assign(film, { muted: true, loop: true, playsInline: true, src: link.dataset.film });
  film.dataset.fresh = link.dataset.fresh;
  film.setAttribute("aria-hidden", "true");
  film.addEventListener("playing", () => film.classList.add("running"), { once: true });
  link.querySelector(".hanging").append(film);
  films.set(link, film);
  const end = () => films.get(link) === film && still(link); // the picture is there
  film.addEventListener("error", end);
  film.play().catch((error) => error.name === "NotAllowedError" && end()); // the browser saves data or power
}

function still(link) {
  const film = films.get(link);
  if (!film) return;
  films.delete(link);
  film.pause();
  film.removeAttribute("src");
  film.load(); // lets go of the decoder
  film.remove();
}

const pieceOf = (event) => event.target.closest?.("[data-film]");

wall.addEventListener("pointerover", (event) => {
  if (event.pointerType !== "touch" && pieceOf(event)) play(pieceOf(event));
});
wall.addEventListener("pointerout", (event) => {
  const link = pieceOf(event);
  if (event.pointerType !== "touch" && link && !link.contains(event.relatedTarget)) still(link);
});
wall.addEventListener("focusin", (event) => {
  if (event.target.matches(":focus-visible") && pieceOf(event)) play(pieceOf(event));
});
wall.addEventListener("focusout", (event) => pieceOf(event) && still(pieceOf(event)));

const middle = new IntersectionObserver(
  (seen) => seen.forEach(({ isIntersecting, target }) => (isIntersecting ? play(target) : still(target))),
  { rootMargin: "-25% 0px" },
);

/** Only a touch screen plays what is in its middle, and not where data is to be saved. */
function watch() {
  middle.disconnect(); // observed again, each says where it is
  if (!matchMedia("(hover: none)").matches || navigator.connection?.saveData) return;
  wall.querySelectorAll("[data-film]").forEach((link) => middle.observe(link));
}

watch();
motion.addEventListener("change", () => (motion.paused ? [...films.keys()].forEach(still) : watch()));

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
    watch();
    onward.replaceChildren(...page.querySelector(".onward").childNodes);
    const further = onward.querySelector(".more");
    if (further && wall.children.length >= MOST) further.textContent = "Walk on to the next room";
    pieces[0]?.querySelector("a, input").focus({ preventScroll: true });
    announce(`${pieces.length} more walks.`);
  } catch (failure) {
    if (!(failure instanceof TypeError)) throw failure;
    error.textContent = navigator.onLine
      ? "The museum does not answer just now. Try again in a moment."
      : "You are offline. The walks that hang here stay; load more when you are back.";
    more.ariaBusy = "false";
  }
});
