import { motion } from "./motion.js";

/**
 * The finished walk that hangs in the frame until the visitor names something: that of a pair, shipped as a video, or
 * at first the one that the server wrote, to be remixed.
 */
export class ExampleWalk {
  #frame;
  #video;
  #name; // of the region
  #seen; // whether it is what the frame shows

  constructor(frame) {
    this.#frame = frame;
    this.#video = frame.querySelector("video");
    this.#seen = frame.dataset.shows === "example";
    this.#name = frame.closest(".stage").getAttribute("aria-label");
    this.#video.controls = false; // the switch of the page stops it
    motion.addEventListener("change", () => this.#run());
  }

  get seen() {
    return this.#seen;
  }

  /** Hangs the walk of a pair. */
  hang({ name, prompts }) {
    const [kind, words] = this.#frame.querySelector(".example-label").children;
    kind.textContent = "Example:";
    words.textContent = prompts.join(" → ");
    this.#name = "An example";
    const poster = `/static/walks/${name}.webp`;
    if (this.#video.getAttribute("poster") === poster) return;
    this.#video.poster = poster;
    delete this.#video.dataset.fresh;
    this.#video.src = `/static/walks/${name}.mp4`;
    this.#run();
  }

  /** Shows it, or the plan of the walk that the visitor has begun to name. */
  show(seen) {
    this.#seen = seen;
    this.#frame.dataset.shows = seen ? "example" : "plan";
    this.#frame.closest(".stage").setAttribute("aria-label", seen ? this.#name : "The plan of your walk");
    this.#run();
  }

  #run() {
    if (this.#seen && !motion.paused) this.#video.play().catch(() => {}); // a browser that plays nothing shows the poster
    else this.#video.pause();
  }
}
