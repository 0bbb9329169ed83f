/** What the form says as the API wants it: empty fields are left to the server. */

const NUMBERS = new Set(["frames", "steps", "guidance", "fps", "hold"]); // seeds stay text: they may have 20 digits

/**
 * The body of a request. `values` holds {prompts: [words], name: text, public: boolean}.
 *
 * What a remix leaves out is as it was in its source (`from_walk`), so that there an empty field has to be said:
 * `usual` holds what it means, and a new seed is drawn here.
 */
export function bodyOf({ prompts, ...values }, { usual = {}, seed = 0 } = {}) {
  const body = { prompts: prompts.map((stop) => stop.trim()).filter(Boolean) };
  const meanings = values.from_walk ? { seed, seed_to: null, steps: null, guidance: null, scheduler: null, negative_prompt: "", ...usual } : {};
  for (const [name, value] of Object.entries(values)) {
    if (typeof value === "boolean") body[name] = value;
    else if (name === "size" && value) [body.width, body.height] = value.split("x").map(Number);
    else if (value.trim()) body[name] = NUMBERS.has(name) && Number.isFinite(Number(value)) ? Number(value) : value.trim();
    else if (name in meanings) body[name] = meanings[name];
  }
  return body;
}

/** The same walk with more frames, of which those that are there already are not painted again. */
export const refined = ({ id, settings: { leg_frames: legs } }, frames) =>
  ({ from_walk: id, ...(legs ? { leg_frames: legs.map((each) => 2 * each) } : { frames }) });

export const MOST_FRAMES = 960;

/** Frames of the next finer walk, which keeps those of this one if it can; null if there is none. */
export function finer({ frames_total: frames, settings: { pacing, loop, leg_frames: legs } }) {
  const halved = legs || pacing === "linear"; // each leg has twice its steps
  const more = halved && loop !== "closed" ? 2 * frames - 1 : 2 * frames;
  if (legs && more > MOST_FRAMES) return null;
  return frames < MOST_FRAMES ? Math.min(MOST_FRAMES, more) : null;
}

/** A field of the API as the form calls it: `prompts[1]` → {name: "stop", place: 1}. */
export function fieldOf(field) {
  const stop = field.match(/^prompts\[(\d+)\]$/);
  if (stop) return { name: "stop", place: Number(stop[1]) };
  return { name: field === "width" || field === "height" ? "size" : field };
}
