import { motion } from "./motion.js";

/** The finished walk that hangs in the frame until the visitor names something: a pair's, shipped as a video. */
export class ExampleWalk {
  #frame;
  #video;
  #seen = true; // whether it is what the frame shows

  constructor(frame) {
    this.#frame = frame;
    this.#video = frame.querySelector("video");
    this.#video.controls = false; // the switch of the page stops it
    motion.addEventListener("change", () => this.#run());
  }

  /** Hangs the walk of another pair. */
  hang({ name, prompts }) {
    this.#frame.querySelector(".example-label i").textContent = prompts.join(" → ");
    const poster = `/static/walks/${name}.webp`;
    if (this.#video.getAttribute("poster") === poster) return;
    this.#video.poster = poster;
    this.#video.src = `/static/walks/${name}.mp4`;
    this.#run();
  }

  /** Shows it, or the plan of the walk that the visitor has begun to name. */
  show(seen) {
    this.#seen = seen;
    this.#frame.dataset.shows = seen ? "example" : "plan";
    this.#frame.closest(".stage").setAttribute("aria-label", seen ? "An example" : "The plan of your walk");
    this.#run();
  }

  #run() {
    if (this.#seen && !motion.paused) this.#video.play().catch(() => {}); // a browser that plays nothing shows the poster
    else this.#video.pause();
  }
}
