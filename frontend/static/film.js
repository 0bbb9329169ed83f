/** The MP4 of a finished walk as a source of its pictures: it plays at once, and needs no frames. */

const PATIENCE = 4000; // milliseconds that a picture for the strip may take

export class Film extends EventTarget {
  /** The <video>, muted and without controls. */
  video;
  /** Whether there is a picture. While another is sought, there is. */
  ready = false;
  #fps;
  #wanted = null; // the index to go to once the seek under way has ended

  /** `video` may be one that the page has already; else one is made. Tells "ready" once, and "failed" if it cannot be played. */
  constructor(url, fps, video = document.createElement("video")) {
    super();
    this.video = video;
    this.#fps = fps;
    video.controls = false;
    Object.assign(video, { muted: true, playsInline: true, preload: "auto" });
    video.setAttribute("aria-hidden", "true");
    video.classList.add("film");
    video.addEventListener("error", () => this.dispatchEvent(new Event("failed")));
    video.addEventListener("seeked", () => this.#seeked());
    const there = () => {
      this.ready = true;
      this.dispatchEvent(new Event("ready"));
    };
    if (video.readyState >= 2) queueMicrotask(there);
    else video.addEventListener("loadeddata", there, { once: true });
    if (!video.src) video.src = url;
    else if (video.error) queueMicrotask(() => this.dispatchEvent(new Event("failed")));
  }

  /** The place in the animation that is shown, from 0. */
  get index() {
    return Math.floor(this.video.currentTime * this.#fps + 1e-3);
  }

  /** Plays at `rate` times its own speed, and returns whether the browser lets it, which may save power or data. */
  async play(rate, loop) {
    Object.assign(this.video, { playbackRate: rate, loop });
    await this.video.play().catch(() => {});
    return !this.video.paused;
  }

  pause() {
    this.video.pause();
  }

  /** Goes to a place in the animation, and tells "moved" when its picture is there; while one is sought, only the last wish counts. */
  go(index) {
    this.#wanted = index;
    if (!this.video.seeking) this.#seek();
  }

  #seek() {
    const index = this.#wanted;
    this.#wanted = null;
    this.video.currentTime = (index + 0.5) / this.#fps;
  }

  #seeked() {
    if (this.#wanted !== null) this.#seek();
    else this.dispatchEvent(new Event("moved"));
  }

  /** Yields a small picture for each of these indices, [{index, picture, width, height}], from a second reading of the file. */
  async *stills(indices, side) {
    const video = document.createElement("video");
    Object.assign(video, { muted: true, preload: "auto", src: this.video.currentSrc || this.video.src });
    try {
      for (const index of indices) {
        await sought(video, (index + 0.5) / this.#fps);
        const scale = Math.min(1, side / Math.min(video.videoWidth, video.videoHeight));
        const [width, height] = [video.videoWidth, video.videoHeight].map((length) => Math.max(1, Math.round(length * scale)));
        const picture = await createImageBitmap(video, { resizeWidth: width, resizeHeight: height, resizeQuality: "high" });
        yield { index, picture, width, height };
      }
    } finally {
      video.removeAttribute("src");
      video.load(); // lets go of the decoder
    }
  }
}

function sought(video, time) {
  return new Promise((resolve, reject) => {
    const timer = setTimeout(() => reject(new Error("The film does not answer.")), PATIENCE);
    const done = (settle) => () => {
      clearTimeout(timer);
      settle();
    };
    video.onseeked = done(resolve);
    video.onerror = done(() => reject(new Error("The film cannot be read.")));
    video.currentTime = time;
  });
}
