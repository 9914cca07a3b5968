/**
 * Names of volumes, as on an ESS.
 *
 *   volume id  LLVV   two hex digits LSS, two hex digits volume number; 0x1203 is written 1203
 *   LSS        LL     10..1F hold fixed-block volumes; 00..0F are the mainframe's (CKD)
 *   serial     vvvsssss   last three digits of the id + five characters of the ESS serial:
 *                     1203 on 13698 is 20313698. The dropped first digit is always 1 for
 *                     fixed-block volumes, which makes this reversible.
 */

import { FlashlunError } from './errors.js';
import { shorten } from './shorten.js';

const FIRST_FB_LSS = 0x10;
const LAST_FB_LSS = 0x1f;
const FIRST_FB_VOLUME = FIRST_FB_LSS << 8;
const LAST_FB_VOLUME = (LAST_FB_LSS << 8) | 0xff;

/** A volume id in text form, source and target of a FlashCopy pair, upper case. */
export interface VolumePair {
  readonly source: string;
  readonly target: string;
}

/** Whether `id` is one a fixed-block volume can have (0x1000..0x1FFF). */
export function isVolumeId(id: number): boolean {
  return Number.isInteger(id) && id >= FIRST_FB_VOLUME && id <= LAST_FB_VOLUME;
}

/** `'1203'` -> 0x1203, any case; undefined when it is not a fixed-block volume id. */
export function tryParseVolumeId(text: string): number | undefined {
  return /^1[0-9a-f]{3}$/i.test(text) ? Number.parseInt(text, 16) : undefined;
}

/** As {@link tryParseVolumeId}. @throws FlashlunError INVALID_ARGUMENT */
export function parseVolumeId(text: string): number {
  const id = tryParseVolumeId(text);
  if (id === undefined) {
    throw new FlashlunError(
      'INVALID_ARGUMENT',
      `'${shorten(text)}' is not a volume id. ` +
        'Ids are four hex digits, 1000 to 1FFF, for example 1203.',
    );
  }
  return id;
}

/** 0x1203 -> `'1203'`, upper case. */
export function formatVolumeId(id: number): string {
  return hex(id, 4);
}

/** Two digits of the LSS a volume belongs to: 0x1203 -> `'12'`. */
export function lssOf(id: number): string {
  return hex(id >> 8, 2);
}

/** `'12'` -> 0x12. @throws FlashlunError LSS_INVALID unless 10..1F */
export function parseLss(text: string): number {
  if (!/^1[0-9a-f]$/i.test(text)) {
    throw new FlashlunError(
      'LSS_INVALID',
      `'${shorten(text)}' is not an LSS for fixed-block volumes. Use two hex digits, 10 to 1F.`,
    );
  }
  return Number.parseInt(text, 16);
}

/** Text form of an LSS number: 0x12 -> `'12'`. */
export function formatLss(lss: number): string {
  return hex(lss, 2);
}

/**
 * Whether `text` can be the serial of an ESS: five letters or digits, upper case (`13698`,
 * `FCA01`).
 */
export function isEssSerial(text: string): boolean {
  return /^[0-9A-Z]{5}$/.test(text);
}

/** The 8-character serial a host sees: (0x1203, '13698') -> `'20313698'`. */
export function serialOf(id: number, essSerial: string): string {
  return hex(id & 0xfff, 3) + essSerial;
}

/** The volume id behind a serial, any case; undefined when it is not a serial of this ESS. */
export function volumeIdOfSerial(serial: string, essSerial: string): number | undefined {
  const upper = serial.toUpperCase();
  if (!/^[0-9A-F]{3}/.test(upper) || upper.slice(3) !== essSerial.toUpperCase()) return undefined;
  return FIRST_FB_VOLUME | Number.parseInt(upper.slice(0, 3), 16);
}

/**
 * `'1203:1303'` -> both sides trimmed. Ids become upper case; serials and names pass as they are,
 * the array resolves them. @throws FlashlunError INVALID_ARGUMENT unless there are exactly two
 * non-empty sides
 */
export function parsePair(text: string): VolumePair {
  const sides = text.split(':').map((side) => side.trim());
  const [source, target] = sides;
  if (sides.length !== 2 || !source || !target) {
    throw new FlashlunError(
      'INVALID_ARGUMENT',
      `'${shorten(text)}' is not a pair. Write source:target, for example 1203:1303.`,
    );
  }
  return { source: normalRef(source), target: normalRef(target) };
}

function normalRef(text: string): string {
  return tryParseVolumeId(text) === undefined ? text : text.toUpperCase();
}

function hex(value: number, digits: number): string {
  return value.toString(16).toUpperCase().padStart(digits, '0');
}
