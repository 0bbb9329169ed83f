/** The arithmetic of playing a walk. */

/**
 * Milliseconds that each frame stays.
 *
 * A walk with gaps takes as long as the whole one, so that frames that join change its grain and not its speed. And a
 * walk takes a second at least: two frames in turn at full speed would flash (WCAG 2.3.1).
 */
export function dwell(joined, total, fps) {
  return 1000 * Math.max(Math.max(total, joined) / (joined * fps), 1 / Math.max(1, joined - 1));
}

/** The next place on a walk to and fro. */
export function advance(rank, count, forward) {
  if (count < 2) return { rank: 0, forward: true };
  const onward = rank >= count - 1 ? false : rank <= 0 ? true : forward;
  return { rank: rank + (onward ? 1 : -1), forward: onward };
}

/** The place of the frame whose position is nearest. */
export function nearest(frames, position) {
  let best = 0;
  frames.forEach((frame, rank) => {
    if (Math.abs(frame.position - position) < Math.abs(frames[best].position - position)) best = rank;
  });
  return best;
}
