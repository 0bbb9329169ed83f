/** The command that makes a walk again: pure. */

/** Values that the command has by itself, apart from switches, which are off; others have none, or the model's. */
const USUAL = { loop: "none", pacing: "even", easing: "linear", interpolation: "lerp", hold: 0, fps: 12, negative_prompt: "" };
const INSTEAD = { leg_frames: "frames", seeds: "seed", negative_prompts: "negative_prompt" }; // a list → the option that it replaces

const quoted = (text) => (/^[\w.,:=/+-]+$/.test(text) ? text : `'${text.replaceAll("'", "'\\''")}'`);

function optionsOf(name, value) {
  const option = `--${name.replaceAll("_", "-")}`;
  if (value === true) return [option];
  if (name === "negative_prompts") return value.flatMap((words) => [option, quoted(words)]);
  return [option, quoted(String(value))]; // a list of numbers as 1,2,3
}

/** The command that makes the same walk with the same model. */
export function commandOf({ prompts, settings, model, frames_total }) {
  const all = { model, frames: frames_total, ...settings };
  const replaced = new Set(Object.entries(INSTEAD).filter(([list]) => all[list]).map(([, single]) => single));
  if (all.seeds) replaced.add("seed_to");
  const given = Object.entries(all).filter(
    ([name, value]) => name !== "prompts" && value !== null && value !== undefined && value !== false && value !== USUAL[name] && !replaced.has(name),
  );
  const options = given.flatMap(([name, value]) => optionsOf(name, value));
  const end = prompts.some((prompt) => prompt.startsWith("-")) ? ["--"] : [];
  return ["momalisa", "walk", ...options, ...end, ...prompts.map(quoted)].join(" ");
}
