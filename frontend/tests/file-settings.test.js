import assert from "node:assert/strict";
import { test } from "node:test";
import { changed, formValues, settingsFor, settingsOf } from "../static/file-settings.js";

const saved = { prompts: ["a cat", "a dog"], frames: 2, seed: 7, seeds: [7, "18446744073709551615"], pinned: { batches: [] }, width: 64, height: 96 };
const bytes = (words) => new TextEncoder().encode(words);

test("a walk.json is its settings; what no request takes is left out", () => {
  assert.deepEqual(settingsOf(bytes(JSON.stringify({ ...saved, software: "MoMALisa" }))), saved);
});

test("a file of others carries none", () => {
  for (const words of ["", "{}", "7", "GIF89a", "\u0089PNG", "RIFF....WEBP", "....ftypisom", "PK\u0003\u0004"]) assert.equal(settingsOf(bytes(words)), null);
});

test("a frame is not taken for a walk", () => {
  const frame = { prompts: ["a cat", "a dog"], t: 0.5, seed: 7, width: 64, height: 96 };
  for (const found of [frame, { ...saved, prompts: ["a cat"] }, { ...saved, prompts: ["a cat", 7] }]) {
    assert.equal(settingsOf(bytes(JSON.stringify(found))), null);
  }
});

test("the form is emptied where a file says nothing", () => {
  assert.deepEqual(formValues(saved, ["seed", "seed_to"]), { seed: "7", seed_to: "", size: "64x96", prompts: saved.prompts });
});

test("settings of a model that is not here are left to the model that is", () => {
  const made = { ...saved, model: "theirs", steps: 3, guidance: 2, scheduler: "ddim" };
  const { prompts, frames, seed, seeds } = saved;
  assert.deepEqual(settingsFor([{ name: "ours" }, { name: "theirs" }], made), made);
  assert.deepEqual(settingsFor([{ name: "ours" }], made), { prompts, frames, seed, seeds });
});

test("where a file says nothing, the form is asked", () => {
  const filled = { prompts: saved.prompts, frames: 2, model: "ours", public: true };
  assert.deepEqual(changed(saved, filled, filled), { ...saved, model: "ours", public: true });
});

test("what is not edited is asked for as the file has it", () => {
  const filled = { prompts: saved.prompts, frames: 2, seed: "7", width: 64, height: 96, public: true };
  const ask = (edits) => changed(saved, filled, { ...filled, ...edits });
  const { pinned, seeds, ...rest } = saved;
  assert.deepEqual(ask({}), { ...saved, public: true });
  assert.deepEqual(ask({ fps: 5, public: false }), { ...saved, fps: 5, public: false });
  assert.deepEqual(ask({ frames: 9 }), { ...rest, seeds, frames: 9, public: true });
  assert.deepEqual(ask({ seed: "8" }), { ...rest, seed: "8", public: true });
  assert.deepEqual(ask({ prompts: ["a", "b", "c"] }), { ...rest, prompts: ["a", "b", "c"], public: true });
  assert.ok(pinned);
});
