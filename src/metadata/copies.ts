/** What FlashCopy keeps besides the pool: attributes of relationships, timers of LSSs. */

import type { MetadataDatabase } from './database.js';

/**
 * How a consistency group of the relationship went: `none` it was not frozen, `frozen` it is,
 * `created` the group was confirmed while all was frozen, `expired` the time limit came first.
 */
export type FreezeOutcome = 'none' | 'frozen' | 'created' | 'expired';

export interface CopyAttributes {
  /** Of its background copy; 0: no limit of its own. */
  readonly bytesPerSecond: number;
  /** Higher ones are copied first. */
  readonly priority: number;
  readonly paused: boolean;
  readonly freeze: FreezeOutcome;
  /** How long the source was frozen. */
  readonly frozenMs: number;
}

export const NO_ATTRIBUTES: CopyAttributes = {
  bytesPerSecond: 0,
  priority: 0,
  paused: false,
  freeze: 'none',
  frozenMs: 0,
};

interface AttributeRow extends Omit<CopyAttributes, 'paused'> {
  readonly relationshipId: number;
  readonly paused: number;
}

export class CopyAttributeRepository {
  readonly #list;
  readonly #set;
  readonly #delete;

  constructor(db: MetadataDatabase) {
    this.#list = db.prepare<[], AttributeRow>(
      `SELECT relationship_id AS relationshipId, bytes_per_second AS bytesPerSecond, priority,
         paused, freeze, frozen_ms AS frozenMs FROM copy_attributes`,
    );
    this.#set = db.prepare<[AttributeRow]>(
      `INSERT OR REPLACE INTO copy_attributes
         (relationship_id, bytes_per_second, priority, paused, freeze, frozen_ms)
       VALUES (@relationshipId, @bytesPerSecond, @priority, @paused, @freeze, @frozenMs)`,
    );
    this.#delete = db.prepare<[number]>('DELETE FROM copy_attributes WHERE relationship_id = ?');
  }

  list(): Map<number, CopyAttributes> {
    const rows = this.#list.all();
    return new Map(
      rows.map(({ relationshipId, paused, ...rest }) => [
        relationshipId,
        { ...rest, paused: paused === 1 },
      ]),
    );
  }

  set(relationshipId: number, attributes: CopyAttributes): void {
    this.#set.run({ ...attributes, relationshipId, paused: attributes.paused ? 1 : 0 });
  }

  delete(relationshipId: number): void {
    this.#delete.run(relationshipId);
  }
}

export class LssRepository {
  readonly #list;
  readonly #set;

  constructor(db: MetadataDatabase) {
    this.#list = db.prepare<[], { lss: number; freezeSeconds: number }>(
      'SELECT lss, freeze_seconds AS freezeSeconds FROM lss_settings',
    );
    this.#set = db.prepare<[number, number]>(
      'INSERT OR REPLACE INTO lss_settings (lss, freeze_seconds) VALUES (?, ?)',
    );
  }

  /** Freeze timers that were set, by LSS number. */
  freezeSeconds(): Map<number, number> {
    return new Map(this.#list.all().map(({ lss, freezeSeconds }) => [lss, freezeSeconds]));
  }

  setFreezeSeconds(lss: number, seconds: number): void {
    this.#set.run(lss, seconds);
  }
}
