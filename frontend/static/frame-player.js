import { Film } from "./film.js";
import { FilmStrip } from "./film-strip.js";
import { FrameStore } from "./frame-store.js";
import { toggleFullScreen } from "./full-screen.js";
import { motion } from "./motion.js";
import { holdsOf, ownMode, ownPlaylist, playlist, resumed } from "./order.js";
import { dwell, nearest } from "./pace.js";
import { labelOf, paint, placeNames, playerTemplate, SCALE, shape } from "./player-drawing.js";
import { nothing, render } from "./vendor/lit-html.js";

const SLOWEST_FILM = 0.25; // of its own speed; a walk of so few frames is shown from them

/**
 * Plays a walk and lets it be scrubbed: from its MP4 once there is one, before that from frames while more of them arrive.
 *
 * Call update(walk, stops) as often as there is news. Of a walk that has a film, frames are fetched only when a visitor
 * scrubs or wants another order than the film has; what is not there yet is sought in the film. A frame joins once it is
 * decoded, so that nothing flickers or restarts. data-frames is the number of frames that can be shown, data-loaded the
 * number of those that are loaded, data-rank the place of the one in view. Tells "failed" when a frame could not
 * be had and is tried again, and "joined" when one was; "stands" when it stands at a frame.
 */
class FramePlayer extends HTMLElement {
  /** What is shown in the mat below the picture: an element. */
  caption = nothing;
  #store = new FrameStore();
  #film = null; // none, or none that can be played
  #given = null; // the <video> of the page, which shows a picture until there is another
  #noFilm = false; // whether it cannot be played here
  #strip = null;
  #stills = []; // for the strip, from the film
  #walk = null;
  #stops = [];
  #list = []; // ranks in the order of showing
  #place = 0; // in the list
  #here = null; // the position in view
  #chosen = false; // whether a visitor has chosen it
  #mode = "";
  #speed = 1;
  #playing = false;
  #due = 0; // milliseconds left for the frame in view
  #last = 0;
  #request = 0;
  #drawn = 0;
  #dragging = false;
  #controls = {
    toggle: () => this.#toggle(),
    grab: () => (this.#dragging = true),
    letGo: () => this.#letGo(),
    scrub: () => this.#scrub(),
    setMode: (mode) => this.#setMode(mode),
    setSpeed: (speed) => this.#setSpeed(speed),
    fullScreen: () => toggleFullScreen(this),
  };
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
    this.tabIndex = -1; // so that its keys work after a click on the picture
    this.setAttribute("role", "group");
    this.#draw();
    this.#strip = new FilmStrip(this.querySelector(".strip"));
    this.#strip.update(this.#stills.length ? this.#stills : this.#store.joined);
    if (this.#film?.ready) this.#onFilm();
    this.#showFrame();
  }

