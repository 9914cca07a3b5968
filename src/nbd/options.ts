/**
 * Decoders of option data: the bytes of one option in, a value or what is wrong with it out. Every
 * length is checked against what is there before it is used, and nothing is allocated by a length
 * the client only claims.
 */

import { LIMITS } from '../base/limits.js';

/** A decoded value, or one line that says what is wrong. */
export type Parsed<T> =
  | { readonly ok: true; readonly value: T }
  | { readonly ok: false; readonly error: string };

/** Data of INFO and GO. */
export interface ExportRequest {
  readonly name: string;
  /** Information types asked for, each once; unknown ones included, they are ignored later. */
  readonly infos: ReadonlySet<number>;
}

/** Name length 4, name, count 2, count * 2: the whole of `data` and nothing else. */
export function parseExportRequest(data: Uint8Array): Parsed<ExportRequest> {
  const view = new DataView(data.buffer, data.byteOffset, data.byteLength);
  if (data.length < 6) return fail(`${data.length} bytes are too few for a name and a count`);
  const nameBytes = view.getUint32(0);
  if (nameBytes > data.length - 6) return fail('the name is longer than the option');
  const countOffset = 4 + nameBytes;
  const count = view.getUint16(countOffset);
  const infosOffset = countOffset + 2;
  if (data.length - infosOffset !== count * 2) {
    return fail('the number of information requests does not fit the length of the option');
  }
  const name = parseExportName(data.subarray(4, countOffset));
  if (!name.ok) return name;
  const infos = new Set<number>();
  for (let i = 0; i < count; i += 1) infos.add(view.getUint16(infosOffset + 2 * i));
  return { ok: true, value: { name: name.value, infos } };
}

/** An export name: UTF-8 without NUL, at most 4096 bytes. Empty is legal, it asks for a default. */
export function parseExportName(bytes: Uint8Array): Parsed<string> {
  if (bytes.length > LIMITS.nbdStringBytes) {
    return fail(`a name is at most ${LIMITS.nbdStringBytes} bytes`);
  }
  if (bytes.includes(0)) return fail('a name contains no NUL');
  try {
    // ignoreBOM keeps a leading U+FEFF: it is part of the name, not a mark of the encoding.
    const decoder = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true });
    return { ok: true, value: decoder.decode(bytes) };
  } catch {
    return fail('a name is UTF-8');
  }
}

function fail(error: string): { readonly ok: false; readonly error: string } {
  return { ok: false, error };
}
