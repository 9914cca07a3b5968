/** What is said about one export, or about one that does not exist. Pure. */

import type { ExportCatalog, ExportTarget } from '../array/export-catalog.js';
import { LIMITS } from '../base/limits.js';
import { BLOCK_SIZE, INFO } from './protocol.js';
import { infoBlockSize, infoExport, infoText, serverReply } from './replies.js';

/** The replies of INFO and GO before their ACK: each information once, unknown ones ignored. */
export function infoReplies(
  option: number,
  chosen: ExportTarget,
  asked: ReadonlySet<number>,
  flags: number,
): Buffer[] {
  const replies = [infoExport(option, chosen.sizeBytes, flags)];
  if (asked.has(INFO.name)) replies.push(infoText(option, INFO.name, chosen.name));
  if (asked.has(INFO.description)) {
    replies.push(infoText(option, INFO.description, chosen.description));
  }
  if (asked.has(INFO.blockSize)) replies.push(infoBlockSize(option, minimumBlock(chosen)));
  return replies;
}

/** What offsets and lengths on an export are multiples of, for clients that keep to it. */
export function minimumBlock(chosen: ExportTarget): number {
  return chosen.blockBytes === 4096 ? chosen.blockBytes : BLOCK_SIZE.minimum;
}

/** Why there is no such export, and the way out; `example` is a name that would do. */
export function unknownExport(name: string, example: string | undefined): string {
  const what = name === '' ? 'there is no default export' : `there is no export ${quote(name)}`;
  if (example === undefined) return `${what}, this array has no volumes for you`;
  return `${what}. Ask for a volume's serial (as ${example}), id or name; LIST shows them`;
}

/** A name from the network as part of one printable line. */
function quote(name: string): string {
  const shown = name.length > 64 ? `${name.slice(0, 64)}...` : name;
  // Control characters and lone surrogates (a pair may have been cut) become a question mark.
  return `'${shown.replace(/[\p{Cc}\p{Cf}\p{Cs}\u2028\u2029]/gu, '?')}'`;
}

/** How much one connection may have listed: a list of thousands of LUNs costs time. */
export class ListBudget {
  #spentBytes = 0;

  /** The replies of LIST before their ACK; undefined when the budget is spent, then unasked. */
  list(option: number, catalog: ExportCatalog): Buffer[] | undefined {
    const most = LIMITS.nbdListBytesPerConnection;
    if (this.#spentBytes > most) return undefined;
    const entries: Buffer[] = [];
    for (const { name, description } of catalog.list()) {
      const entry = serverReply(option, name, description);
      this.#spentBytes += entry.length;
      if (this.#spentBytes > most) return undefined;
      entries.push(entry);
    }
    return entries;
  }
}
