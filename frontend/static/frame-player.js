import { FilmStrip } from "./film-strip.js";
import { FrameStore } from "./frame-store.js";
import { motion } from "./motion.js";
import { MODES, holdsOf, ownMode, ownPlaylist, playlist, resumed } from "./order.js";
import { dwell, nearest } from "./pace.js";
import { html, render, svg } from "./vendor/lit-html.js";

const SCALE = 4096; // steps of the scrubber from one end of the walk to the other: as fine as frames may lie
const SHARP = 512; // pixels: smaller frames are enlarged to about this with a better filter than CSS has
const SPEEDS = [0.25, 0.5, 1, 2];

const percent = (position) => `${(100 * position).toFixed(3)}%`;
const svgLine = (position, there) =>
  svg`<line class=${there ? "tick there" : "tick"} x1=${percent(position)} x2=${percent(position)} y1=${there ? "30%" : "42%"} y2=${there ? "70%" : "58%"} />`;
const svgStop = (position) => svg`<circle class="stop-mark" cx=${percent(position)} cy="50%" r="3.5" />`;

/**
 * Plays a walk from its frames while more of them arrive, and lets it be scrubbed.
 *
 * Call update(walk, stops) as often as there is news. A frame joins once it is decoded, so that nothing flickers or
 * restarts. data-frames is the number of frames that have joined, data-rank the place of the one in view among them.
 * Tells "firstframe" once, "failed" when a frame could not be had and is tried again, and "joined" when one was.
 */
class FramePlayer extends HTMLElement {
  #store = new FrameStore();
  #strip = null;
  #walk = null;
  #stops = [];
  #list = []; // ranks in the order of showing
  #place = 0; // in the list
  #here = null; // the frame in view
  #mode = "";
  #speed = 1;
  #playing = false;
  #due = 0; // milliseconds left for the frame in view
  #last = 0;
  #request = 0;
  #drawn = 0;
  #dragging = false;
  #onMotion = () => this.#play(!motion.paused);
  #onKey = (event) => this.#key(event);
  #onFullscreen = () => this.#draw();

  constructor() {
    super();
    this.#store.addEventListener("joined", () => this.#joined());
    this.#store.addEventListener("failed", () => this.dispatchEvent(new Event("failed")));
  }

