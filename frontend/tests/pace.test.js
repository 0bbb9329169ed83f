import assert from "node:assert/strict";
import { test } from "node:test";
import { dwell, nearest } from "../static/pace.js";
import { backOff, secondsWords } from "../static/wait.js";

test("a walk with gaps takes as long as the whole one", () => {
  assert.equal(dwell(24, 48, 12) * 24, dwell(48, 48, 12) * 48);
});

test("two frames in turn never flash", () => {
  assert.ok(dwell(2, 2, 50) >= 1000);
});

test("twice the speed takes half the time", () => {
  assert.equal(dwell(48, 48, 12, 2), dwell(48, 48, 12) / 2);
});

test("the nearest frame is found at the ends, between, and among one", () => {
  const positions = [0, 0.1, 0.5, 1];
  assert.deepEqual([-1, 0.04, 0.06, 0.31, 0.29, 0.9, 2].map((wanted) => nearest(positions, wanted)), [0, 0, 1, 2, 1, 3, 3]);
  assert.equal(nearest([0.5], 0), 0);
});

test("pauses grow with failures, and heed what the server says", () => {
  assert.ok(backOff(1, null, 0.5) < backOff(3, null, 0.5));
  assert.equal(backOff(1, 7, 0.5), 7);
  assert.equal(backOff(20, null, 0.5), 30);
});

test("waiting times are given in words that read well aloud", () => {
  assert.deepEqual([0.2, 42, 179].map(secondsWords), ["1 second", "42 seconds", "3 minutes"]);
});
