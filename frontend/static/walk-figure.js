import { TRAVELLED } from "./figure-data.js";
import { motion } from "./motion.js";
import { equalSteps, evenSteps, largestJump, travelledAt } from "./spacing.js";
import { html, render, svg } from "./vendor/lit-html.js";

const SIDE = 128; // pixels of a picture in the sheet
const SECONDS = 6; // from one end to the other and back: twice this
const [WIDTH, HEIGHT] = [600, 240]; // units of the drawing

/**
 * What a latent walk is: a line between two prompts, points on it, and how far the picture has come at each.
 *
 * The pictures are frames of a real walk. The points can be in equal steps or in steps that are even to the eye.
 */
class WalkFigure extends HTMLElement {
  #even = true;
  #count = 9;
  #t = 0;
  #moving = !motion.paused;
  #since = 0;
  #request = 0;
  #sheet = new Image();

  connectedCallback() {
    this.replaceChildren();
    this.#draw();
    this.#sheet.src = "/static/figure.webp";
    this.#sheet.decode().then(() => this.#paint());
    motion.addEventListener("change", () => this.#move(!motion.paused));
    // Nothing moves out of sight.
    new IntersectionObserver(([{ isIntersecting }]) => (isIntersecting ? this.#run() : this.#halt())).observe(this);
    new ResizeObserver(() => this.#paint()).observe(this);
  }

  get #points() {
    return this.#even ? evenSteps(TRAVELLED, this.#count) : equalSteps(this.#count);
  }

  #draw() {
    const points = this.#points;
    const jump = largestJump(TRAVELLED, points);
    render(
      html`<figure class="plate">
        <div class="plate-picture"><div class="frame"><div class="mat"><canvas class="work" width="512" height="512" role="img" aria-label="The picture at this place of the line"></canvas></div></div></div>
        <div class="plate-drawing">
          <p class="axis" aria-hidden="true">How far the picture has come</p>
          <div class="plot"><svg class="curve" viewBox="0 0 ${WIDTH} ${HEIGHT + 40}" role="img" aria-label=${`A line from “a giraffe” to “a battleship” with ${this.#count} points, and a curve above it that shows how far the picture has come.`}>
            <path class="shares" d=${points.map((t) => `M${x(t)} ${HEIGHT + 12}V${y(travelledAt(TRAVELLED, t))}H0`).join("")} />
            <path class="far" d=${`M${TRAVELLED.map((far, place) => `${x(place / (TRAVELLED.length - 1))} ${y(far)}`).join("L")}`} />
            <path class="way" d="M0 ${HEIGHT + 20}H${WIDTH}" />
            ${points.map((t) => svg`<circle class="point" cx=${x(t)} cy=${HEIGHT + 20} r="5" />`)}
            <circle class="walker" cx="0" cy=${HEIGHT + 20} r="8" />
            <circle class="walker" cx="0" cy="0" r="4" />
          </svg>
          <input type="range" class="scrub" min="0" max="1000" value="0" aria-label="Place on the line" @input=${(event) => this.#scrub(event.target)} /></div>
          <p class="ends" aria-hidden="true"><i>a giraffe</i><span class="axis">Place on the line</span><i>a battleship</i></p>
        </div>
        <canvas class="row-of-frames" role="img" aria-label=${`${this.#count} pictures of the walk, in ${this.#even ? "even" : "equal"} steps`}></canvas>
        <figcaption>
          <fieldset><legend class="visually-hidden">Steps</legend>
            <label><input type="radio" name="steps" .checked=${this.#even} @change=${() => this.#choose(true)} /> Even to the eye</label>
            <label><input type="radio" name="steps" .checked=${!this.#even} @change=${() => this.#choose(false)} /> Equal steps</label>
          </fieldset>
          <label class="count"><span>Points</span> <input class="number" type="range" aria-label="Points" min="3" max="17" value=${this.#count} aria-valuetext=${`${this.#count} points`} @input=${(event) => this.#setCount(event.target.valueAsNumber)} /> <output>${this.#count}</output></label>
          <button type="button" class="plain" @click=${() => this.#toggle()}>${this.#moving ? "Pause" : "Play"}</button>
          <p class="largest-step" role="status">From one point to the next the picture changes by up to ${jump} % of its way.</p>
        </figcaption>
      </figure>`,
      this,
    );
    this.#paint();
  }

  #choose(even) {
    this.#even = even;
    this.#draw();
  }

  #setCount(count) {
    this.#count = count;
    this.#draw();
  }

  #scrub(input) {
    this.#move(false);
    this.#t = input.valueAsNumber / 1000;
    this.#paint();
  }

  #toggle() {
    if (!this.#moving) motion.set(false, { remember: false });
    this.#move(!this.#moving);
  }

  #move(moving) {
    if (this.#moving === moving) return;
    this.#moving = moving;
    this.#draw();
    this.#run();
  }

  /** The walker goes from point to point, as an animation of these points would show them; `now` may lie before `since`. */
  #run() {
    if (this.#request || !this.#moving) return;
    this.#since = performance.now();
    const start = this.#points.findIndex((t) => t >= this.#t);
    const tick = (now) => {
      this.#request = 0;
      if (!this.#moving) return;
      const steps = 2 * (this.#count - 1);
      const step = (Math.max(start, 0) + Math.floor((Math.max(0, now - this.#since) / 1000 / SECONDS) * (this.#count - 1))) % steps;
      const t = this.#points[step < this.#count ? step : steps - step];
      if (t !== this.#t) {
        this.#t = t;
        this.#paint();
      }
      this.#request = requestAnimationFrame(tick);
    };
    this.#request = requestAnimationFrame(tick);
  }

  #halt() {
    cancelAnimationFrame(this.#request);
    this.#request = 0;
  }

  #paint() {
    const [onLine, onCurve] = this.querySelectorAll(".walker");
    onLine.setAttribute("cx", x(this.#t));
    onCurve.setAttribute("cx", x(this.#t));
    onCurve.setAttribute("cy", y(travelledAt(TRAVELLED, this.#t)));
    const scrub = this.querySelector(".scrub");
    scrub.value = Math.round(1000 * this.#t);
    scrub.setAttribute("aria-valuetext", this.#moving ? "walking" : `${Math.round(100 * this.#t)} % of the line`);
    if (!this.#sheet.naturalWidth) return;
    this.#picture(this.querySelector(".work").getContext("2d"), this.#t, 0, 0, 512);
    this.#row();
  }

  #row() {
    const canvas = this.querySelector(".row-of-frames");
    const width = Math.round(canvas.clientWidth * devicePixelRatio);
    const side = Math.floor(width / this.#count);
    if (canvas.width !== width || canvas.height !== side) Object.assign(canvas, { width, height: side });
    const pen = canvas.getContext("2d");
    const onLine = this.querySelector(".walker");
    const gap = Math.max(2, Math.round(side * 0.03));
    pen.clearRect(0, 0, width, side);
    this.#points.forEach((t, place) => {
      this.#picture(pen, t, place * side, 0, side - gap);
      if (Math.abs(t - this.#t) > 1e-9) return;
      pen.fillStyle = getComputedStyle(onLine).fill;
      pen.fillRect(place * side, side - 3 * devicePixelRatio, side - gap, 3 * devicePixelRatio);
    });
  }

  #picture(pen, t, left, top, side) {
    const index = Math.round(t * (TRAVELLED.length - 1));
    pen.imageSmoothingQuality = "high";
    pen.drawImage(this.#sheet, index * SIDE, 0, SIDE, SIDE, left, top, side, side);
  }
}

const x = (t) => Number((WIDTH * t).toFixed(2));
const y = (far) => Number((HEIGHT * (1 - far)).toFixed(2));

customElements.define("walk-figure", WalkFigure);
