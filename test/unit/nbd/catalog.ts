/** A catalog as data, for tests of negotiation. */
import type { ExportCatalog, ExportTarget } from '../../../src/array/export-catalog.js';

export const GIB = 2 ** 30;

export const LUN_1203: ExportTarget = {
  volumeId: 0x1203,
  name: '20313698',
  description: '1203 db 1.0 GiB',
  sizeBytes: GIB,
  readOnly: false,
};

/** A read-only one of the largest size there is, with blocks of 4096 bytes. */
export const LUN_1303: ExportTarget = {
  volumeId: 0x1303,
  name: '30313698',
  description: '1303 64.0 TiB',
  sizeBytes: 64 * 2 ** 40,
  readOnly: true,
  blockBytes: 4096,
};

export const BITMAP = { name: 'fc-1203-1303', relationshipId: 5 };

const NAMES = new Map([
  ['20313698', LUN_1203],
  ['1203', LUN_1203],
  ['db', LUN_1203],
  ['Größe 💾', LUN_1203],
  ['30313698', LUN_1303],
  ['1303', LUN_1303],
]);

export const CATALOG: ExportCatalog = {
  list: () => [LUN_1203, LUN_1303],
  example: () => LUN_1203.name,
  resolve: (name) => NAMES.get(name),
  bitmaps: () => [BITMAP],
};

export const EMPTY_CATALOG: ExportCatalog = {
  list: () => [],
  example: () => undefined,
  resolve: () => undefined,
};

/** Every fixed-block volume an ESS can have, with descriptions of the length given. */
export function fullCatalog(descriptionBytes: number): ExportCatalog {
  const entries = Array.from({ length: 4096 }, (_, index) => ({
    volumeId: 0x1000 + index,
    name: `${index.toString(16).toUpperCase().padStart(3, '0')}13698`,
    description: 'd'.repeat(descriptionBytes),
  }));
  return { list: () => entries, example: () => entries[0]?.name, resolve: () => undefined };
}
