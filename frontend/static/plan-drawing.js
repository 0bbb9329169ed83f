import { motion } from "./motion.js";
import { MOST_FRAMES } from "./request-body.js";
import { html, nothing, render, svg } from "./vendor/lit-html.js";

const HERE = 1.15; // radius of the red dot, in hundredths of the drawing
const SIDE = 7; // of a frame at its place
const STEP = 6; // seconds from one stop to the next

/**
 * What hangs on the wall before there are pictures: the plan of a walk. Each stop is a word, each frame a dot on the
 * way between them, and the red dot stands at the start, or walks while the walk is made; frames that are there hang
 * at their places. Examples, for empty ends, are faint.
 */
class PlanDrawing extends HTMLElement {
  #drawn = "";
  #onMotion = () => this.#move();

  connectedCallback() {
    motion.addEventListener("change", this.#onMotion);
    this.#move();
  }

  disconnectedCallback() {
    motion.removeEventListener("change", this.#onMotion);
  }

  update({ stops, examples: [first, last] = [], frames, loop, pictures = [], walking = false }) {
    const count = Number.isInteger(frames) && frames >= 2 && frames <= MOST_FRAMES ? frames : 24;
    const state = JSON.stringify([stops, first, last, count, loop, pictures, walking]);
    if (state === this.#drawn) return;
    this.#drawn = state;
    const rows = stops.length;
    this.dataset.rows = rows > 6 ? "many" : rows > 2 ? "some" : "two";
    const longest = Math.max(...stops.map((stop) => stop.length));
    this.classList.toggle("long", longest > 60);
    render(
      html`<svg class="plan-way" viewBox="0 0 100 100" aria-hidden="true"><path class="plan-line" d=${line(rows)} />${this.#dots(rows, count, walking)}
        ${pictures.map((picture) => thumbnail(picture, rows, loop))}${walking ? walker(rows) : nothing}</svg>
        <ol class="plan-words" aria-hidden="true">
          ${stops.map((stop, place) => html`<li class=${place % 2 ? "end" : "start"}>
            <span class=${stop.trim() ? "" : "faint"}><bdi>${stop.trim() || (place === 0 ? first : place === rows - 1 ? last : "…")}</bdi></span>
          </li>`)}
        </ol>`,
      this,
    );
    this.#move();
  }

  #move() {
    const way = this.querySelector(".plan-way");
    if (!way) return;
    if (motion.paused) way.pauseAnimations();
    else way.unpauseAnimations();
  }

  #dots(rows, count, walking) {
    const radius = Math.min(0.62, 0.2 + 7 / count);
    return Array.from({ length: count }, (_, index) => {
      const t = index / (count - 1);
      const { x, y } = wayPoint(t, rows);
      return svg`<circle class=${index || walking ? "" : "here"} cx=${x.toFixed(2)} cy=${y.toFixed(2)} r=${(index || walking ? radius : HERE).toFixed(2)} />`;
    });
  }
}

/** The place of t on a way that swings from side to side, a stop at each turn. Stops are rows of equal height. */
function wayPoint(t, rows) {
  const along = t * (rows - 1);
  return { x: 50 - 48.5 * Math.cos(Math.PI * along), y: (100 * (along + 0.5)) / rows };
}

/** A frame at its place, {position, url}; the leg back to the first stop of a closed walk has the way of the others. */
function thumbnail({ position, url }, rows, loop) {
  const along = loop === "closed" ? position * rows : position * (rows - 1);
  const t = along <= rows - 1 ? along / (rows - 1) : rows - along;
  const { x, y } = wayPoint(t, rows);
  return svg`<image class="plan-picture" href=${url} x=${(x - SIDE / 2).toFixed(2)} y=${(y - SIDE / 2).toFixed(2)} width=${SIDE} height=${SIDE} />`;
}

const walker = (rows) =>
  svg`<circle class="here" r=${HERE}><animateMotion dur="${STEP * (rows - 1)}s" repeatCount="indefinite" path=${line(rows)} /></circle>`;

const line = (rows) => {
  const steps = 24 * (rows - 1);
  const at = (step) => wayPoint(step / steps, rows);
  return `M${Array.from({ length: steps + 1 }, (_, step) => `${at(step).x.toFixed(2)} ${at(step).y.toFixed(2)}`).join("L")}`;
};

customElements.define("plan-drawing", PlanDrawing);
