/**
 * NBD negotiation as a pure byte state machine: bytes in, bytes and at last an outcome out. No
 * socket, no timer, no clock, so every split of the input can be tested; negotiation.ts drives it.
 *
 *   flags  --4 bytes-->  header  --16 bytes-->  data or drain  --length bytes-->  header ...
 *
 * Each state reads exactly the bytes it needs into `#slot`, so nothing is ever read past the end of
 * an option, and what follows GO is left over for the transmission phase untouched. Only options
 * whose data is looked at (STORED) are stored; the data of all others is counted and dropped.
 * Whatever the answer, the option's data has been consumed when it is given, so the next option is
 * found where it starts.
 *
 * Memory and output are bounded by LIMITS.nbd*, whatever arrives.
 */

import type { ExportCatalog, ExportTarget } from '../array/export-catalog.js';
import { assert } from '../base/assert.js';
import { LIMITS } from '../base/limits.js';
import type { Negotiated } from '../engine/types.js';
import { infoReplies, ListBudget, minimumBlock, unknownExport } from './export-answers.js';
import { Features } from './features.js';
import {
  type Parsed,
  parseContextRequest,
  parseExportName,
  parseExportRequest,
} from './options.js';
import { BLOCK_SIZE, CLIENT_FLAG, INFO, MAGIC, OPTION, REPLY, WIRE } from './protocol.js';
import { errorReply, exportNameReply, optionReply, transmissionFlags } from './replies.js';
import type { InsideTls, NegotiatedTls, StartTlsOutcome } from './starttls.js';
import { exportRefusal, tlsVerdict, visibleCatalog } from './starttls.js';

/** Negotiation succeeded: the next byte of the client is its first request. */
export interface TransmitOutcome extends Negotiated {
  readonly kind: 'transmit';
  readonly export: ExportTarget;
  /** Bytes of the last `consume` behind the handshake. */
  readonly leftover: Uint8Array;
}

/**
 * The connection is to be closed once the reply is out: `abort` the client said so, `refused` what
 * it asked for cannot be had, `violation` it broke the protocol, `limit` it went over one of ours.
 */
export interface CloseOutcome {
  readonly kind: 'close';
  readonly cause: 'abort' | 'refused' | 'violation' | 'limit';
  /** For the log, one line. */
  readonly reason: string;
}

export interface HandshakeStep {
  /** To be sent in this order; often empty. */
  readonly reply: Uint8Array;
  /** Set when negotiation is over; `consume` must not be called again. */
  readonly outcome: TransmitOutcome | StartTlsOutcome | CloseOutcome | undefined;
}

type State = 'flags' | 'header' | 'data' | 'drain' | 'done';

const EMPTY = new Uint8Array(0);

/** Options whose data is looked at. */
const STORED: ReadonlySet<number> = new Set([
  OPTION.exportName,
  OPTION.info,
  OPTION.go,
  OPTION.listMetaContext,
  OPTION.setMetaContext,
]);

/** One client's negotiation. Send `greeting()` of replies.ts first, then feed what arrives. */
export class Handshake {
  readonly #catalog: ExportCatalog;
  readonly #tls: NegotiatedTls | undefined;
  #state: State = 'flags';
  /** Bytes of the current item, and how many of them are here. Empty while draining. */
  #slot = new Uint8Array(WIRE.clientFlags);
  #filledBytes = 0;
  #drainBytes = 0;
  /** The option at hand: number and length of its data. */
  #option = 0;
  #optionBytes = 0;
  #optionCount = 0;
  readonly #listed = new ListBudget();
  #unknownCount = 0;
  #fixedNewstyle = false;
  #noZeroes = false;
  #features = new Features();
  #replies: Uint8Array[] = [];
  #outcome:
    | CloseOutcome
    | Omit<TransmitOutcome, 'leftover'>
    | Omit<StartTlsOutcome, 'leftover'>
    | undefined;

