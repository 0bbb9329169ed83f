import { coarseFirst } from "./order.js";

const ATTEMPTS = 3;
const MOST_PIXELS = 48_000_000; // kept decoded at once: about 200 MB
const AT_ONCE = 6;

/**
 * The frames of one walk: each is fetched once, decoded, and kept in the order of the walk.
 *
 * A frame is known by its position, since indices grow while a walk is made. Tells "joined" for each frame that is
 * ready to be shown, and "stale" when an address no longer holds.
 */
export class FrameStore extends EventTarget {
  /** {position, picture, width, height}, in the order of the walk. */
  joined = [];
  #known = new Map(); // position → {url, attempts, loading, there}
  #waiting = [];
  #loading = 0;
  #pixels = 0;
  #closed = false;

  get positions() {
    return this.joined.map(({ position }) => position);
  }

  /** Takes the frames of an answer: {position, url}. */
  update(frames) {
    const there = frames.filter(({ url, position }) => url && Number.isFinite(position));
    for (const index of coarseFirst(there.length)) {
      const { position, url } = there[index];
      const known = this.#known.get(position);
      if (known?.there || known?.loading || known?.url === url) continue;
      this.#known.set(position, { url, attempts: 0 });
      this.#waiting.push(position);
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
    known.loading = true;
    known.attempts += 1;
    this.#loading += 1;
    const image = new Image();
    image.src = known.url;
    try {
      await image.decode();
      const { naturalWidth: width, naturalHeight: height } = image;
      this.#pixels += width * height;
      // A bitmap stays decoded, so that scrubbing never waits; past some memory, the browser may decode anew.
      const picture = this.#pixels < MOST_PIXELS ? await createImageBitmap(image) : image;
      if (this.#closed) return;
      known.there = true;
      this.#join({ position, picture, width, height });
    } catch {
      if (known.attempts < ATTEMPTS) setTimeout(() => this.#retry(position), 500 * 2 ** known.attempts);
      else this.dispatchEvent(new Event("stale"));
    } finally {
      known.loading = false;
      this.#loading -= 1;
      this.#next();
    }
  }

  #retry(position) {
    this.#waiting.push(position);
    this.#next();
  }

  #join(frame) {
    const after = this.joined.findIndex(({ position }) => position > frame.position);
    this.joined.splice(after < 0 ? this.joined.length : after, 0, frame);
    this.dispatchEvent(new Event("joined"));
  }
}
