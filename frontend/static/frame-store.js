import { coarseFirst } from "./order.js";
import { backOff } from "./wait.js";

const MOST_PIXELS = 240 * 512 * 512; // kept decoded at once: the longest walk at the usual size, 250 MB
const AT_ONCE = 6;

/**
 * The frames of one walk: each is fetched once, decoded, and kept in the order of the walk.
 *
 * A frame is known by its position, since indices grow while a walk is made. Tells "joined" for each frame that is
 * ready to be shown, and "failed" each time that one could not be had: it is tried again, more and more rarely, and at
 * once when it gets another address.
 */
export class FrameStore extends EventTarget {
  /** {position, picture, width, height}, in the order of the walk. */
  joined = [];
  #known = new Map(); // position → {url, failures, again}; again is the timer of the next try
  #waiting = [];
  #loading = 0;
  #pixels = 0;
  #closed = false;

  get positions() {
    return this.joined.map(({ position }) => position);
  }

  /** Whether a frame waits to be tried again. */
  get failing() {
    return [...this.#known.values()].some(({ again }) => again);
  }

  /** Takes the frames of an answer: {position, url}. Addresses may be new ones for the same pictures. */
  update(frames) {
    const there = frames.filter(({ url, position }) => url && Number.isFinite(position));
    for (const index of coarseFirst(there.length)) {
      const { position, url } = there[index];
      const known = this.#known.get(position);
      if (!known) {
        this.#known.set(position, { url, failures: 0 });
        this.#waiting.push(position);
      } else if (known.url !== url) {
        known.url = url;
        if (known.again) this.#tryAgain(position);
      }
    }
    this.#next();
  }

  close() {
    this.#closed = true;
    for (const { picture } of this.joined) picture.close?.();
    this.joined = [];
  }

  #next() {
    while (this.#loading < AT_ONCE && this.#waiting.length && !this.#closed) this.#load(this.#waiting.shift());
  }

  async #load(position) {
    const known = this.#known.get(position);
    this.#loading += 1;
    const image = new Image();
    image.src = known.url;
    try {
      await image.decode();
      const { naturalWidth: width, naturalHeight: height } = image;
      this.#pixels += width * height;
      // A bitmap stays decoded, so that scrubbing never waits; past some memory, the browser may decode anew.
      const picture = this.#pixels <= MOST_PIXELS ? await createImageBitmap(image) : image;
      if (this.#closed) return;
      this.#join({ position, picture, width, height });
    } catch {
      if (this.#closed) return;
      known.failures += 1;
      known.again = setTimeout(() => this.#tryAgain(position), 1000 * backOff(known.failures, null, Math.random()));
      this.dispatchEvent(new Event("failed"));
    } finally {
      this.#loading -= 1;
      this.#next();
    }
  }

  #tryAgain(position) {
    const known = this.#known.get(position);
    clearTimeout(known.again);
    known.again = 0;
    this.#waiting.push(position);
    this.#next();
  }

  #join(frame) {
    const after = this.joined.findIndex(({ position }) => position > frame.position);
    this.joined.splice(after < 0 ? this.joined.length : after, 0, frame);
    this.dispatchEvent(new Event("joined"));
  }
}
