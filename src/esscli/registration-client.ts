/**
 * The client's half of the registration strings.
 *
 *   register            102,<kind>,<mask>,<host>,<address>,<bool>,<bool>
 *                       -> 102,513,<mask | bit 47>,<new id>,<rc>
 *   join status server  101,<kind>,<mask>,<id>
 *                       -> 101,516,<mask | bit 47>,<id>,<rc>
 *
 * ASCII without escaping, so no field may hold a comma. kind 3 is a command line client; the mask
 * is what such clients always sent. One string per message is our framing; the original's is not
 * known.
 */

import { FlashlunError } from '../base/errors.js';

const KIND_CLI = 3;
const MASK = '7ffb00bf007f';
/** MASK with bit 47 set. */
const ACKNOWLEDGED_MASK = 'fffb00bf007f';
const REGISTER = { code: 102, reply: 513 };
const JOIN_STATUS = { code: 101, reply: 516 };

/** `102,...` for this host. @throws FlashlunError USAGE a host name that cannot be sent */
export function registerRequest(host: string, address: string): string {
  if (!/^[\x21-\x2b\x2d-\x7e]{1,255}$/.test(host)) {
    throw new FlashlunError(
      'USAGE',
      `host name '${host}' cannot be registered: it must be plain ASCII without blanks and ` +
        'commas. Set RS_HOST to another name.',
    );
  }
  return `${REGISTER.code},${KIND_CLI},${MASK},${host},${address},false,false`;
}

/** `101,...` for a client id that a registration gave. */
export function joinStatusRequest(clientId: number): string {
  return `${JOIN_STATUS.code},${KIND_CLI},${MASK},${clientId}`;
}

/**
 * The new client id of a `102` reply. @throws FlashlunError UNAUTHENTICATED refused, INTERNAL not
 * such a reply
 */
export function parseRegisterReply(text: string): number {
  return parseReply(text, REGISTER);
}

/**
 * Checks the reply to a `101`. @throws FlashlunError UNAUTHENTICATED refused, INTERNAL not such a
 * reply
 */
export function checkJoinStatusReply(text: string, clientId: number): void {
  const id = parseReply(text, JOIN_STATUS);
  if (id !== clientId) throw malformed(text);
}

function parseReply(text: string, expected: { code: number; reply: number }): number {
  const fields = text.split(',').map((field) => field.trim());
  const [code, reply, mask, id, result] = fields;
  if (fields.length !== 5 || code !== String(expected.code) || reply !== String(expected.reply)) {
    throw malformed(text);
  }
  if (result !== '0') {
    throw new FlashlunError(
      'UNAUTHENTICATED',
      `the server refused the registration with return code ${result}. Try again.`,
    );
  }
  if (mask?.toLowerCase() !== ACKNOWLEDGED_MASK || !/^\d{1,10}$/.test(id ?? '')) {
    throw malformed(text);
  }
  return Number(id);
}

function malformed(text: string): FlashlunError {
  return new FlashlunError(
    'INTERNAL',
    `the server answered the registration with '${text.slice(0, 80)}', which is no registration ` +
      'reply. Check the address.',
  );
}
