/** Counts failures per key in windows of a minute; bounded in memory. */

import { LIMITS } from '../base/limits.js';

const WINDOW_MS = 60_000;

interface Window {
  readonly startedMs: number;
  count: number;
}

export class FailureCounter {
  readonly #most: number;
  readonly #now: () => number;
  /** In order of their windows' begin, oldest first. */
  readonly #windows = new Map<string, Window>();

  /** `most` failures of a key within a minute block it for the rest of that minute. */
  constructor(most: number, now: () => number) {
    this.#most = most;
    this.#now = now;
  }

  add(key: string): void {
    const window = this.#current(key);
    if (window !== undefined) {
      window.count += 1;
      return;
    }
    this.#windows.set(key, { startedMs: this.#now(), count: 1 });
    const [oldest] = this.#windows.keys();
    if (this.#windows.size > LIMITS.loginFailuresRemembered && oldest !== undefined) {
      this.#windows.delete(oldest);
    }
  }

  /** How long the key stays blocked; 0 when it is not. */
  blockedMs(key: string): number {
    const window = this.#current(key);
    if (window === undefined || window.count < this.#most) return 0;
    return window.startedMs + WINDOW_MS - this.#now();
  }

  #current(key: string): Window | undefined {
    const window = this.#windows.get(key);
    if (window === undefined || this.#now() - window.startedMs < WINDOW_MS) return window;
    this.#windows.delete(key);
    return undefined;
  }
}
