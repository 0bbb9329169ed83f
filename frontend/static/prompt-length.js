/** How long a prompt is for the model that reads it. The page has no tokenizer, so tokens are estimates. */

const PARTS = /\p{L}+|\p{N}|[^\s\p{L}\p{N}]+/gu; // as CLIP splits a text before it looks parts up
const LETTER = /^\p{L}/u;
const bytes = new TextEncoder();

function tokensOfPart(part) {
  const size = bytes.encode(part).length;
  if (size !== part.length) return Math.ceil(size / 1.9);
  if (!LETTER.test(part)) return Math.ceil(part.length / 3);
  return part.length < 10 ? 1 : Math.ceil(part.length / 7);
}

/** About how many tokens a text has. */
export const roughTokens = (text) => (text.match(PARTS) ?? []).reduce((sum, part) => sum + tokensOfPart(part), 0);

/** Rounded, since it is an estimate. */
const about = (count) => (count < 20 ? count : 5 * Math.round(count / 5));

/**
 * What to say of the length of a prompt, and whether it is an error: {words, refused}; no words while it is short.
 *
 * `model` holds {tokens, windows}; `most` is how many characters the server takes.
 */
export function lengthOf(text, { tokens, windows }, most) {
  const characters = [...text.trim().replace(/\s+/gu, " ")].length;
  if (characters > most) return { words: `${characters} of at most ${most} characters.`, refused: true };
  if (!tokens) return { words: "", refused: false };
  const count = roughTokens(text);
  const room = tokens - 2; // two begin and end it
  if (count > room * windows) return { words: `About ${about(count)} tokens; the model reads the first ${room * windows}.`, refused: false };
  if (count > room) return { words: `About ${about(count)} tokens, read in ${Math.ceil(count / room)} parts.`, refused: false };
  return { words: count > 0.7 * room ? `About ${about(count)} of ${room} tokens.` : "", refused: false };
}