  /** `inside`: of a negotiation that goes on inside TLS, which begins with an option. */
  constructor(catalog: ExportCatalog, tls?: NegotiatedTls, inside?: InsideTls) {
    this.#catalog = visibleCatalog(tls, catalog);
    this.#tls = tls;
    if (inside === undefined) return;
    this.#fixedNewstyle = true;
    this.#noZeroes = inside.noZeroes;
    this.#expect('header', WIRE.optionHeader);
  }

  /** Takes the next bytes of the client, however they were split. Never throws for any input. */
  consume(bytes: Uint8Array): HandshakeStep {
    assert(this.#state !== 'done', 'a finished negotiation takes no more bytes');
    let offset = 0;
    do {
      offset += this.#take(bytes.subarray(offset));
      if (this.#isComplete()) this.#advance();
    } while (this.#outcome === undefined && (offset < bytes.length || this.#isComplete()));
    const reply = this.#replies.length === 0 ? EMPTY : Buffer.concat(this.#replies);
    this.#replies = [];
    return { reply, outcome: this.#finish(bytes.subarray(offset)) };
  }

  /** Copies or drops what the current item still lacks; returns how many bytes that were. */
  #take(bytes: Uint8Array): number {
    if (this.#state === 'drain') {
      const count = Math.min(bytes.length, this.#drainBytes);
      this.#drainBytes -= count;
      return count;
    }
    const count = Math.min(bytes.length, this.#slot.length - this.#filledBytes);
    this.#slot.set(bytes.subarray(0, count), this.#filledBytes);
    this.#filledBytes += count;
    return count;
  }

  #isComplete(): boolean {
    return this.#state === 'drain'
      ? this.#drainBytes === 0
      : this.#filledBytes === this.#slot.length;
  }

  #expect(state: 'header' | 'data', bytes: number): void {
    this.#state = state;
    this.#slot = new Uint8Array(bytes);
    this.#filledBytes = 0;
  }

  #advance(): void {
    switch (this.#state) {
      case 'flags':
        this.#onClientFlags();
        break;
      case 'header':
        this.#onOptionHeader();
        break;
      case 'data':
      case 'drain':
        this.#onOption();
        break;
      case 'done':
        assert(false, 'nothing advances after the end');
    }
  }

  #finish(rest: Uint8Array): HandshakeStep['outcome'] {
    if (this.#outcome === undefined) return undefined;
    this.#state = 'done';
    if (this.#outcome.kind === 'close') return this.#outcome;
    return { ...this.#outcome, leftover: rest };
  }

  #close(cause: CloseOutcome['cause'], reason: string): void {
    this.#outcome = { kind: 'close', cause, reason };
  }

  #send(reply: Uint8Array): void {
    this.#replies.push(reply);
  }

  #refuse(type: number, text: string): void {
    this.#send(errorReply(this.#option, type, text));
  }

  #onClientFlags(): void {
    const flags = view(this.#slot).readUInt32BE(0);
    const known = CLIENT_FLAG.fixedNewstyle | CLIENT_FLAG.noZeroes;
    if ((flags & ~known) !== 0) {
      // The client means something we do not know, and there is no reply to say so (H2).
      this.#close('violation', `unknown client flags 0x${flags.toString(16)}`);
      return;
    }
    this.#fixedNewstyle = (flags & CLIENT_FLAG.fixedNewstyle) !== 0;
    this.#noZeroes = (flags & CLIENT_FLAG.noZeroes) !== 0;
    this.#expect('header', WIRE.optionHeader);
  }

  #onOptionHeader(): void {
    const header = view(this.#slot);
    if (header.readBigUInt64BE(0) !== MAGIC.option) {
      this.#close('violation', 'an option does not start with IHAVEOPT');
      return;
    }
    this.#option = header.readUInt32BE(8);
    this.#optionBytes = header.readUInt32BE(12);
    this.#optionCount += 1;
    if (this.#optionCount > LIMITS.nbdOptionsPerConnection) {
      this.#close('limit', `more than ${LIMITS.nbdOptionsPerConnection} options`);
    } else if (this.#optionBytes > LIMITS.nbdOptionDrainBytes) {
      this.#close('limit', `option ${this.#option} with ${this.#optionBytes} bytes of data`);
    } else if (this.#isStored()) {
      this.#expect('data', this.#optionBytes);
    } else {
      this.#state = 'drain';
      this.#drainBytes = this.#optionBytes;
    }
  }

  #isStored(): boolean {
    return STORED.has(this.#option) && this.#optionBytes <= LIMITS.nbdOptionDataBytes;
  }

  /** Answers the option whose data has been consumed, and goes on to the next header. */
  #onOption(): void {
    const stored = this.#state === 'data' ? this.#slot : undefined;
    if (this.#isDecidedByTls()) {
      // Answered, before anything else looked at it.
    } else if (this.#option === OPTION.exportName) this.#onExportName(stored);
    else if (this.#option === OPTION.abort) this.#onAbort();
    else if (!this.#fixedNewstyle) {
      // Only EXPORT_NAME is legal then (H3). QEMU hangs up; an error that keeps in step is kinder.
      this.#refuse(
        REPLY.errInvalid,
        'options other than EXPORT_NAME need the client flag FIXED_NEWSTYLE',
      );
    } else this.#onFixedOption(stored);
    this.#expect('header', WIRE.optionHeader);
  }

  #isDecidedByTls(): boolean {
    const verdict = tlsVerdict(this.#tls, this.#option, this.#optionBytes, this.#fixedNewstyle);
    if (verdict.kind === 'refuse') this.#refuse(verdict.type, verdict.text);
    else if (verdict.kind === 'close') this.#close('refused', verdict.reason);
    else if (verdict.kind === 'start') {
      this.#send(optionReply(this.#option, REPLY.ack));
      this.#outcome = { kind: 'starttls', inside: { noZeroes: this.#noZeroes } };
    }
    return verdict.kind !== 'pass';
  }

  #onFixedOption(stored: Uint8Array | undefined): void {
    switch (this.#option) {
      case OPTION.list:
        if (this.#hasNoData('LIST')) this.#onList();
        break;
      case OPTION.info:
      case OPTION.go:
        this.#onInfoOrGo(stored);
        break;
      case OPTION.structuredReply:
        if (this.#hasNoData('STRUCTURED_REPLY')) this.#send(this.#features.structuredReply());
        break;
      case OPTION.extendedHeaders:
        if (this.#hasNoData('EXTENDED_HEADERS')) this.#send(this.#features.extendedHeaders());
        break;
      case OPTION.listMetaContext:
      case OPTION.setMetaContext:
        this.#onMetaContext(stored);
        break;
      default:
        this.#refuse(REPLY.errUnsupported, `option ${this.#option} is not supported`);
    }
  }

  #hasNoData(name: string): boolean {
    if (this.#optionBytes === 0) return true;
    this.#refuse(REPLY.errInvalid, `${name} has no data, but ${this.#optionBytes} bytes came`);
    return false;
  }

  #onAbort(): void {
    this.#send(optionReply(this.#option, REPLY.ack));
    this.#close('abort', 'the client ended negotiation');
  }

  /** The export behind an option that names one; undefined when that has been refused. */
  #exportOf<T extends { readonly name: string }>(
    stored: Uint8Array | undefined,
    parse: (data: Uint8Array) => Parsed<T>,
  ): { request: T; chosen: ExportTarget } | undefined {
    if (stored === undefined) {
      const most = LIMITS.nbdOptionDataBytes;
      this.#refuse(REPLY.errTooBig, `option data is at most ${most} bytes`);
      return undefined;
    }
    const parsed = parse(stored);
    if (!parsed.ok) {
      this.#refuse(REPLY.errInvalid, parsed.error);
      return undefined;
    }
    const chosen = this.#catalog.resolve(parsed.value.name);
    if (chosen === undefined) {
      this.#onUnknownExport(parsed.value.name);
      return undefined;
    }
    const refusal = exportRefusal(this.#tls, chosen);
    if (refusal !== undefined) {
      this.#refuse(refusal.type, refusal.text);
      return undefined;
    }
    return { request: parsed.value, chosen };
  }

  #onMetaContext(stored: Uint8Array | undefined): void {
    const setting = this.#option === OPTION.setMetaContext;
    if (setting) this.#features.forgetContexts();
    if (setting && this.#features.replies === 'simple') {
      const text = 'contexts need STRUCTURED_REPLY or EXTENDED_HEADERS first';
      this.#refuse(REPLY.errInvalid, text);
      return;
    }
    const found = this.#exportOf(stored, parseContextRequest);
    if (found === undefined) return;
    const bitmaps = this.#catalog.bitmaps?.(found.chosen.volumeId) ?? [];
    const replies = setting
      ? this.#features.setContexts(found.request, bitmaps)
      : this.#features.listContexts(found.request, bitmaps);
    for (const reply of replies) this.#send(reply);
  }

  #onList(): void {
    const entries = this.#listed.list(this.#option, this.#catalog);
    if (entries === undefined) {
      this.#refuse(REPLY.errTooBig, 'too much listed on one connection; connect again to list');
      return;
    }
    for (const entry of entries) this.#send(entry);
    this.#send(optionReply(this.#option, REPLY.ack));
  }

