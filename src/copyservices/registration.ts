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
 * one. The framing on the ESS's wire is unknown; ours is one string a message.
 */

import { FlashlunError } from '../base/errors.js';
import { LIMITS } from '../base/limits.js';
import type { CounterRepository } from '../metadata/counters.js';

/** The first id given out: the one of the white paper's first client. */
export const FIRST_CLIENT_ID = 339_454_995;

/** Last field of a reply. */
export const REGISTRATION_RC = { ok: 0, unknownClient: 1, badField: 2 } as const;

const REGISTER_CLIENT = '102';
const CONNECT_STATUS = '101';
const ACKNOWLEDGED = 1n << 47n;

export class Registration {
  readonly #counters: CounterRepository;
  /** Ids given out by this process that may still join the status server; oldest first. */
  readonly #clients = new Set<number>();

  constructor(counters: CounterRepository) {
    this.#counters = counters;
  }

  /**
   * Answers one request string.
   *
   * @throws FlashlunError INVALID_ARGUMENT when it is so malformed that no reply can be formed
   */
  handle(request: string): string {
    const fields = request.split(',').map((field) => field.trim());
    const [code, , mask] = fields;
    if (mask === undefined || !/^[0-9a-f]{12}$/i.test(mask)) throw malformed();
    if (code === REGISTER_CLIENT) return this.#register(fields, mask);
    if (code === CONNECT_STATUS) return this.#connect(fields, mask);
    throw malformed();
  }

  #register(fields: readonly string[], mask: string): string {
    const [, , , host, address] = fields;
    // A comma in a host name shows as a wrong number of fields.
    const complete = fields.length === 7 && isFieldText(host) && isFieldText(address);
    if (!complete) return `102,513,${mask},0,${REGISTRATION_RC.badField}`;
    const id = this.#counters.next('client-id', FIRST_CLIENT_ID);
    this.#remember(id);
    return `102,513,${acknowledge(mask)},${id},${REGISTRATION_RC.ok}`;
  }

  #connect(fields: readonly string[], mask: string): string {
    const text = fields[3] ?? '';
    if (fields.length !== 4 || !/^\d{1,15}$/.test(text)) {
      return `101,516,${mask},0,${REGISTRATION_RC.badField}`;
    }
    const known = this.#clients.has(Number(text));
    if (!known) return `101,516,${mask},${text},${REGISTRATION_RC.unknownClient}`;
    return `101,516,${acknowledge(mask)},${text},${REGISTRATION_RC.ok}`;
  }

  #remember(id: number): void {
    this.#clients.add(id);
    if (this.#clients.size <= LIMITS.registeredClients) return;
    const [oldest] = this.#clients;
    if (oldest !== undefined) this.#clients.delete(oldest);
  }
}

/** `7ffb00bf007f` -> `fffb00bf007f`. */
function acknowledge(mask: string): string {
  return (BigInt(`0x${mask}`) | ACKNOWLEDGED).toString(16).padStart(12, '0');
}

function isFieldText(text: string | undefined): boolean {
  return (
    text !== undefined &&
    text.length <= LIMITS.registrationFieldBytes &&
    /^[\x21-\x7e]+$/.test(text)
  );
}

function malformed(): FlashlunError {
  return new FlashlunError(
    'INVALID_ARGUMENT',
    'registration refused: send 102,<kind>,<mask>,<host>,<address>,<bool>,<bool> or ' +
      '101,<kind>,<mask>,<id>, with a mask of 12 hex digits.',
  );
}
