/** Counts failures per key in windows of a minute, and slows keys with many; bounded in memory. */

import { LIMITS } from '../base/limits.js';

const WINDOW_MS = 60_000;

interface Window {
  readonly startedMs: number;
  count: number;
  /** The turn of the attempt admitted last, once there are too many failures. */
  turnMs: number;
}

export class FailureCounter {
  readonly #most: number;
  readonly #now: () => number;
  /** In order of their windows' begin, oldest first. */
  readonly #windows = new Map<string, Window>();

  /** After `most` failures of a key within a minute its attempts get turns for the rest of it. */
  constructor(most: number, now: () => number) {
    this.#most = most;
    this.#now = now;
  }

  /**
   * Counts an attempt as a failure in advance, and returns after how many ms it may be made. Above
   * LIMITS.loginWaitMs it has no turn: then, and when it is no failure, `takeBack` follows.
   */
  begin(key: string): number {
    const nowMs = this.#now();
    const window = this.#current(key) ?? this.#open(key, nowMs);
    window.count += 1;
    if (window.count <= this.#most) return 0;
    const turnMs = Math.max(nowMs, window.turnMs) + LIMITS.loginSpacingMs;
    if (turnMs - nowMs <= LIMITS.loginWaitMs) window.turnMs = turnMs;
    return turnMs - nowMs;
  }

  /** The attempt was no failure. */
  takeBack(key: string): void {
    const window = this.#current(key);
    if (window !== undefined && window.count > 0) window.count -= 1;
  }

  #open(key: string, nowMs: number): Window {
    const window = { startedMs: nowMs, count: 0, turnMs: 0 };
    this.#windows.set(key, window);
    const [oldest] = this.#windows.keys();
    if (this.#windows.size > LIMITS.loginFailuresRemembered && oldest !== undefined) {
      this.#windows.delete(oldest);
    }
    return window;
  }

  #current(key: string): Window | undefined {
    const window = this.#windows.get(key);
    if (window === undefined || this.#now() - window.startedMs < WINDOW_MS) return window;
    this.#windows.delete(key);
    return undefined;
  }
}
