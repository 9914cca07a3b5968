/**
 * The ESS's registration strings (ess.md section 5): how a command line client makes itself known.
 *
 *   102,<kind>,<mask>,<host>,<address>,<bool>,<bool>  registerClient, answered with a new client id
 *   101,<kind>,<mask>,<id>                            connectToServerProt2, quotes that id
 *
 *   reply 102: 102,513,<mask>,<id>,<rc>     reply 101: 101,516,<mask>,<id>,<rc>
 *
 * Text, comma separated, nothing escaped. <mask> is 48 bits in hex; the reply sets bit 47 to
 * acknowledge, and only that. <rc> 0 is success; the other numbers are ours, no transcript shows
 * one. The framing on the ESS's wire is unknown; ours is one string a line, answered line by line.
 *
 * What a client can cost is bounded: lines of a request, their length, clients remembered, and
 * registrations a second of one address, because each id is written to disk before it is told.
 */

import { FlashlunError } from '../base/errors.js';
import { LIMITS } from '../base/limits.js';
import { shorten } from '../base/shorten.js';
import type { CounterRepository } from '../metadata/counters.js';

/** The first id given out: the one of the white paper's first client. */
export const FIRST_CLIENT_ID = 339_454_995;

/** Last field of a reply. */
export const REGISTRATION_RC = { ok: 0, unknownClient: 1, badField: 2, busy: 3 } as const;

/** Who registered under an id, by its own account. */
export interface RegisteredClient {
  readonly host: string;
  readonly address: string;
}

const REGISTER_CLIENT = '102';
const CONNECT_STATUS = '101';
const ACKNOWLEDGED = 1n << 47n;

interface Request {
  readonly code: string;
  readonly mask: string;
  readonly fields: readonly string[];
}

export class Registration {
  readonly #counters: CounterRepository;
  readonly #now: () => number;
  /** Ids given out by this process; oldest first. */
  readonly #clients = new Map<number, RegisteredClient>();
  /** By address: registrations that may still come at once. Oldest use first. */
  readonly #allowances = new Map<string, { left: number; atMs: number }>();

  constructor(counters: CounterRepository, now: () => number = () => performance.now()) {
    this.#counters = counters;
    this.#now = now;
  }

  /**
   * Answers request strings, one a line, in as many lines. All are looked at before the first is
   * answered, so a malformed one changes nothing.
   *
   * @param from the address that asks; those that register too fast are told so (rc 3)
   * @throws FlashlunError INVALID_ARGUMENT when a line is so malformed that it has no reply
   */
  handle(text: string, from = ''): string {
    const lines = text.replace(/(\r?\n)+$/, '').split(/\r?\n/);
    if (lines.length > LIMITS.registrationLines) {
      throw new FlashlunError(
        'INVALID_ARGUMENT',
        `registration refused: ${lines.length} lines, and ${LIMITS.registrationLines} are the ` +
          'most of one request. Send them in several.',
      );
    }
    const requests = lines.map(parse);
    return requests.map((request) => this.#answer(request, from)).join('\n');
  }

  /** Who has this id. @throws FlashlunError INVALID_ARGUMENT nobody has it */
  client(id: number): RegisteredClient {
    const client = this.#clients.get(id);
    if (client !== undefined) return client;
    throw new FlashlunError(
      'INVALID_ARGUMENT',
      `client ${id} is not registered with this server. Register (102,...) and try again.`,
    );
  }

  #answer(request: Request, from: string): string {
    return request.code === REGISTER_CLIENT
      ? this.#register(request, from)
      : this.#connect(request);
  }

  #register({ fields, mask }: Request, from: string): string {
    const [, kind, , host, address, ...flags] = fields;
    // A comma in a host name shows as a wrong number of fields.
    const complete =
      fields.length === 7 && isKind(kind) && isText(host) && isText(address) && flags.every(isFlag);
    if (!complete) return `102,513,${mask},0,${REGISTRATION_RC.badField}`;
    if (!this.#allows(from)) return `102,513,${mask},0,${REGISTRATION_RC.busy}`;
    const id = this.#counters.next('client-id', FIRST_CLIENT_ID);
    this.#clients.set(id, { host, address });
    dropOldest(this.#clients, LIMITS.registeredClients);
    return `102,513,${acknowledge(mask)},${id},${REGISTRATION_RC.ok}`;
  }

  #connect({ fields, mask }: Request): string {
    const text = fields[3] ?? '';
    if (fields.length !== 4 || !isKind(fields[1]) || !/^\d{1,15}$/.test(text)) {
      return `101,516,${mask},0,${REGISTRATION_RC.badField}`;
    }
    const id = Number(text);
    if (!this.#clients.has(id)) return `101,516,${mask},${id},${REGISTRATION_RC.unknownClient}`;
    return `101,516,${acknowledge(mask)},${id},${REGISTRATION_RC.ok}`;
  }

  /** A bucket for each address: a burst, then a steady rate. */
  #allows(from: string): boolean {
    const nowMs = this.#now();
    const before = this.#allowances.get(from) ?? { left: LIMITS.registrationBurst, atMs: nowMs };
    const earned = ((nowMs - before.atMs) / 1000) * LIMITS.registrationsPerSecond;
    const left = Math.min(before.left + earned, LIMITS.registrationBurst);
    const allowed = left >= 1;
    this.#allowances.delete(from);
    this.#allowances.set(from, { left: allowed ? left - 1 : left, atMs: nowMs });
    dropOldest(this.#allowances, LIMITS.registrationAddresses);
    return allowed;
  }
}

function parse(line: string): Request {
  if (line.length > LIMITS.registrationLineBytes) throw malformed(line);
  const fields = line.split(',').map((field) => field.trim());
  const [code = '', , mask = ''] = fields;
  const known = code === REGISTER_CLIENT || code === CONNECT_STATUS;
  if (!known || !/^[0-9a-f]{12}$/i.test(mask)) throw malformed(line);
  return { code, mask, fields };
}

/** `7ffb00bf007f` -> `fffb00bf007f`. */
function acknowledge(mask: string): string {
  return (BigInt(`0x${mask}`) | ACKNOWLEDGED).toString(16).padStart(12, '0');
}

function isKind(text: string | undefined): boolean {
  return text !== undefined && /^\d{1,9}$/.test(text);
}

function isFlag(text: string): boolean {
  return /^(true|false)$/i.test(text);
}

function isText(text: string | undefined): text is string {
  return (
    text !== undefined &&
    text.length <= LIMITS.registrationFieldBytes &&
    /^[\x21-\x7e]+$/.test(text)
  );
}

function dropOldest(map: Map<unknown, unknown>, most: number): void {
  if (map.size <= most) return;
  const [oldest] = map.keys();
  map.delete(oldest);
}

function malformed(line: string): FlashlunError {
  const shown = line === '' ? 'an empty line' : `'${shorten(line.replace(/\p{Cc}/gu, '?'))}'`;
  return new FlashlunError(
    'INVALID_ARGUMENT',
    `registration refused: ${shown} is neither 102,<kind>,<mask>,<host>,<address>,<bool>,<bool> ` +
      'nor 101,<kind>,<mask>,<id>, with a mask of 12 hex digits.',
  );
}
