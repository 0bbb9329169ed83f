import assert from "node:assert/strict";
import { test } from "node:test";
import { commandOf } from "../static/recipe.js";

const WALK = {
  prompts: ["a giraffe", "Monet's pond"],
  frames_total: 24,
  model: "momalisa-mini",
  settings: { prompts: ["a giraffe", "Monet's pond"], loop: "none", pacing: "even", seed: 7, seed_to: null, steps: 8, guidance: 4.5, width: 128, height: 192, negative_prompt: "", fps: 12, large: false, exact: false, hold: 0 },
};

test("the recipe is a command for a shell, without what goes without saying", () => {
  assert.equal(
    commandOf(WALK),
    "momalisa walk --model momalisa-mini --frames 24 --seed 7 --steps 8 --guidance 4.5 --width 128 --height 192 'a giraffe' 'Monet'\\''s pond'",
  );
});

test("lists replace single values, and words that begin with a dash are no options", () => {
  const settings = { seed: 1, seed_to: 2, seeds: [1, "18446744073709551615"], negative_prompt: "mist", negative_prompts: ["mist", ""], leg_frames: [23], large: true };
  assert.equal(
    commandOf({ ...WALK, prompts: ["-x", "y"], settings }),
    "momalisa walk --model momalisa-mini --seeds 1,18446744073709551615 --negative-prompts mist --negative-prompts '' --leg-frames 23 --large -- -x y",
  );
});
