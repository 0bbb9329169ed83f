import { make } from "./dom.js";
import { motion } from "./motion.js";
import { advance, dwell, nearest } from "./pace.js";

const SCALE = 1000; // steps of the scrubber from one end of the walk to the other
const SHARP = 768; // pixels: small frames are enlarged to about this with a better filter than CSS has
const ATTEMPTS = 4;

/**
 * Plays a walk from its frames, to and fro, while more of them arrive.
 *
 * Call update({frames, total, fps, label}) as often as there is news; frames are {position, url}. A frame joins
 * once it is decoded, so that nothing flickers or restarts. data-frames is the number of frames that have joined,
 * data-index the place of the one in view among them.
 */
class FramePlayer extends HTMLElement {
  #joined = []; // {position, image}, in the order of the walk
  #known = new Map(); // position → {url, attempts, loading}; the index of a frame changes while others are placed
  #here = null; // the frame in view
  #forward = true;
  #playing = false;
  #total = 2;
  #fps = 12;
  #due = 0; // milliseconds left for the frame in view
  #last = 0;
  #request = 0;
  #dragging = false;
  #canvas = make("canvas", { role: "img", className: "canvas" });
  #marks = make("div", { className: "marks" });
  #line = make("input", { type: "range", className: "scrubber", min: 0, max: SCALE, step: 1, value: 0 });
  #button = make("button", { type: "button", className: "play" });
  #onMotion = () => (motion.paused ? this.pause() : this.play());

