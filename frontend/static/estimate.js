/** How long a walk will take, judged by how long walks took of late. */

const OVERHEAD = 1.5; // seconds: looking at the queue, stitching
const ENOUGH = 3;

const work = (frames, { width, height, steps }) => frames * width * height * steps;

/** Seconds, or null if too little is known. `walks` are finished ones of the gallery. */
export function estimate(walks, { frames, settings }) {
  const speeds = walks
    .filter(({ started_at, finished_at, status }) => status === "succeeded" && started_at && finished_at)
    .map((walk) => {
      const seconds = (Date.parse(walk.finished_at) - Date.parse(walk.started_at)) / 1000;
      return work(walk.frames_total, walk.settings) / Math.max(0.1, seconds - OVERHEAD);
    })
    .sort((one, other) => one - other);
  if (speeds.length < ENOUGH || !(frames >= 2)) return null;
  // Walks that waited between their batches look slow; the fastest tells what the painters can do.
  return OVERHEAD + work(frames, settings) / speeds.at(-1);
}

/** "about 40 seconds"; coarse, since it is a guess. */
export function roughly(seconds) {
  if (seconds < 8) return "a few seconds";
  if (seconds < 55) return `about ${Math.ceil(seconds / 10) * 10} seconds`;
  const minutes = Math.max(1, Math.round(seconds / 60));
  if (minutes < 60) return minutes === 1 ? "about a minute" : `about ${minutes} minutes`;
  const hours = Math.round(minutes / 60);
  return hours === 1 ? "about an hour" : `about ${hours} hours`;
}
