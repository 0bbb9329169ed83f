/** How the page puts a walk into words. */

const STATUS = {
  queued: "Waiting for a worker",
  running: "Painting",
  assembling: "Stitching the animation",
  succeeded: "Finished",
  failed: "This walk could not be finished",
  canceled: "This walk was canceled",
  expired: "The files of this walk are no longer kept",
};

/** A status this page has never heard of is judged by `done`. */
export const statusWords = ({ status, done }) =>
  Object.hasOwn(STATUS, status) ? STATUS[status] : done ? "This walk has ended" : "In progress";

export const titleOf = ({ prompts }) => prompts.join(" → ");

export const countWords = ({ frames_done, frames_total }) => `${frames_done} of ${frames_total} frames`;

/** "412 kB"; 1 kB is 1000 bytes. */
export const kilobytes = (bytes) => `${Math.max(1, Math.round(bytes / 1000)).toLocaleString("en")} kB`;

export const longDate = (iso) => new Date(iso).toLocaleDateString("en-GB", { dateStyle: "long" });

/** The prompts with arrows between them as nodes, each prompt in its own writing direction. */
export function titleNodes({ prompts }) {
  return prompts.flatMap((prompt, place) => {
    const words = document.createElement("bdi");
    words.textContent = prompt;
    return place ? [" → ", words] : [words];
  });
}