  connectedCallback() {
    if (!this.firstChild) this.#build();
    motion.addEventListener("change", this.#onMotion);
    this.#playing = !motion.startsStill;
    if (this.#playing) motion.set(false, { remember: false });
    this.#showState();
  }

  disconnectedCallback() {
    motion.removeEventListener("change", this.#onMotion);
    cancelAnimationFrame(this.#request);
    this.#request = 0;
  }

  update({ frames, total, fps, label }) {
    this.#total = total;
    this.#fps = fps || 12;
    this.setAttribute("aria-label", label);
    this.#canvas.setAttribute("aria-label", label);
    const placed = frames.filter((frame) => Number.isFinite(frame.position));
    this.#drawMarks(placed);
    for (const frame of placed) if (frame.url) this.#load(frame);
  }

  play() {
    if (this.#playing) return;
    this.#playing = true;
    this.#showState();
  }

  pause() {
    if (!this.#playing) return;
    this.#playing = false;
    this.#showState();
  }

  #build() {
    this.setAttribute("role", "group");
    this.dataset.frames = this.#joined.length;
    this.#marks.setAttribute("aria-hidden", "true");
    this.#line.setAttribute("aria-label", "Place on the walk");
    this.append(
      make("div", { className: "picture" }, this.#canvas),
      make("div", { className: "controls" }, this.#button, make("div", { className: "line" }, this.#marks, this.#line)),
    );
    this.#button.addEventListener("click", () => this.#toggle());
    this.#canvas.addEventListener("click", () => this.#toggle());
    this.#line.addEventListener("pointerdown", () => (this.#dragging = true));
    for (const end of ["pointerup", "pointercancel"]) {
      this.#line.addEventListener(end, () => {
        this.#dragging = false;
        this.#showFrame();
      });
    }
    this.#line.addEventListener("input", () => this.#scrub());
    this.addEventListener("keydown", (event) => this.#onKey(event));
  }

  #toggle() {
    if (this.#playing) return this.pause();
    motion.set(false, { remember: false });
    this.play();
  }

  #onKey(event) {
    if (event.altKey || event.ctrlKey || event.metaKey || event.shiftKey || !this.#joined.length) return;
    const rank = this.#joined.indexOf(this.#here);
    const target = {
      ArrowRight: rank + 1, ArrowUp: rank + 1, ArrowLeft: rank - 1, ArrowDown: rank - 1,
      Home: 0, End: this.#joined.length - 1,
    }[event.key];
    if (target !== undefined) {
      this.pause();
      this.#go(target);
    } else if (event.key === " " && event.target !== this.#button) this.#toggle();
    else return;
    event.preventDefault();
  }

  /** The frame nearest to the scrubber; a step too small to reach another frame (from assistive technology) takes the next. */
  #scrub() {
    this.pause();
    if (!this.#here) return;
    const wanted = this.#line.valueAsNumber / SCALE;
    const rank = this.#joined.indexOf(this.#here);
    const found = nearest(this.#joined, wanted);
    this.#go(found === rank && !this.#dragging ? rank + Math.sign(wanted - this.#here.position) : found);
  }

  async #load({ position, url }) {
    const known = this.#known.get(position) ?? { attempts: 0 };
    if (known.loading || known.image || (known.attempts >= ATTEMPTS && known.url === url)) return;
    if (known.url !== url) known.attempts = 0;
    Object.assign(known, { url, loading: true, attempts: known.attempts + 1 });
    this.#known.set(position, known);
    const image = new Image();
    image.src = url;
    try {
      await image.decode();
      known.image = image;
      this.#join({ position, image });
    } catch {
      setTimeout(() => this.#load({ position, url }), 1000 * 2 ** known.attempts);
    } finally {
      known.loading = false;
    }
  }

  #join(frame) {
    const after = this.#joined.findIndex(({ position }) => position > frame.position);
    this.#joined.splice(after < 0 ? this.#joined.length : after, 0, frame);
    this.dataset.frames = this.#joined.length;
    this.#marks.querySelector(`[data-position="${frame.position}"]`)?.classList.add("there");
    if (!this.#here) this.dispatchEvent(new Event("firstframe"));
    this.#here ??= frame;
    this.#showFrame();
    this.#run();
  }

  #drawMarks(frames) {
    for (const { position } of frames) {
      let mark = this.#marks.querySelector(`[data-position="${position}"]`);
      if (!mark) {
        mark = make("span");
        mark.dataset.position = position;
        this.#marks.append(mark);
      }
      mark.style.left = `${100 * position}%`;
    }
  }

  #showState() {
    this.#button.textContent = this.#playing ? "Pause" : "Play";
    this.#line.setAttribute("aria-valuetext", this.#playing ? "playing" : this.#placeWords());
    this.#run();
  }

  #placeWords() {
    return this.#here ? `frame ${this.#joined.indexOf(this.#here) + 1} of ${this.#joined.length}` : "no frames yet";
  }

  #go(rank) {
    this.#here = this.#joined[Math.min(Math.max(rank, 0), this.#joined.length - 1)];
    this.#due = dwell(this.#joined.length, this.#total, this.#fps);
    this.#showFrame();
  }

  #showFrame() {
    if (!this.#here) return;
    const { image, position } = this.#here;
    const enlarge = Math.max(1, Math.ceil(SHARP / Math.max(image.naturalWidth, image.naturalHeight)));
    const [width, height] = [image.naturalWidth * enlarge, image.naturalHeight * enlarge];
    if (this.#canvas.width !== width || this.#canvas.height !== height) Object.assign(this.#canvas, { width, height });
    const pen = this.#canvas.getContext("2d");
    pen.imageSmoothingQuality = "high";
    pen.drawImage(image, 0, 0, width, height);
    this.dataset.index = this.#joined.indexOf(this.#here);
    if (!this.#dragging) this.#line.value = Math.round(position * SCALE);
    if (!this.#playing) this.#line.setAttribute("aria-valuetext", this.#placeWords());
  }

  #run() {
    if (this.#request || !this.#playing || this.#joined.length < 2 || !this.isConnected) return;
    this.#last = performance.now();
    this.#due = dwell(this.#joined.length, this.#total, this.#fps);
    this.#request = requestAnimationFrame((now) => this.#tick(now));
  }

  #tick(now) {
    this.#request = 0;
    if (!this.#playing) return;
    const pause = dwell(this.#joined.length, this.#total, this.#fps);
    this.#due = Math.min(this.#due, pause) - Math.max(0, now - this.#last);
    this.#last = now;
    if (this.#due <= 0) {
      this.#due = Math.max(0, this.#due + pause);
      const rank = this.#joined.indexOf(this.#here);
      const next = advance(rank, this.#joined.length, this.#forward);
      this.#forward = next.forward;
      this.#here = this.#joined[next.rank];
      this.#showFrame();
    }
    this.#request = requestAnimationFrame((time) => this.#tick(time));
  }
}

customElements.define("frame-player", FramePlayer);
