/**
 * TLS in negotiation: what each mode says about an option before anything else looks at it, and
 * which exports a client may see and have. Pure; proto.md "TLS versions".
 *
 *   off      STARTTLS is refused as unsupported, everything else goes on
 *   on       STARTTLS is offered; exports that rules reserve for TLS are hidden until then
 *   require  before TLS only STARTTLS and ABORT are answered, nothing is told
 */

import type { ExportCatalog, ExportTarget } from '../array/export-catalog.js';
import { OPTION, REPLY } from './protocol.js';
import { describeIdentity, type TlsPeer } from './tls-identity.js';
import { isNamed, type TlsRules } from './tls-rules.js';

/** TLS as one negotiation has it; a server without TLS has none of it. */
export interface NegotiatedTls {
  readonly mode: 'on' | 'require';
  readonly rules: TlsRules;
  /** Set inside TLS. */
  readonly peer?: TlsPeer | undefined;
}

/** The client's next bytes belong to a TLS handshake; inside it a new negotiation begins. */
export interface StartTlsOutcome {
  readonly kind: 'starttls';
  /** What the negotiation inside TLS has to know of this one, and all it may know. */
  readonly inside: InsideTls;
  /** Bytes in plain text that came behind STARTTLS: somebody tries to have them taken for TLS'. */
  readonly leftover: Uint8Array;
}

/** The greeting was exchanged outside. Everything else that was agreed there is forgotten. */
export interface InsideTls {
  readonly noZeroes: boolean;
}

/** An error reply. */
export interface Refusal {
  readonly type: number;
  readonly text: string;
}

/** `pass`: TLS has nothing to say; `start`: ACK, then the TLS handshake. */
export type TlsVerdict =
  | { readonly kind: 'pass' }
  | { readonly kind: 'start' }
  | ({ readonly kind: 'refuse' } & Refusal)
  | { readonly kind: 'close'; readonly reason: string };

const PASS: TlsVerdict = { kind: 'pass' };

const TLS_REQUIRED: TlsVerdict = {
  kind: 'refuse',
  type: REPLY.errTlsRequired,
  text: 'this server needs TLS: connect with nbds:// or give the client TLS credentials',
};

/**
 * What to do with an option whose `bytes` of data have been consumed. `fixedNewstyle`: the client
 * agreed to it; without that there is no TLS (proto.md), and what passes is refused by its own
 * rules.
 */
export function tlsVerdict(
  tls: NegotiatedTls | undefined,
  option: number,
  bytes: number,
  fixedNewstyle: boolean,
): TlsVerdict {
  if (option === OPTION.startTls && fixedNewstyle) return startVerdict(tls, bytes);
  if (tls?.mode !== 'require' || tls.peer !== undefined || option === OPTION.abort) return PASS;
  if (option !== OPTION.exportName) return fixedNewstyle ? TLS_REQUIRED : PASS;
  return { kind: 'close', reason: 'EXPORT_NAME without TLS, which this server needs' };
}

function startVerdict(tls: NegotiatedTls | undefined, bytes: number): TlsVerdict {
  const invalid = (text: string): TlsVerdict => ({
    kind: 'refuse',
    type: REPLY.errInvalid,
    text,
  });
  if (bytes > 0) return invalid(`STARTTLS has no data, but ${bytes} bytes came`);
  if (tls === undefined) {
    const text = 'this server has no TLS; connect without it';
    return { kind: 'refuse', type: REPLY.errUnsupported, text };
  }
  return tls.peer === undefined ? { kind: 'start' } : invalid('TLS is on already');
}

/** Why this client may not have the export; undefined when it may. */
export function exportRefusal(
  tls: NegotiatedTls | undefined,
  target: ExportTarget,
): Refusal | undefined {
  const refusal = tls === undefined ? undefined : tlsRefusal(tls, target);
  if (refusal !== undefined || target.refusal === undefined) return refusal;
  return { type: REPLY.errPolicy, text: target.refusal };
}

function tlsRefusal(tls: NegotiatedTls, target: ExportTarget): Refusal | undefined {
  const rule = tls.rules.for(target);
  if (rule === undefined || !rule.required) return undefined;
  if (tls.peer === undefined) {
    const text = 'this export needs TLS: connect with nbds:// or give the client TLS credentials';
    return { type: REPLY.errTlsRequired, text };
  }
  if (rule.clients === undefined || isNamed(tls.peer.identity, rule.clients)) return undefined;
  const who = describeIdentity(tls.peer.identity);
  return { type: REPLY.errPolicy, text: `this export is not for this client (${who})` };
}

/** The catalog without what this client may not have; such an export is still found by name. */
export function visibleCatalog(
  tls: NegotiatedTls | undefined,
  catalog: ExportCatalog,
): ExportCatalog {
  if (tls === undefined || tls.rules.isEmpty) return catalog;
  const isVisible = (name: string): boolean => {
    const target = catalog.resolve(name);
    return target !== undefined && tlsRefusal(tls, target) === undefined;
  };
  return {
    list: () => catalog.list().filter(({ name }) => isVisible(name)),
    example: () => {
      const example = catalog.example();
      return example !== undefined && isVisible(example) ? example : undefined;
    },
    resolve: (name) => catalog.resolve(name),
    bitmaps: (volumeId) => catalog.bitmaps?.(volumeId) ?? [],
  };
}