  disconnectedCallback() {
    motion.removeEventListener("change", this.#onMotion);
    document.removeEventListener("keydown", this.#onKey);
    document.removeEventListener("fullscreenchange", this.#onFullscreen);
    cancelAnimationFrame(this.#request);
    cancelAnimationFrame(this.#drawn);
    this.#request = this.#drawn = 0;
    this.#film?.pause();
    this.#strip.close();
  }

  /** The position in view, while it stands. */
  get position() {
    return this.#playing ? null : this.#here;
  }

  /** Whether a frame waits to be tried again. */
  get failing() {
    return this.#store.failing;
  }

  /** `stops` are {prompt, position}; `video` is one of the walk's MP4 that the page has already, if any. */
  update(walk, stops, video) {
    this.#walk = walk;
    this.#stops = stops;
    this.#mode ||= ownMode(walk.settings.loop);
    this.setAttribute("aria-label", labelOf(walk));
    this.#given ??= video;
    this.#store.update(walk.frames, walk.settings);
    const url = walk.artifacts.mp4?.url;
    if (url && !this.#film && !this.#noFilm && this.#filmRate >= SLOWEST_FILM) this.#open(new Film(url, walk.settings.fps, video));
    if (!this.#film) this.#store.open();
    if (this.isConnected) this.#draw();
    this.#order();
  }

  #open(film) {
    this.#film = film;
    film.video.dataset.fresh = `/v1/walks/${this.#walk.id}/artifacts/mp4`;
    film.addEventListener("ready", () => this.isConnected && this.#onFilm());
    film.addEventListener("moved", () => this.#showFrame({ moved: true }));
    film.addEventListener("failed", () => {
      this.#film = null;
      this.#noFilm = true;
      this.#store.open();
      if (this.isConnected) this.#draw();
      this.#order();
    });
  }

  /** The film is there: it goes on where the frames are. */
  #onFilm() {
    this.#here ??= this.#positions[0];
    this.#order();
    this.#film.go(this.#place);
    this.#draw();
    this.#play(this.#playing);
    this.#readStrip(this.#film).catch(() => { /* on a slow line the strip has the pictures that came */ });
  }

  async #readStrip(film) {
    if (this.#stills.length) return;
    const positions = this.#positions;
    const ranks = [...new Set(this.#strip.places().map((place) => nearest(positions, place)))];
    const { sequence } = this.#walk;
    const stills = [];
    for await (const { index, ...still } of film.stills(ranks.map((rank) => sequence.indexOf(rank)), this.#strip.side)) {
      stills.push({ ...still, position: positions[sequence[index]] });
      this.#stills = stills;
      this.#strip.update(stills);
    }
  }

  /** How fast the film has to run, as a multiple of its own speed: see `dwell`. */
  get #filmRate() {
    const { frames_total: total, settings: { fps } } = this.#walk;
    return 1000 / fps / dwell(total, total, fps, this.#speed);
  }

  /** Whether the film shows what is wanted, so that frames are for scrubbing only. */
  get #filmed() {
    if (!this.#film?.ready) return false;
    const own = ownMode(this.#walk.settings.loop);
    return this.#filmRate >= SLOWEST_FILM && (this.#mode === own || (this.#mode === "once" && own === "round"));
  }

  /** The positions that can be shown, in order. */
  get #positions() {
    return this.#filmed ? this.#walk.frames.map(({ position }) => position) : this.#store.positions;
  }

  #draw() {
    const parts = {
      walk: this.#walk,
      stops: this.#stops,
      film: this.#film?.video ?? this.#given,
      caption: this.caption,
      positions: this.#positions,
      playing: this.#playing,
      mode: this.#mode,
      speed: this.#speed,
      full: document.fullscreenElement === this,
    };
    render(playerTemplate(parts, this.#controls), this);
    placeNames(this, this.#stops);
    if (this.#walk) shape(this, this.#walk.settings);
  }

  #joined() {
    const { joined } = this.#store;
    this.dataset.loaded = joined.length;
    if (!this.#filmed) {
      // While it stands still and the visitor has not chosen another, the first frame is in view.
      if (this.#here === null || (!this.#chosen && !this.#playing)) this.#here = joined[0].position;
      this.#order();
    }
    this.dispatchEvent(new Event("joined"));
    if (!this.isConnected) return;
    if (!this.#stills.length) this.#strip?.update(joined);
    this.#drawn ||= requestAnimationFrame(() => {
      this.#drawn = 0; // many join at once: one drawing for all of them
      if (!this.#filmed) this.#draw();
      if (!this.#playing || !this.#filmed) this.#showFrame();
    });
  }

  /** Makes the list again, and goes on in it at the frame in view. */
  #order() {
    const positions = this.#positions;
    this.dataset.frames = positions.length;
    this.dataset.loaded = this.#store.joined.length;
    if (!positions.length || !this.#walk) return;
    const forward = this.#goesForward();
    const { sequence, frames, settings } = this.#walk;
    const own = ownPlaylist(sequence, frames, positions);
    this.#list = this.#filmed || (this.#mode === ownMode(settings.loop) && own.length)
      ? own
      : playlist(positions.length, this.#mode, holdsOf(own, positions.length));
    this.#place = resumed(this.#list, nearest(positions, this.#here), forward);
    this.#run();
  }

  #goesForward() {
    const here = this.#list[this.#place];
    const next = this.#list.slice(this.#place).find((rank) => rank !== here);
    return next === undefined || next > here;
  }

  #setMode(mode) {
    this.#mode = mode;
    if (!this.#filmed) this.#store.open();
    this.#order();
    this.#play(this.#playing || (mode !== "once" && !motion.paused));
  }

  #setSpeed(speed) {
    this.#speed = speed;
    if (!this.#filmed) this.#store.open();
    this.#due = Math.min(this.#due, this.#pause());
    this.#order();
    this.#play(this.#playing);
  }

  #pause() {
    return dwell(this.#positions.length, this.#walk.frames_total, this.#walk.settings.fps, this.#speed);
  }

  #toggle() {
    if (this.#playing) return this.#play(false);
    motion.set(false, { remember: false });
    if (this.#mode === "once" && this.#place >= this.#list.length - 1) this.#place = 0;
    this.#play(true);
  }

  #play(playing) {
    this.#playing = playing;
    if (this.#filmed && playing) {
      if (this.#film.index !== this.#place) this.#film.go(this.#place);
      this.#film.play(this.#filmRate, this.#mode !== "once").then((plays) => {
        if (!plays && this.#playing && this.#filmed) this.#play(false);
      });
    } else this.#film?.pause();
    this.#draw();
    this.#showFrame();
    this.#run();
    if (!playing) this.dispatchEvent(new Event("stands"));
  }

  /** Arrow keys work on the whole page, but where they have another meaning: in fields. */
  #key(event) {
    if (event.defaultPrevented || event.altKey || event.ctrlKey || event.metaKey || event.shiftKey) return;
    const inside = this.contains(event.target);
    const field = event.target.closest?.("input:not(.scrubber), select, textarea");
    if (field || this.#here === null || (!inside && event.target !== document.body && !event.target.closest?.("main"))) return;
    const [positions, scrubbing] = [this.#positions, event.target.matches?.(".scrubber")];
    const rank = nearest(positions, this.#here);
    const steps = { ArrowRight: rank + 1, ArrowLeft: rank - 1 };
    if (inside) Object.assign(steps, { Home: 0, End: positions.length - 1 });
    if (scrubbing) Object.assign(steps, { ArrowUp: rank + 1, ArrowDown: rank - 1, PageUp: rank + 10, PageDown: rank - 10 });
    if (event.key in steps) {
      this.#play(false);
      this.#go(steps[event.key]);
    } else if (inside && event.key === " " && !event.target.matches?.("button")) this.#toggle();
    else if (inside && event.key.toLowerCase() === "f") toggleFullScreen(this);
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
    if (this.#here === null) return;
    const positions = this.#positions;
    const wanted = this.querySelector(".scrubber").valueAsNumber / SCALE;
    const rank = nearest(positions, this.#here);
    const found = nearest(positions, wanted);
    this.#go(found === rank && !this.#dragging ? rank + Math.sign(wanted - this.#here) : found);
  }

  #go(rank) {
    const positions = this.#positions;
    this.#here = positions[Math.min(Math.max(rank, 0), positions.length - 1)];
    this.#chosen = true;
    this.#store.look(this.#here);
    if (this.#filmed) this.#place = this.#list.indexOf(nearest(positions, this.#here));
    else this.#order(); // some frames may have gone for others
    this.#due = this.#pause();
    this.#showFrame();
    this.dispatchEvent(new Event("stands"));
  }

  /** Shows the frame in view: itself if it is loaded, else the film at its place, once it has `moved` there. */
  #showFrame({ moved = false } = {}) {
    if (this.#here === null || !this.isConnected) return;
    const positions = this.#positions;
    if (!positions.length) return; // frames are on their way, for an order that the film does not have
    const rank = nearest(positions, this.#here);
    const frame = this.#playing && this.#filmed ? undefined : this.#store.at(positions[rank]);
    if (frame) paint(this, frame.picture);
    else if (this.#film?.ready) {
      if (moved || this.#playing) paint(this, this.#film.video);
      else this.#film.go(this.#list[this.#place] === rank ? this.#place : this.#list.indexOf(rank));
    }
    this.dataset.rank = rank;
    const scrubber = this.querySelector(".scrubber");
    if (!this.#dragging) scrubber.value = Math.round(this.#here * SCALE);
    const where = `frame ${rank + 1} of ${positions.length}`;
    scrubber.setAttribute("aria-valuetext", this.#playing ? "playing" : `${where}${this.#nameHere(this.#here)}`);
    this.querySelector(".where").textContent = `${rank + 1} / ${positions.length}`;
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
    if (this.#filmed) this.#follow();
    else this.#advance(now);
    if (this.#playing) this.#request ||= requestAnimationFrame((time) => this.#tick(time));
  }

  /** Shows what the film shows. */
  #follow() {
    const { video, index } = this.#film;
    const place = Math.min(index, this.#list.length - 1);
    if (place !== this.#place && !video.seeking) {
      this.#place = place;
      this.#here = this.#positions[this.#list[place]];
      this.#showFrame();
    }
    if (video.ended) this.#play(false);
  }

  #advance(now) {
    const pause = this.#pause();
    this.#due = Math.min(this.#due, pause) - Math.max(0, now - this.#last);
    this.#last = now;
    if (this.#due > 0) return;
    this.#due = Math.max(0, this.#due + pause);
    const next = this.#place + 1;
    if (next >= this.#list.length && this.#mode === "once") return void this.#play(false);
    this.#place = next % this.#list.length;
    this.#here = this.#positions[this.#list[this.#place]];
    this.#showFrame();
  }
}

customElements.define("frame-player", FramePlayer);
