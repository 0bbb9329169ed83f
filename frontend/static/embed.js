// The page of a frame on another site: the browser's own controls give way to a line with the red dot.

const AGAIN = 15_000; // milliseconds after which an unfinished walk is looked at again
const SCALE = 1000; // steps of the line

function takeOver(film) {
  const line = document.createElement("div");
  line.className = "line";
  line.innerHTML = '<button type="button">Play</button><input type="range" min="0" value="0" aria-label="Place on the walk">';
  const [button, dot] = line.children;
  dot.max = SCALE;
  const show = () => {
    if (film.duration) dot.value = (SCALE * film.currentTime) / film.duration;
    dot.setAttribute("aria-valuetext", film.paused ? `${Math.round((100 * dot.value) / SCALE)} %` : "playing");
  };
  const follow = () => {
    show();
    if (!film.paused) requestAnimationFrame(follow);
  };
  const toggle = () => (film.paused ? film.play().catch(() => { /* the browser says why in its own words */ }) : film.pause());
  button.addEventListener("click", toggle);
  film.addEventListener("click", toggle);
  film.addEventListener("play", () => {
    button.textContent = "Pause";
    follow();
  });
  film.addEventListener("pause", () => (button.textContent = "Play"));
  dot.addEventListener("input", () => {
    film.pause();
    film.currentTime = (film.duration || 0) * Math.min(dot.value / SCALE, 0.9999); // the very end would be the first frame
  });
  const begin = () => {
    film.removeAttribute("poster"); // the middle of the walk, whereas the dot is at its beginning
    film.currentTime = 0; // Chromium would paint nothing in its place
  };
  if (film.readyState >= HTMLMediaElement.HAVE_CURRENT_DATA) begin();
  else film.addEventListener("loadeddata", begin, { once: true });
  film.controls = false;
  film.closest(".frame").after(line);
}

const film = document.querySelector("video");
if (film) takeOver(film);
const unfinished = document.querySelector("[data-again]");
if (unfinished) setTimeout(lookAgain, AGAIN);

/** Loads the page again, once it is in sight: in a tab that is shown, at a place to which its page is scrolled. */
function lookAgain() {
  let inView = false;
  const look = () => inView && !document.hidden && location.reload();
  document.addEventListener("visibilitychange", look);
  new IntersectionObserver((seen) => {
    inView = seen.at(-1).isIntersecting;
    look();
  }).observe(unfinished);
}
