/** Feeding a Handshake and collecting what comes out. */
import type { ExportCatalog } from '../../../src/array/export-catalog.js';
import { type CloseOutcome, Handshake, type TransmitOutcome } from '../../../src/nbd/handshake.js';
import type { InsideTls, NegotiatedTls, StartTlsOutcome } from '../../../src/nbd/starttls.js';
import { CATALOG } from './catalog.js';

export interface Driven {
  /** Everything the server said after the greeting, in hex. */
  readonly said: string;
  readonly outcome:
    | CloseOutcome
    | Omit<TransmitOutcome, 'leftover'>
    | Omit<StartTlsOutcome, 'leftover'>
    | undefined;
  /** What is the transmission phase's: leftover of the machine and the pieces not fed to it. */
  readonly leftover: string;
  /** Bytes said at most by one `consume`. */
  readonly longestStep: number;
}

/** Feeds the pieces one by one until negotiation is over. */
export function drive(
  pieces: readonly Uint8Array[],
  catalog: ExportCatalog = CATALOG,
  tls?: NegotiatedTls,
  inside?: InsideTls,
): Driven {
  const machine = new Handshake(catalog, tls, inside);
  const said: Uint8Array[] = [];
  for (const [index, piece] of pieces.entries()) {
    const { reply, outcome } = machine.consume(piece);
    said.push(reply);
    if (outcome === undefined) continue;
    const rest = Buffer.concat(pieces.slice(index + 1));
    if (outcome.kind === 'close') return result(said, outcome, '');
    const { leftover, ...transmit } = outcome;
    return result(said, transmit, Buffer.concat([leftover, rest]).toString('hex'));
  }
  return result(said, undefined, '');
}

function result(said: Uint8Array[], outcome: Driven['outcome'], leftover: string): Driven {
  const longestStep = Math.max(0, ...said.map((bytes) => bytes.length));
  return { said: Buffer.concat(said).toString('hex'), outcome, leftover, longestStep };
}

/** `bytes` cut at the given positions. */
export function cut(bytes: Uint8Array, positions: readonly number[]): Uint8Array[] {
  const edges = [0, ...positions, bytes.length];
  return edges.slice(1).map((end, index) => bytes.subarray(edges[index] ?? 0, end));
}

/** `bytes` one by one. */
export function singly(bytes: Uint8Array): Uint8Array[] {
  return Array.from(bytes, (_, index) => bytes.subarray(index, index + 1));
}
