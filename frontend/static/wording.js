/** How the page puts a walk into words. */

const STATUS = {
  queued: "Waiting for a painter",
  running: "Being painted",
  assembling: "Being framed",
  succeeded: "Finished",
  failed: "This walk could not be finished",
  canceled: "This walk was canceled",
  expired: "The files of this walk are no longer kept",
};

/** A status this page has never heard of is judged by `done`. */
export const statusWords = ({ status, done }) =>
  Object.hasOwn(STATUS, status) ? STATUS[status] : done ? "This walk has ended" : "In progress";

export const titleOf = ({ prompts }) => prompts.join(" → ");

export const mediumOf = ({ frames_total }) => `Latent diffusion, ${frames_total} frames`;

export const countWords = ({ frames_done, frames_total }) => `${frames_done} of ${frames_total} frames`;

/** Where a walk stands in the queue; the number counts batches, so that it is no count of people. */
export function queueWords(position) {
  if (position === null || position === undefined) return "";
  if (position === 0) return "Next in line";
  return position === 1 ? "One batch before it" : `${position} batches before it`;
}

/** "412 kB"; 1 kB is 1000 bytes. */
export function kilobytes(bytes) {
  if (bytes >= 9_950_000) return `${Math.round(bytes / 1e6)} MB`;
  if (bytes >= 995_000) return `${(bytes / 1e6).toFixed(1)} MB`;
  return `${Math.max(1, Math.round(bytes / 1000))} kB`;
}

export const longDate = (iso) => new Date(iso).toLocaleDateString("en-GB", { dateStyle: "long" });

/** A number as museums give them to what they take in: the year, and what tells it from others. */
export const accession = ({ id, created_at }) => `${new Date(created_at).getUTCFullYear()}.${id.slice(0, 8)}`;

/** The quarters of a walk that are worth telling, 0 to 4. */
export const quarter = ({ frames_done, frames_total }) => Math.floor((4 * frames_done) / frames_total);
