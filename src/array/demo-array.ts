/** The array of the white paper, made on an empty pool so that there is something to attach to. */

import { formatVolumeId } from '../base/ids.js';
import { GIB } from '../base/units.js';
import type { StorageArray } from './storage-array.js';

/** LUNs 20313698 to 20613698 of the paper's two guests, and two more to copy to in another LSS. */
const DEMO_VOLUMES = [0x1203, 0x1204, 0x1205, 0x1206, 0x1303, 0x1304] as const;
const DEMO_VOLUME_BYTES = GIB;

/** Makes the demo volumes when there is no volume at all. Returns whether it did. */
export async function createDemoArray(array: StorageArray): Promise<boolean> {
  if (array.volumes().length > 0) return false;
  for (const id of DEMO_VOLUMES) {
    await array.create({ id: formatVolumeId(id), sizeBytes: DEMO_VOLUME_BYTES });
  }
  return true;
}
