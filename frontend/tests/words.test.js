import assert from "node:assert/strict";
import { test } from "node:test";
import { draftOf } from "../static/draft.js";
import { estimate, remaining, roughly } from "../static/estimate.js";
import { anotherPair } from "../static/pairs.js";
import { equalSteps, evenSteps, largestJump } from "../static/spacing.js";
import { TRAVELLED } from "../static/figure-data.js";
import { accession, kilobytes, queueWords, statusWords } from "../static/wording.js";

test("a status that this page has never heard of is judged by whether the walk is done", () => {
  assert.equal(statusWords({ status: "varnishing", done: false }), "In progress");
  assert.equal(statusWords({ status: "varnished", done: true }), "This walk has ended");
});

test("sizes are given in thousands", () => {
  assert.deepEqual([300, 148_000, 1_250_000, 42_000_000].map(kilobytes), ["1 kB", "148 kB", "1.3 MB", "42 MB"]);
});

test("a place in the queue is given in words", () => {
  assert.deepEqual([null, 0, 1, 5].map(queueWords), ["", "Next in line", "One batch before it", "5 batches before it"]);
});

test("a walk has a number as museums give them", () => {
  assert.equal(accession({ id: "0b0ff9a4-0c4c-4d3a-9c3e-6a1f0a3f6f57", created_at: "2026-11-23T12:00:00Z" }), "2026.0b0ff9a4");
});

test("another pair is never the one in view", () => {
  const pairs = ["one", "two", "three"].map((name) => ({ name }));
  assert.deepEqual([0, 0.49, 0.51, 0.99].map((chance) => anotherPair(pairs, pairs[1], chance).name), ["one", "one", "three", "three"]);
});

test("an estimate is only made where enough is known, and a walk of twice the work takes longer", () => {
  const settings = { width: 128, height: 128, steps: 20 };
  const pace = { speed: 8 * 128 * 128 * 20, workers: 2, batch: 8 }; // a batch a second
  assert.equal(estimate({ speed: NaN, workers: NaN, batch: NaN }, { frames: 24, settings }), null);
  assert.deepEqual([8, 16, 24, 48].map((frames) => estimate(pace, { frames, legs: 1, settings })), [2.5, 2.5, 3.5, 4.5]);
  const dense = { ...pace, dense: { from: 64, denoised: 48 } };
  const kinds = [[pace, false], [dense, true], [dense, false]]; // only the last one paints a part of its frames
  assert.deepEqual(kinds.map(([of, exact]) => estimate(of, { frames: 128, legs: 2, exact, settings })), [9.5, 9.5, 8.5]);
  assert.equal(estimate(dense, { frames: 960, legs: 1, exact: false, settings }), 7.5); // 48 painted, and 912 × 1/20
  assert.equal(estimate(dense, { frames: 127, legs: 2, exact: false, settings }), 9.5);
  assert.deepEqual([3, 34, 70, 3600].map(roughly), ["a few seconds", "about 40 seconds", "about a minute", "about an hour"]);
});

test("the time left runs on while no answer comes, never to nothing, and a clock that is set back adds none", () => {
  assert.deepEqual([0, 10_000, 89_000, 120_000].map((age) => remaining(90, age)), [90, 80, 1, 1]);
  assert.equal(remaining(90, -3_600_000), 90);
});

test("a draft comes back as it was left, and a browser that keeps nothing is no error", () => {
  const shelf = new Map();
  const storage = { getItem: (key) => shelf.get(key) ?? null, setItem: (key, value) => shelf.set(key, value), removeItem: (key) => shelf.delete(key) };
  draftOf(null, storage).keep({ prompts: ["a", "b"] });
  draftOf("remix", storage).keep({ prompts: ["c", "d"] });
  assert.deepEqual(draftOf(null, storage).read(), { prompts: ["a", "b"] });
  shelf.set("momalisa.draft", "{");
  assert.equal(draftOf(null, storage).read(), null);
  const forbidden = { getItem() { throw new Error("no"); }, setItem() { throw new Error("no"); } };
  draftOf(null, forbidden).keep({ prompts: [] });
  assert.equal(draftOf(null, forbidden).read(), null);
});

test("even steps divide the way of the picture, so that the largest jump is smaller than with equal steps", () => {
  for (const count of [3, 9, 17]) {
    const even = evenSteps(TRAVELLED, count);
    assert.deepEqual([even[0], even.at(-1)], [0, 1]);
    assert.ok(even.every((t, place) => place === 0 || t > even[place - 1]));
    assert.ok(largestJump(TRAVELLED, even) < largestJump(TRAVELLED, equalSteps(count)));
  }
});
