/** The loaded addon, and who hears of its connections that end. */

import { loadAddon, type NativeAddon, type PoolHandle } from './native.js';
import type { OnClosed } from './types.js';

/** Connections this environment has adopted, by `handle:connection`, until they end. */
export const closedListeners = new Map<string, OnClosed>();

let loaded: NativeAddon | undefined;

/** Loads at first use, so that a program that never opens a pool runs without the addon. */
export function addon(): NativeAddon {
  if (loaded) return loaded;
  const fresh = loadAddon();
  fresh.onClosed((handle, connectionId, report) => {
    const key = listenerKey(handle, connectionId);
    const listener = closedListeners.get(key);
    closedListeners.delete(key);
    // Node swallows what a thread-safe function's callback throws, so it is thrown elsewhere.
    const { reason, detail, ...counters } = report;
    try {
      listener?.(reason, detail, counters);
    } catch (error) {
      queueMicrotask(() => {
        throw error;
      });
    }
  });
  loaded = fresh;
  return fresh;
}

export function listenerKey(handle: PoolHandle, connectionId: number): string {
  return `${handle}:${connectionId}`;
}
