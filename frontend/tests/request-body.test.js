import assert from "node:assert/strict";
import { test } from "node:test";
import { bodyOf, fieldOf, finer, refined } from "../static/request-body.js";

test("what is left empty is left to the server", () => {
  const values = { prompts: [" a fox ", "", "a boat"], frames: "24", seed: "", guidance: "4.5", size: "128x192", public: true, negative_prompt: " " };
  assert.deepEqual(bodyOf(values), { prompts: ["a fox", "a boat"], frames: 24, guidance: 4.5, width: 128, height: 192, public: true });
});

test("a seed keeps all its digits", () => {
  const { seed, seed_to } = bodyOf({ prompts: ["a", "b"], seed: "18446744073709551615", seed_to: " 7 " });
  assert.deepEqual([seed, seed_to], ["18446744073709551615", "7"]);
});

test("empty stops between others are passed over", () => {
  assert.deepEqual(bodyOf({ prompts: ["a", "", "b", " ", "c"] }).prompts, ["a", "b", "c"]);
});

test("a refusal finds its field", () => {
  assert.deepEqual(fieldOf("prompts[3]"), { name: "stop", place: 3 });
  assert.deepEqual(fieldOf("width"), { name: "size" });
  assert.deepEqual(fieldOf("seed"), { name: "seed" });
});

test("a finer walk has twice the frames, up to the most", () => {
  const of = (pacing, loop) => (frames_total) => finer({ frames_total, settings: { pacing, loop } });
  assert.deepEqual([24, 800, 960].map(of("even", "none")), [48, 960, null]);
  assert.deepEqual([24, 800, 960].map(of("linear", "none")), [47, 960, null]);
  assert.deepEqual([24].map(of("linear", "closed")), [48]);
  const byLegs = (frames_total, loop) => finer({ frames_total, settings: { pacing: "even", loop, leg_frames: [1] } });
  assert.deepEqual([byLegs(16, "none"), byLegs(15, "closed"), byLegs(480, "closed"), byLegs(481, "none")], [31, 30, 960, null]);
});

test("a refinement is the same walk with more frames", () => {
  assert.deepEqual(refined({ id: "x", settings: { leg_frames: null } }, 48), { from_walk: "x", frames: 48 });
  assert.deepEqual(refined({ id: "x", settings: { leg_frames: [10, 5] } }, 31), { from_walk: "x", leg_frames: [20, 10] });
});

test("a remix says what its empty fields mean, since what it leaves out is as it was", () => {
  const values = { from_walk: "x", prompts: ["a", "b"], seed: "", seed_to: "", hold: "", negative_prompt: "", steps: "7", public: false };
  const body = { from_walk: "x", prompts: ["a", "b"], seed: 99, seed_to: null, hold: 0, negative_prompt: "", steps: 7, public: false };
  assert.deepEqual(bodyOf(values, { usual: { hold: 0, fps: 12 }, seed: 99 }), body);
});
