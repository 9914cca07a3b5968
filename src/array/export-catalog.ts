/** What the NBD listener needs of the array: the names it serves and the volume behind each. */

import { formatVolumeId } from '../base/ids.js';
import type { Recording } from '../engine/types.js';

export interface ExportEntry {
  readonly volumeId: number;
  readonly name: string;
  readonly description: string;
}

export interface ExportTarget extends ExportEntry {
  readonly sizeBytes: number;
  readonly readOnly: boolean;
  /** Why this client cannot have it now, for people; otherwise it could. */
  readonly refusal?: string | undefined;
  /** Logical block size of the volume, 512 or 4096; 512 when left out. */
  readonly blockBytes?: number;
  /** Every name that leads to the volume: rules about it hold whichever a client asks for. */
  readonly names?: readonly string[];
}

/** A relationship whose changes since T0 can be asked for. */
export interface ExportBitmap {
  /** `fc-1203-1303`. */
  readonly name: string;
  readonly relationshipId: number;
}

export interface ExportCatalog {
  /** One entry per volume, by serial; its other names lead to it but are not listed. */
  list(): ExportEntry[];
  /** Serial of one volume, for a message; undefined when there is none. Costs nothing. */
  example(): string | undefined;
  /** By serial, volume id or name; undefined when there is no such volume. '' is no volume. */
  resolve(name: string): ExportTarget | undefined;
  /** Of the volume's relationships. A catalog of volumes that are never copied leaves it out. */
  bitmaps?(volumeId: number): readonly ExportBitmap[];
}

/** The bitmap of a relationship. */
export function bitmapOf({ relationshipId, sourceId, targetId }: Recording): ExportBitmap {
  return { name: `fc-${formatVolumeId(sourceId)}-${formatVolumeId(targetId)}`, relationshipId };
}
