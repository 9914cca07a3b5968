/** Waiting for a condition with a deadline and a diagnosis, instead of sleeping. */
import { setTimeout as delay } from 'node:timers/promises';

const POLL_MS = 20;

export interface UntilOptions {
  readonly deadlineMs: number;
  /** Between two looks at the condition. */
  readonly pollMs?: number;
  /** Added to the error when the deadline passes: what the state was. */
  readonly diagnosis?: () => string;
}

/** Polls `condition` until it answers something other than undefined or false, and returns that. */
export async function until<T>(
  what: string,
  condition: () => Promise<T | undefined | false> | T | undefined | false,
  options: UntilOptions,
): Promise<T> {
  const endsAt = performance.now() + options.deadlineMs;
  for (;;) {
    const value = await condition();
    if (value !== undefined && value !== false) return value;
    if (performance.now() > endsAt) {
      const detail = options.diagnosis === undefined ? '' : `: ${options.diagnosis()}`;
      throw new Error(`${what}: not within ${options.deadlineMs} ms${detail}`);
    }
    await delay(options.pollMs ?? POLL_MS);
  }
}
