/**
 * Metadata contexts: what block status can tell of an export, and which of it a client means by its
 * queries (proto.md "Metadata querying"). Pure.
 *
 *   base:allocation                 holes and zeroes
 *   qemu:allocation-depth           the volume's own data, or its FlashCopy source's
 *   qemu:dirty-bitmap:fc-S-T        what changed since T0 of the relationship S:T
 *
 * The names and meanings of the last two are QEMU's (its docs/interop/nbd.rst), so that backup
 * tools made for QEMU's bitmaps read FlashCopy's changes.
 */

import type { ExportBitmap } from '../array/export-catalog.js';
import type { SelectedContext } from '../engine/types.js';

/** One context of an export. */
export interface MetaContext extends Omit<SelectedContext, 'id'> {
  readonly name: string;
}

const BITMAP_PREFIX = 'qemu:dirty-bitmap:';

/** Queries that stand for several contexts, in a list only: when selecting they mean nothing. */
const WILDCARDS = ['base:', 'qemu:', BITMAP_PREFIX];

/** All contexts of an export with these bitmaps. */
export function contextsOf(bitmaps: readonly ExportBitmap[]): MetaContext[] {
  return [
    { name: 'base:allocation', kind: 'allocation', relationshipId: 0 },
    { name: 'qemu:allocation-depth', kind: 'depth', relationshipId: 0 },
    ...bitmaps.map(({ name, relationshipId }) => ({
      name: `${BITMAP_PREFIX}${name}`,
      kind: 'changes' as const,
      relationshipId,
    })),
  ];
}

/** What LIST_META_CONTEXT shows: no queries ask for all; unknown ones find nothing. */
export function listContexts(all: readonly MetaContext[], queries: readonly string[]) {
  if (queries.length === 0) return [...all];
  const asked = new Set(queries);
  const wildcards = WILDCARDS.filter((wildcard) => asked.has(wildcard));
  return all.filter(
    ({ name }) => asked.has(name) || wildcards.some((wildcard) => name.startsWith(wildcard)),
  );
}

/** What SET_META_CONTEXT selects: contexts named in full, each once; the others are ignored. */
export function selectContexts(all: readonly MetaContext[], queries: readonly string[]) {
  const asked = new Set(queries);
  return all.filter(({ name }) => asked.has(name));
}
