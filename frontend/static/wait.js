/** Waiting, in numbers and in words. */

export const LONGEST_PAUSE = 30; // seconds

/** Seconds until the next try after so many failures; `chance` in [0, 1) keeps a crowd from coming back at once. */
export function backOff(failures, retryAfter, chance) {
  return Math.min(LONGEST_PAUSE, retryAfter ?? 2 ** failures * (0.75 + chance / 2));
}

/** "1 second", "42 seconds", "3 minutes". */
export function secondsWords(seconds) {
  const whole = Math.max(1, Math.ceil(seconds));
  if (whole < 120) return whole === 1 ? "1 second" : `${whole} seconds`;
  return `${Math.ceil(whole / 60)} minutes`;
}
