import assert from "node:assert/strict";
import { test } from "node:test";
import { lengthOf, roughTokens } from "../static/prompt-length.js";

const clip = { tokens: 77, windows: 8 };
const words = (count) => Array(count).fill("cat").join(" ");

// Counted by CLIP's tokenizer (models/known/v1/tokenizer).
const COUNTED = [
  ["masterpiece, best quality, ultra-detailed, 1girl, solo, long hair, blue eyes, looking at viewer, dramatic lighting, depth of field, octane render, 8k, hdr", 38],
  ["A highly detailed matte painting of retro futurist mount fuji hosting the olympics, aerial photography, ultrawide lens, god rays, intricate detail, cinematic", 28],
  ["ein Gemälde von einem Schloss auf einem Hügel, darüber ein Gewitter, im Vordergrund eine Kuh mit Glocke", 36],
  ["жираф на лугу под дождём, картина маслом, старый замок вдали", 63],
  ["富岳三十六景のような大波と白いキリン、浮世絵風", 44],
];

test("tokens are estimated within a third of what CLIP counts", () => {
  for (const [text, count] of COUNTED) {
    const error = roughTokens(text) / count - 1;
    assert.ok(Math.abs(error) < 1 / 3, `${text}: ${roughTokens(text)}, not ${count}`);
  }
});

test("a short prompt needs no words, a longer one says how much the model reads", () => {
  assert.equal(lengthOf("a cat", clip, 2000).words, "");
  assert.equal(lengthOf(words(60), clip, 2000).words, "About 60 of 75 tokens.");
  assert.equal(lengthOf(words(100), clip, 2000).words, "About 100 tokens, read in 2 parts.");
  assert.equal(lengthOf(words(100), { tokens: 77, windows: 1 }, 2000).words, "About 100 tokens; the model reads the first 75.");
  assert.equal(lengthOf(words(100), { tokens: null, windows: 1 }, 2000).words, "");
});

test("what the server refuses is an error, counted as the server counts", () => {
  assert.deepEqual(lengthOf("🦒".repeat(2001), clip, 2000), { words: "2001 of at most 2000 characters.", refused: true });
  assert.equal(lengthOf(`${"🦒".repeat(1999)}   \t 🦒`, clip, 2001).refused, false);
});
