import { nearest } from "./pace.js";

/** A row of small pictures along the line, drawn on one canvas: as many as fit, each the frame nearest to its place. */
export class FilmStrip {
  #canvas;
  #frames = [];
  #due = 0;

  constructor(canvas) {
    this.#canvas = canvas;
    this.sizes = new ResizeObserver(() => this.#soon());
    this.sizes.observe(canvas);
  }

  /** The places on the walk of which the strip has pictures, from 0 to 1. */
  places() {
    const { clientWidth, clientHeight } = this.#canvas;
    const count = Math.max(2, Math.round(clientWidth / clientHeight));
    return Array.from({ length: count }, (_, place) => place / (count - 1));
  }

  /** Pixels of a side of a picture. */
  get side() {
    return Math.ceil(this.#canvas.clientHeight * (devicePixelRatio || 1));
  }

  update(frames) {
    this.#frames = frames;
    this.#soon();
  }

  close() {
    this.sizes.disconnect();
    cancelAnimationFrame(this.#due);
  }

  #soon() {
    this.#due ||= requestAnimationFrame(() => {
      this.#due = 0;
      this.#draw();
    });
  }

  #draw() {
    const { clientWidth, clientHeight } = this.#canvas;
    const density = devicePixelRatio || 1;
    const [width, height] = [Math.round(clientWidth * density), Math.round(clientHeight * density)];
    if (!width || !height) return;
    if (this.#canvas.width !== width || this.#canvas.height !== height) Object.assign(this.#canvas, { width, height });
    const pen = this.#canvas.getContext("2d");
    pen.imageSmoothingQuality = "high";
    pen.clearRect(0, 0, width, height);
    if (!this.#frames.length) return;
    const positions = this.#frames.map(({ position }) => position);
    const places = this.places();
    const count = places.length;
    for (const [place, position] of places.entries()) {
      const frame = this.#frames[nearest(positions, position)];
      const left = Math.round((place * width) / count);
      const right = Math.round(((place + 1) * width) / count);
      const side = Math.min(frame.width, frame.height);
      // The middle of the picture, as a square; a hair of the wall between two.
      pen.drawImage(frame.picture, (frame.width - side) / 2, (frame.height - side) / 2, side, side, left, 0, right - left - density, height);
    }
  }
}
