import { coarseFirst } from "./order.js";
import { nearest } from "./pace.js";
import { backOff } from "./wait.js";

const MOST = 240; // pictures kept at once, however many frames a walk has …
const MOST_PIXELS = MOST * 512 * 512; // … and fewer of large ones: 250 MB
const FEWEST = 24;
const SOON = 8; // neighbours of the place in view, which come before all others
const AT_ONCE = 6;

/**
 * The pictures of the frames of one walk, as many as memory allows: each is fetched, decoded and kept as a bitmap, so
 * that scrubbing never waits.
 *
 * Nothing is fetched before open(). Of a walk with more frames than are kept, those that span the whole walk are, and
 * those near the place in view (look). A frame is known by its position, since indices grow while a walk is made.
 * Tells "joined" for each frame that is ready to be shown, and "failed" each time that one could not be had: it is
 * tried again, more and more rarely, and at once when it gets another address.
 */
export class FrameStore extends EventTarget {
  /** {position, picture, width, height}, in the order of the walk. */
  joined = [];
  #known = new Map(); // position → {url, failures, again, loading}; again is the timer of the next try
  #positions = []; // of all known frames, in order
  #coarse = []; // the same in an order of which any beginning spans the walk
  #waiting = [];
  #wanted = new Set(); // the positions of those that are to be kept
  #loading = 0;
  #most = MOST;
  #place = null; // the position in view; null until one is chosen
  #open = false;

  /** The joined frame at a position, if there is one. */
  at(position) {
    const rank = nearest(this.positions, position);
    return this.joined[rank]?.position === position ? this.joined[rank] : undefined;
  }

  get positions() {
    return this.joined.map(({ position }) => position);
  }

  /** Whether a frame waits to be tried again. */
  get failing() {
    return [...this.#known.values()].some(({ again }) => again);
  }

  /** Takes the frames of an answer: {position, url}. Addresses may be new ones for the same pictures. */
  update(frames, { width, height }) {
    this.#most = Math.max(FEWEST, Math.min(MOST, Math.floor(MOST_PIXELS / (width * height))));
    for (const { position, url } of frames) {
      if (!url || !Number.isFinite(position)) continue;
      const known = this.#known.get(position);
      if (!known) this.#known.set(position, { url, failures: 0, again: 0, loading: false });
      else if (known.url !== url) {
        known.url = url;
        this.#forgive(known);
      }
    }
    if (this.#positions.length !== this.#known.size) {
      this.#positions = [...this.#known.keys()].sort((one, other) => one - other);
      this.#coarse = coarseFirst(this.#positions.length).map((index) => this.#positions[index]);
    }
    this.#choose();
  }

  /** Begins to fetch. */
  open() {
    if (this.#open) return;
    this.#open = true;
    this.#choose();
  }

  /** Says which position is in view, so that it and its neighbours are fetched first. */
  look(position) {
    this.#open = true;
    this.#place = position;
    this.#choose();
  }

  /** Decides what is to be fetched, and what has to go for it. */
  #choose() {
    if (!this.#open) return;
    const near = this.#near(this.#most >> 1);
    const there = new Set(this.positions);
    const far = this.#coarse.filter((position) => !near.has(position));
    // Of too many, those that are there stay, so that nothing is fetched in vain.
    const others = [...far.filter((position) => there.has(position)), ...far.filter((position) => !there.has(position))].slice(0, this.#most - near.size);
    const [first, later] = [[...near].slice(0, SOON), [...near].slice(SOON)];
    this.#wanted = new Set([...first, ...others, ...later]);
    const wanted = this.#wanted;
    for (const { picture } of this.joined.filter(({ position }) => !wanted.has(position))) picture.close();
    this.joined = this.joined.filter(({ position }) => wanted.has(position));
    this.#waiting = [...wanted].filter((position) => {
      const { loading, again } = this.#known.get(position);
      return !loading && !again && !there.has(position);
    });
    this.#next();
  }

  /** The positions around the place in view, the nearest first. */
  #near(count) {
    if (this.#place === null) return new Set();
    const middle = nearest(this.#positions, this.#place);
    const start = Math.max(0, Math.min(middle - (count >> 1), this.#positions.length - count));
    const far = (position) => Math.abs(position - this.#place);
    return new Set(this.#positions.slice(start, start + count).sort((one, other) => far(one) - far(other)));
  }

  #next() {
    while (this.#loading < AT_ONCE && this.#waiting.length) this.#load(this.#waiting.shift());
  }

  async #load(position) {
    const known = this.#known.get(position);
    this.#loading += 1;
    known.loading = true;
    const image = new Image();
    image.src = known.url;
    try {
      await image.decode();
      const { naturalWidth: width, naturalHeight: height } = image;
      const picture = await createImageBitmap(image);
      known.failures = 0;
      if (this.#wanted.has(position)) this.#join({ position, picture, width, height });
      else picture.close(); // the visitor has gone on meanwhile
    } catch {
      known.failures += 1;
      known.again = setTimeout(() => {
        this.#forgive(known);
        this.#choose();
      }, 1000 * backOff(known.failures, null, Math.random()));
      this.dispatchEvent(new Event("failed"));
    } finally {
      this.#loading -= 1;
      known.loading = false;
      this.#next();
    }
  }

  #forgive(known) {
    clearTimeout(known.again);
    known.again = 0;
  }

  #join(frame) {
    const after = this.joined.findIndex(({ position }) => position > frame.position);
    this.joined.splice(after < 0 ? this.joined.length : after, 0, frame);
    this.dispatchEvent(new Event("joined"));
  }
}
