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

/** Data of LIST_META_CONTEXT and SET_META_CONTEXT. */
export interface ContextRequest {
  readonly name: string;
  readonly queries: readonly string[];
}

/** Name length 4, name, count 4, count * (length 4, query): the whole of `data`, nothing else. */
export function parseContextRequest(data: Uint8Array): Parsed<ContextRequest> {
  const view = new DataView(data.buffer, data.byteOffset, data.byteLength);
  if (data.length < 8) return fail(`${data.length} bytes are too few for a name and a count`);
  const nameBytes = view.getUint32(0);
  if (nameBytes > data.length - 8) return fail('the name is longer than the option');
  const name = parseExportName(data.subarray(4, 4 + nameBytes));
  if (!name.ok) return name;
  const count = view.getUint32(4 + nameBytes);
  const queries: string[] = [];
  let offset = 8 + nameBytes;
  // Each turn takes 4 bytes at least, so the loop ends with the data whatever the count says.
  for (let i = 0; i < count; i += 1) {
    if (data.length - offset < 4) return fail('there are fewer queries than announced');
    const queryBytes = view.getUint32(offset);
    offset += 4;
    if (queryBytes > data.length - offset) return fail('a query is longer than the option');
    const query = parseString(data.subarray(offset, offset + queryBytes), 'a query');
    if (!query.ok) return query;
    queries.push(query.value);
    offset += queryBytes;
  }
  if (offset !== data.length) return fail(`${data.length - offset} bytes behind the last query`);
  return { ok: true, value: { name: name.value, queries } };
}

/** An export name: UTF-8 without NUL, at most 4096 bytes. Empty is legal, it asks for a default. */
export function parseExportName(bytes: Uint8Array): Parsed<string> {
  return parseString(bytes, 'a name');
}

function parseString(bytes: Uint8Array, what: string): Parsed<string> {
  if (bytes.length > LIMITS.nbdStringBytes) {
    return fail(`${what} is at most ${LIMITS.nbdStringBytes} bytes`);
  }
  if (bytes.includes(0)) return fail(`${what} contains no NUL`);
  try {
    // ignoreBOM keeps a leading U+FEFF: it is part of the name, not a mark of the encoding.
    const decoder = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true });
    return { ok: true, value: decoder.decode(bytes) };
  } catch {
    return fail(`${what} is UTF-8`);
  }
}

function fail(error: string): { readonly ok: false; readonly error: string } {
  return { ok: false, error };
}
