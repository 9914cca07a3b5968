/**
 * Hosts that are connected to the targets of a copy. A host that had the target open would go on
 * with what it has in its caches, so they can be disconnected: before T0, so that nothing of theirs
 * follows, and once more after it, for those that were back before. They connect again by
 * themselves (QEMU reconnect-delay) and see the new content.
 */

import { setTimeout as delay } from 'node:timers/promises';
import { FlashlunError } from '../base/errors.js';
import { formatVolumeId } from '../base/ids.js';
import { LIMITS } from '../base/limits.js';

/** What is needed of the NBD connections. */
export interface Connections {
  list(): readonly { readonly id: number; readonly volumeId: number }[];
  /** @throws FlashlunError NOT_FOUND it has ended */
  disconnect(id: number): void;
}

export class TargetClients {
  readonly #connections: Connections;

  constructor(connections: Connections) {
    this.#connections = connections;
  }

  /** Disconnects who is connected to the volumes now. Resolves before they are gone. */
  disconnect(volumeIds: readonly number[]): Set<number> {
    const dropped = new Set<number>();
    for (const { id, volumeId } of this.#connections.list()) {
      if (!volumeIds.includes(volumeId)) continue;
      dropped.add(id);
      this.#connections.disconnect(id);
    }
    return dropped;
  }

  /** Disconnects them and waits until they are gone. @throws FlashlunError FC_TIMEOUT */
  async disconnectAndWait(volumeIds: readonly number[]): Promise<void> {
    const dropped = this.disconnect(volumeIds);
    const deadline = performance.now() + LIMITS.disconnectMs;
    while (this.#connections.list().some(({ id }) => dropped.has(id))) {
      if (performance.now() > deadline) {
        throw new FlashlunError(
          'FC_TIMEOUT',
          `clients of ${volumeIds.map(formatVolumeId).join(', ')} could not be disconnected ` +
            `within ${LIMITS.disconnectMs / 1000} s; nothing was copied. Try again.`,
        );
      }
      await delay(5);
    }
  }
}
