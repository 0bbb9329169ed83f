import { announce } from "./announce.js";
import { toggleFullScreen } from "./full-screen.js";
import { motion } from "./motion.js";

const HANGS = 12_000; // milliseconds that a walk is shown at least, before the next one follows
const FADES = 3000; // milliseconds until the controls fade
const SWIPE = 40; // pixels

const stage = document.getElementById("exhibition");

/** Shows one walk after the other, each for some whole rounds, and lets visitors go back and forth. */
class Exhibition {
  #exhibits = [...stage.querySelectorAll(".exhibit")];
  #place = 0;
  #playing = !motion.startsStill;
  #since = 0; // when the walk in view was hung
  #next; // the timer that replaces a film that does not come
  #fade;
  #posters = new Map(); // film → the address of its poster

  constructor() {
    for (const exhibit of this.#exhibits) {
      const film = filmOf(exhibit);
      exhibit.style.setProperty("--ratio", film.width / film.height);
      Object.assign(film, { controls: false, loop: false, muted: true });
      this.#posters.set(film, film.poster);
      film.addEventListener("loadeddata", () => film.removeAttribute("poster")); // not the first frame
      film.addEventListener("ended", () => this.#ended());
      film.addEventListener("error", () => exhibit === this.#here && this.#wait());
    }
    const on = (name, act) => stage.querySelector(name).addEventListener("click", act);
    on(".previous", () => this.#go(-1));
    on(".next", () => this.#go(1));
    on(".pause", () => this.#play(!this.#playing));
    on(".full", () => toggleFullScreen(stage));
    stage.querySelector(".full").hidden = !document.fullscreenEnabled;
    stage.querySelector(".guide").hidden = false;
    document.addEventListener("fullscreenchange", () => {
      stage.querySelector(".full").textContent = document.fullscreenElement ? "Leave full screen" : "Full screen";
    });
    motion.addEventListener("change", () => this.#play(!motion.paused));
    document.addEventListener("keydown", (event) => this.#key(event));
    this.#listenToHands();
    stage.classList.add("exhibiting");
    for (const covered of document.querySelectorAll(".masthead, .beside, .colophon")) covered.inert = true;
    this.#show(Math.max(0, this.#exhibits.findIndex(({ id }) => `#${id}` === location.hash)));
    this.#wake();
  }

  get #here() {
    return this.#exhibits[this.#place];
  }

  #show(place) {
    if (this.#since) stage.querySelector(".notice")?.remove();
    filmOf(this.#here).pause();
    this.#here.classList.remove("here");
    this.#place = (place + this.#exhibits.length) % this.#exhibits.length;
    this.#here.classList.add("here");
    this.#since = performance.now();
    this.#load();
    filmOf(this.#here).currentTime = 0;
    this.#run();
  }

  /** Loads the film in view and the next one, again if it has failed, and releases the others: decoders are few. */
  #load() {
    const next = this.#exhibits[(this.#place + 1) % this.#exhibits.length];
    for (const exhibit of this.#exhibits) {
      const film = filmOf(exhibit);
      if (exhibit === this.#here || exhibit === next) {
        film.preload = "auto";
        if (film.error) film.load();
      } else if (film.preload === "auto") {
        film.preload = "none";
        film.poster = this.#posters.get(film);
        film.src = film.getAttribute("src"); // unlike load(), which would fetch it again
      }
    }
  }

  /** By the hand of a visitor: screen readers say what hangs here now, and the address leads here again. */
  #go(steps) {
    this.#show(this.#place + steps);
    history.replaceState(null, "", `#${this.#here.id}`);
    const [number, title] = [".number", ".title"].map((name) => this.#here.querySelector(name).textContent);
    announce(`${title}, ${number}`);
  }

  #play(playing) {
    this.#playing = playing;
    this.#since = performance.now();
    this.#run();
  }

  #run() {
    clearTimeout(this.#next);
    stage.querySelector(".pause").textContent = this.#playing ? "Pause" : "Play";
    const film = filmOf(this.#here);
    if (!this.#playing) return film.pause();
    if (film.error) return this.#wait();
    film.play().catch((error) => error.name === "NotAllowedError" && this.#play(false)); // the browser saves power
  }

  #wait() {
    clearTimeout(this.#next);
    if (this.#playing) this.#next = setTimeout(() => this.#show(this.#place + 1), HANGS);
  }

  #ended() {
    if (!this.#playing) return;
    if (performance.now() - this.#since < HANGS || this.#exhibits.length === 1) this.#run();
    else this.#show(this.#place + 1);
  }

  #key(event) {
    if (event.defaultPrevented || event.altKey || event.ctrlKey || event.metaKey || event.shiftKey) return;
    this.#wake();
    const control = event.target.closest?.("button, a");
    const keys = {
      ArrowRight: () => this.#go(1),
      ArrowLeft: () => this.#go(-1),
      PageDown: () => this.#go(1), // what presenters send
      PageUp: () => this.#go(-1),
      Home: () => this.#go(-this.#place),
      End: () => this.#go(this.#exhibits.length - 1 - this.#place),
      f: () => toggleFullScreen(stage),
      F: () => toggleFullScreen(stage), // with Caps Lock
      Escape: () => location.assign(stage.querySelector(".leave").href),
      ...(control ? {} : { " ": () => this.#play(!this.#playing) }),
    };
    if (!Object.hasOwn(keys, event.key)) return;
    event.preventDefault();
    keys[event.key]();
  }

  #listenToHands() {
    let from = null;
    let woken = false; // by a finger that found the controls faded, and must not press what it did not see
    stage.addEventListener("pointermove", () => this.#wake());
    stage.addEventListener("pointerdown", (event) => {
      from = event.pointerType === "touch" && event.isPrimary ? event : null;
      woken = Boolean(from) && stage.classList.contains("idle");
      this.#wake();
    });
    stage.addEventListener("pointerup", (event) => {
      const [across, down] = from ? [event.clientX - from.clientX, event.clientY - from.clientY] : [0, 0];
      from = null;
      if (Math.abs(across) > SWIPE && Math.abs(across) > 2 * Math.abs(down)) this.#go(-Math.sign(across));
    });
    stage.addEventListener("click", (event) => {
      const unseen = woken && event.detail > 0; // 0: from the keyboard
      woken = false;
      if (!unseen) return;
      event.preventDefault();
      event.stopPropagation();
    }, { capture: true });
  }

  #wake() {
    clearTimeout(this.#fade);
    stage.classList.remove("idle");
    this.#fade = setTimeout(() => stage.classList.add("idle"), FADES);
  }
}

const filmOf = (exhibit) => exhibit.querySelector("video");

if (stage) new Exhibition();
