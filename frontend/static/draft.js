/** The form as it was left: it outlives a reload, an error and a closed tab. */

const NAME = "momalisa.draft";

/** A remix has a draft of its own, so that the walk one was thinking of is still there after it. */
export function draftOf(source, storage = globalThis.localStorage) {
  const key = source ? `${NAME}:${source}` : NAME;
  return {
    read() {
      try {
        const kept = JSON.parse(storage.getItem(key));
        return kept && Array.isArray(kept.prompts) ? kept : null;
      } catch {
        return null; // unreadable or forbidden: start afresh
      }
    },
    keep(values) {
      try {
        storage.setItem(key, JSON.stringify(values));
      } catch { /* a browser that keeps nothing still makes walks */ }
    },
    drop() {
      try {
        storage.removeItem(key);
      } catch { /* nothing was kept */ }
    },
  };
}
