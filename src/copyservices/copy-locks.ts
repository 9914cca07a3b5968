/**
 * Locked copies: what a schedule made with a lock time is neither replaced, withdrawn nor deleted
 * before that time is over, by nobody. It does not keep hosts from writing to the target.
 */

import { FlashlunError } from '../base/errors.js';
import { formatVolumeId } from '../base/ids.js';
import type { CopyRepository } from '../metadata/schedules.js';

export class CopyLocks {
  readonly #copies: CopyRepository;
  readonly #now: () => number;

  constructor(copies: CopyRepository, now: () => number = Date.now) {
    this.#copies = copies;
    this.#now = now;
  }

  /**
   * @param what for people: `withdraw of 1203:1303`
   * @throws FlashlunError COPY_LOCKED when one of the volumes is the target of a locked copy
   */
  check(volumeIds: readonly number[], what: string): void {
    const nowMs = this.#now();
    const ids = new Set(volumeIds.map(formatVolumeId));
    for (const { confirmed, lockedUntilMs, pairs, schedule } of this.#copies.list()) {
      if (!confirmed || lockedUntilMs <= nowMs) continue;
      const target = pairs.find((pair) => ids.has(pair.target))?.target;
      if (target === undefined) continue;
      const until = new Date(lockedUntilMs).toISOString();
      throw new FlashlunError(
        'COPY_LOCKED',
        `${what} refused: ${target} holds a copy of schedule ${schedule} that is locked until ` +
          `${until}. Wait, or use another target.`,
        { details: { volume: target, schedule, lockedUntil: until } },
      );
    }
  }
}