  #onInfoOrGo(stored: Uint8Array | undefined): void {
    const found = this.#exportOf(stored, parseExportRequest);
    if (found === undefined) return;
    const { request, chosen } = found;
    const flags = this.#flagsOf(chosen, request.name);
    for (const info of infoReplies(this.#option, chosen, request.infos, flags)) this.#send(info);
    this.#send(optionReply(this.#option, REPLY.ack));
    // Who did not ask may send anything (nbd-client, wnbd); who did has to keep to it.
    const asked = request.infos.has(INFO.blockSize);
    const minBlockBytes = asked ? minimumBlock(chosen) : BLOCK_SIZE.minimum;
    if (this.#option === OPTION.go) this.#transmit(chosen, request.name, minBlockBytes);
  }

  #onUnknownExport(name: string): void {
    this.#unknownCount += 1;
    this.#refuse(REPLY.errUnknown, unknownExport(name, this.#catalog.example()));
    if (this.#unknownCount === LIMITS.nbdUnknownNamesPerConnection) {
      this.#close('limit', `asked for ${this.#unknownCount} exports that do not exist`);
    }
  }

  /** EXPORT_NAME has no error reply, so whatever is wrong ends the connection. */
  #onExportName(stored: Uint8Array | undefined): void {
    const parsed = stored === undefined ? undefined : parseExportName(stored);
    if (!parsed?.ok) {
      this.#close('violation', `EXPORT_NAME: ${parsed?.error ?? 'the name is too long'}`);
      return;
    }
    if (this.#features.replies === 'extended') {
      this.#close('violation', 'EXPORT_NAME after EXTENDED_HEADERS');
      return;
    }
    const chosen = this.#catalog.resolve(parsed.value);
    if (chosen === undefined) {
      const why = unknownExport(parsed.value, this.#catalog.example());
      this.#close('refused', `EXPORT_NAME: ${why}`);
      return;
    }
    const refusal = exportRefusal(this.#tls, chosen);
    if (refusal !== undefined) {
      this.#close('refused', `EXPORT_NAME: ${refusal.text}`);
      return;
    }
    const flags = this.#flagsOf(chosen, parsed.value);
    this.#send(exportNameReply(chosen.sizeBytes, flags, !this.#noZeroes));
    this.#transmit(chosen, parsed.value, BLOCK_SIZE.minimum);
  }

  #flagsOf(chosen: ExportTarget, name: string): number {
    const { replies } = this.#features;
    return transmissionFlags(chosen.readOnly, replies, this.#features.contexts(name).length);
  }

  #transmit(chosen: ExportTarget, name: string, minBlockBytes: number): void {
    const { replies } = this.#features;
    const contexts = this.#features.contexts(name);
    this.#outcome = { kind: 'transmit', export: chosen, replies, contexts, minBlockBytes };
  }
}

function view(bytes: Uint8Array): Buffer {
  return Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength);
}
