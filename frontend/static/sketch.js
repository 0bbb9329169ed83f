import { make } from "./dom.js";

const SVG = "http://www.w3.org/2000/svg";

/** What hangs on the wall before there are pictures: two names and a dotted walk between them. */
export function makeSketch() {
  const from = make("p", { className: "sketch-from", dir: "auto" });
  const to = make("p", { className: "sketch-to", dir: "auto" });
  const path = document.createElementNS(SVG, "svg");
  path.setAttribute("viewBox", "0 0 100 36");
  const element = make("div", { className: "sketch" }, from, path, to);
  element.setAttribute("aria-hidden", "true");
  let drawn = 0;

  function show(prompts, frames, faint = [false, false]) {
    from.textContent = prompts[0];
    to.textContent = prompts.at(-1);
    from.classList.toggle("faint", faint[0]);
    to.classList.toggle("faint", faint[1]);
    for (const words of [from, to]) words.classList.toggle("long", words.textContent.length > 60);
    if (Number.isInteger(frames) && frames >= 2 && frames <= 240 && frames !== drawn) {
      drawn = frames;
      path.replaceChildren(...Array.from({ length: frames }, (_, place) => dot(place / (frames - 1), frames)));
    }
  }

  return { element, show };
}

/** A dot at t on an S-shaped walk from the upper left to the lower right. */
function dot(t, frames) {
  const circle = document.createElementNS(SVG, "circle");
  circle.setAttribute("cx", (2 + 96 * t).toFixed(2));
  circle.setAttribute("cy", (18 - 15 * Math.cos(Math.PI * t)).toFixed(2));
  circle.setAttribute("r", t === 0 ? 1.1 : Math.min(0.7, 0.22 + 8 / frames).toFixed(2));
  if (t === 0) circle.setAttribute("class", "here");
  return circle;
}
