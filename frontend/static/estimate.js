/** How long a walk will take once painters are free, judged by how fast they painted of late. */

const OVERHEAD = 1.5; // seconds: looking at the queue, stitching

/**
 * Seconds, or null if the pace is not known: what one painter makes in a second, how many there are, and how many
 * frames each paints at once. `dense`: from how many frames a leg on a walk that is not exact has about `denoised`
 * frames a leg painted, while each of the others takes one step; null if the model paints every frame.
 */
export function estimate({ speed, workers, batch, dense }, { frames, legs, exact, settings: { width, height, steps } }) {
  if (!(speed > 0) || !(frames >= 2)) return null;
  const isDense = dense && !exact && frames >= dense.from * legs;
  const painted = isDense ? dense.denoised * legs : frames;
  const rounds = Math.ceil(Math.ceil((painted + (frames - painted) / steps) / batch) / workers);
  return OVERHEAD + (rounds * batch * width * height * steps) / speed;
}

/** Seconds left of an estimate that is so many milliseconds old; one that was too low leaves a moment, not nothing. */
export const remaining = (seconds, age) => Math.max(1, seconds - Math.max(0, age) / 1000);

/** "about 40 seconds"; coarse, since it is a guess. */
export function roughly(seconds) {
  if (seconds < 8) return "a few seconds";
  if (seconds < 55) return `about ${Math.ceil(seconds / 10) * 10} seconds`;
  const minutes = Math.max(1, Math.round(seconds / 60));
  if (minutes < 60) return minutes === 1 ? "about a minute" : `about ${minutes} minutes`;
  const hours = Math.round(minutes / 60);
  return hours === 1 ? "about an hour" : `about ${hours} hours`;
}
