/**
 * Attributes of relationships that do not decide what a track holds: copy rate, priority, pause,
 * how a consistency group went.
 *
 *   pool (engine flags)   which relationships exist, T0, nocopy, persistent, record, inhibit,
 *                         revertible: they decide what happens to tracks, so they must be of the
 *                         same moment as these after a crash
 *   database (here)       everything else: losing it costs a rate or a pause, never data
 *
 * The pool is the truth: at start rows of relationships that it does not have are deleted, and one
 * that has no row has the defaults. A row is written after the relationship is durable, so a crash
 * in between gives the defaults.
 */

import {
  type CopyAttributeRepository,
  type CopyAttributes,
  NO_ATTRIBUTES,
} from '../metadata/copies.js';

export class RelationshipAttributes {
  readonly #records: CopyAttributeRepository;
  readonly #attributes: Map<number, CopyAttributes>;

  /** `existing`: ids of the relationships that the pool has. */
  constructor(records: CopyAttributeRepository, existing: readonly number[]) {
    this.#records = records;
    this.#attributes = records.list();
    const alive = new Set(existing);
    for (const id of this.#attributes.keys()) if (!alive.has(id)) this.forget(id);
  }

  of(relationshipId: number): CopyAttributes {
    return this.#attributes.get(relationshipId) ?? NO_ATTRIBUTES;
  }

  change(relationshipId: number, change: Partial<CopyAttributes>): CopyAttributes {
    const next = { ...this.of(relationshipId), ...change };
    this.#attributes.set(relationshipId, next);
    this.#records.set(relationshipId, next);
    return next;
  }

  forget(relationshipId: number): void {
    if (!this.#attributes.delete(relationshipId)) return;
    this.#records.delete(relationshipId);
  }

  /** Forgets what ended by itself: relationship ids are never used twice. */
  retain(existing: readonly number[]): void {
    const alive = new Set(existing);
    for (const id of [...this.#attributes.keys()]) if (!alive.has(id)) this.forget(id);
  }
}
