import assert from "node:assert/strict";
import { test } from "node:test";
import { kept, sizeOptions } from "../static/model-choice.js";

const sizes = sizeOptions({ sizes: [[1024, 1024], [1536, 1024]] });

test("sizes are written as people read them", () => {
  assert.deepEqual(sizes, [["1024x1024", "1024 × 1024"], ["1536x1024", "1536 × 1024"]]);
});

test("the size of a walk that is varied stays, though the model lists others", () => {
  const offered = sizeOptions({ sizes: [[1024, 1024]] }, "640x512");
  assert.deepEqual(offered, [["1024x1024", "1024 × 1024"], ["640x512", "640 × 512"]]);
  assert.equal(kept(offered, "640x512"), "640x512");
  assert.equal(sizeOptions({ sizes: [[1024, 1024]] }, "1024x1024").length, 1);
});

test("what was chosen is kept where the other model offers it, too", () => {
  assert.equal(kept(sizes, "1536x1024"), "1536x1024");
  assert.equal(kept(sizes, "128x128"), "1024x1024");
});