  connectedCallback() {
    motion.addEventListener("change", this.#onMotion);
    document.addEventListener("keydown", this.#onKey);
    document.addEventListener("fullscreenchange", this.#onFullscreen);
    this.#playing = !motion.startsStill;
    this.dataset.frames = this.#store.joined.length;
    this.setAttribute("role", "group");
    this.#draw();
    this.#strip = new FilmStrip(this.querySelector(".strip"));
    this.#strip.update(this.#store.joined);
    this.#showFrame();
  }

  disconnectedCallback() {
    motion.removeEventListener("change", this.#onMotion);
    document.removeEventListener("keydown", this.#onKey);
    document.removeEventListener("fullscreenchange", this.#onFullscreen);
    cancelAnimationFrame(this.#request);
    cancelAnimationFrame(this.#drawn);
    this.#request = this.#drawn = 0;
    this.#strip.close();
  }

  /** Whether a frame waits to be tried again. */
  get failing() {
    return this.#store.failing;
  }

  /** `stops` are {prompt, position}. */
  update(walk, stops) {
    this.#walk = walk;
    this.#stops = stops;
    this.#mode ||= ownMode(walk.settings.loop);
    this.setAttribute("aria-label", `Walk from ${walk.prompts.join(" to ")}`);
    if (this.isConnected) this.#draw();
    this.#store.update(walk.frames);
    this.#order();
  }

  #draw() {
    const walk = this.#walk;
    const label = walk ? `Walk from ${walk.prompts.join(" to ")}` : "Walk";
    const numbered = this.#stops.length > 3;
    const full = document.fullscreenElement === this;
    render(
      html`<div class="frame"><div class="mat">
          <canvas class="work" role="img" aria-label=${label} @click=${() => this.#toggle()}></canvas>
        </div></div>
        <div class="controls">
          <button type="button" class="play" @click=${() => this.#toggle()}>${this.#playing ? "Pause" : "Play"}</button>
          <div class="line">
            <canvas class="strip" aria-hidden="true"></canvas>
            <svg class="marks" aria-hidden="true"><line class="way" x1="0" x2="100%" y1="50%" y2="50%" />
              ${this.#marks()}</svg>
            <input type="range" class="scrubber" min="0" max=${SCALE} step="1" value="0" aria-label="Place on the walk"
              @pointerdown=${() => (this.#dragging = true)} @pointerup=${() => this.#letGo()} @pointercancel=${() => this.#letGo()}
              @input=${() => this.#scrub()} />
            <ol class="stop-names" aria-hidden="true">
              ${this.#stops.map(({ prompt }, place) => html`<li title=${prompt}><span dir="auto">${numbered ? place + 1 : prompt}</span></li>`)}
            </ol>
          </div>
          <div class="manner">
            <label><span>Loop</span> <select class="mode" @change=${(event) => this.#setMode(event.target.value)}>
              ${Object.entries(MODES).map(([mode, words]) => html`<option value=${mode} ?selected=${mode === this.#mode}>${words}</option>`)}
            </select></label>
            <label><span>Speed</span> <select class="speed" @change=${(event) => this.#setSpeed(Number(event.target.value))}>
              ${SPEEDS.map((speed) => html`<option value=${speed} ?selected=${speed === this.#speed}>${speed}×</option>`)}
            </select></label>
            <span class="where" aria-hidden="true"></span>
            <button type="button" class="plain full" ?hidden=${!document.fullscreenEnabled} @click=${() => this.#fullScreen()}>${full ? "Leave full screen" : "Full screen"}</button>
          </div>
        </div>`,
      this,
    );
    this.#placeNames();
  }

  #marks() {
    if (!this.#walk) return "";
    const there = new Set(this.#store.positions);
    const ticks = this.#walk.frames.filter(({ position }) => Number.isFinite(position)).map(({ position }) => position);
    const tick = (position) => svgLine(position, there.has(position));
    return [...ticks.map(tick), ...this.#stops.map(({ position }) => svgStop(position))];
  }

  /** Names stand under their stops; CSS may not be written into the page's markup, so it is set here. */
  #placeNames() {
    this.querySelectorAll(".stop-names li").forEach((name, place) => {
      name.style.insetInlineStart = `${100 * this.#stops[place].position}%`;
      name.dataset.end = place === 0 ? "first" : place === this.#stops.length - 1 ? "last" : "";
    });
  }

  #joined() {
    const { joined } = this.#store;
    this.dataset.frames = joined.length;
    if (!this.#here) {
      this.#here = joined[0];
      this.dispatchEvent(new Event("firstframe"));
    }
    this.dispatchEvent(new Event("joined"));
    this.#order();
    if (!this.isConnected) return;
    this.#strip?.update(joined);
    this.#drawn ||= requestAnimationFrame(() => {
      this.#drawn = 0; // many join at once: one drawing for all of them
      this.#draw();
      this.#showFrame();
    });
  }

  /** Makes the list anew, and goes on in it at the frame in view. */
  #order() {
    const { joined, positions } = this.#store;
    if (!joined.length || !this.#walk) return;
    const forward = this.#goesForward();
    const { sequence, frames, settings } = this.#walk;
    const own = sequence ? ownPlaylist(sequence, frames, positions) : playlist(joined.length, ownMode(settings.loop));
    this.#list = this.#mode === ownMode(settings.loop) && own.length
      ? own
      : playlist(joined.length, this.#mode, holdsOf(own, joined.length));
    this.#place = resumed(this.#list, joined.indexOf(this.#here), forward);
    this.#run();
  }

  #goesForward() {
    const here = this.#list[this.#place];
    const next = this.#list.slice(this.#place).find((rank) => rank !== here);
    return next === undefined || next > here;
  }

  #setMode(mode) {
    this.#mode = mode;
    this.#order();
    if (mode !== "once" && !motion.paused) this.#play(true);
  }

  #setSpeed(speed) {
    this.#speed = speed;
    this.#due = Math.min(this.#due, this.#pause());
  }

  #pause() {
    return dwell(this.#store.joined.length, this.#walk.frames_total, this.#walk.settings.fps || 12, this.#speed);
  }

  #toggle() {
    if (this.#playing) return this.#play(false);
    motion.set(false, { remember: false });
    if (this.#mode === "once" && this.#place >= this.#list.length - 1) this.#place = 0;
    this.#play(true);
  }

  #play(playing) {
    this.#playing = playing;
    this.#draw();
    this.#showFrame();
    this.#run();
  }

  /** Arrow keys work on the whole page, but where they have another meaning: in fields. */
  #key(event) {
    if (event.defaultPrevented || event.altKey || event.ctrlKey || event.metaKey || event.shiftKey) return;
    const inside = this.contains(event.target);
    const field = event.target.closest?.("input:not(.scrubber), select, textarea");
    if (field || !this.#here || (!inside && event.target !== document.body && !event.target.closest?.("main"))) return;
    const rank = this.#store.joined.indexOf(this.#here);
    const scrubbing = event.target.matches?.(".scrubber");
    const steps = { ArrowRight: rank + 1, ArrowLeft: rank - 1 };
    if (inside) Object.assign(steps, { Home: 0, End: this.#store.joined.length - 1 });
    if (scrubbing) Object.assign(steps, { ArrowUp: rank + 1, ArrowDown: rank - 1, PageUp: rank + 10, PageDown: rank - 10 });
    if (event.key in steps) {
      this.#play(false);
      this.#go(steps[event.key]);
    } else if (inside && event.key === " " && !event.target.matches?.("button")) this.#toggle();
    else if (inside && event.key === "f") this.#fullScreen();
    else return;
    event.preventDefault();
  }

  #letGo() {
    this.#dragging = false;
    this.#showFrame();
  }

  /** The frame nearest to the scrubber; a step too small to reach another frame (from assistive technology) takes the next. */
  #scrub() {
    if (this.#playing) this.#play(false);
    if (!this.#here) return;
    const { joined, positions } = this.#store;
    const wanted = this.querySelector(".scrubber").valueAsNumber / SCALE;
    const rank = joined.indexOf(this.#here);
    const found = nearest(positions, wanted);
    this.#go(found === rank && !this.#dragging ? rank + Math.sign(wanted - this.#here.position) : found);
  }

  #go(rank) {
    const { joined } = this.#store;
    const goal = Math.min(Math.max(rank, 0), joined.length - 1);
    this.#here = joined[goal];
    this.#place = resumed(this.#list, goal, true);
    this.#due = this.#pause();
    this.#showFrame();
  }

  async #fullScreen() {
    if (document.fullscreenElement) await document.exitFullscreen();
    else await this.requestFullscreen().catch(() => { /* the browser says no, and the page stays as it is */ });
  }

  #showFrame() {
    const canvas = this.querySelector(".work");
    if (!this.#here || !canvas) return;
    const { picture, width: wide, height: high, position } = this.#here;
    const enlarge = Math.max(1, Math.ceil(SHARP / Math.max(wide, high)));
    const [width, height] = [wide * enlarge, high * enlarge];
    if (canvas.width !== width || canvas.height !== height) {
      Object.assign(canvas, { width, height });
      this.style.setProperty("--ratio", width / height);
    }
    const pen = canvas.getContext("2d");
    pen.imageSmoothingQuality = "high";
    pen.drawImage(picture, 0, 0, width, height);
    const rank = this.#store.joined.indexOf(this.#here);
    this.dataset.rank = rank;
    const scrubber = this.querySelector(".scrubber");
    if (!this.#dragging) scrubber.value = Math.round(position * SCALE);
    const where = `frame ${rank + 1} of ${this.#store.joined.length}`;
    scrubber.setAttribute("aria-valuetext", this.#playing ? "playing" : `${where}${this.#nameHere(position)}`);
    this.querySelector(".where").textContent = `${rank + 1} / ${this.#store.joined.length}`;
  }

  #nameHere(position) {
    const stop = this.#stops.find((known) => Math.abs(known.position - position) < 1e-9);
    return stop ? `, ${stop.prompt}` : "";
  }

  #run() {
    if (this.#request || !this.#playing || this.#list.length < 2 || !this.isConnected) return;
    this.#last = performance.now();
    this.#due = this.#pause();
    this.#request = requestAnimationFrame((now) => this.#tick(now));
  }

  #tick(now) {
    this.#request = 0;
    if (!this.#playing) return;
    const pause = this.#pause();
    this.#due = Math.min(this.#due, pause) - Math.max(0, now - this.#last);
    this.#last = now;
    if (this.#due <= 0) {
      this.#due = Math.max(0, this.#due + pause);
      const next = this.#place + 1;
      if (next >= this.#list.length && this.#mode === "once") return this.#play(false);
      this.#place = next % this.#list.length;
      this.#here = this.#store.joined[this.#list[this.#place]];
      this.#showFrame();
    }
    this.#request = requestAnimationFrame((time) => this.#tick(time));
  }
}

customElements.define("frame-player", FramePlayer);
