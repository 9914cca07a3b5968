/**
 * Password hashes: scrypt from node:crypto, stored as PHC strings
 * `$scrypt$ln=17,r=8,p=1$SALT$HASH` (base64 without padding), so that the cost can be raised later
 * and old entries still verify.
 */

import { randomBytes, scrypt, timingSafeEqual } from 'node:crypto';
import { assert } from '../base/assert.js';

/** How much work one hash is; memory is 128 * r * 2^ln bytes. */
export interface ScryptCost {
  /** log2 of N. */
  readonly ln: number;
  readonly r: number;
  readonly p: number;
}

/** OWASP's first choice for scrypt: N = 2^17, 128 MiB, about 300 ms here. */
export const DEFAULT_COST: ScryptCost = { ln: 17, r: 8, p: 1 };

const SALT_BYTES = 16;
const HASH_BYTES = 32;
/** A stored string may not make us allocate without bound: 2^20 * 8 * 128 is 1 GiB. */
const MAX_LN = 20;

/** The PHC string to store for `password`. */
export async function hashPassword(password: string, cost = DEFAULT_COST): Promise<string> {
  const salt = randomBytes(SALT_BYTES);
  const hash = await derive(password, salt, HASH_BYTES, cost);
  const parameters = `ln=${cost.ln},r=${cost.r},p=${cost.p}`;
  return `$scrypt$${parameters}$${encode(salt)}$${encode(hash)}`;
}

/** Whether `password` belongs to the PHC string; false for a string of an unknown form. */
export async function verifyPassword(password: string, phc: string): Promise<boolean> {
  const match =
    /^\$scrypt\$ln=(\d{1,2}),r=(\d{1,2}),p=(\d{1,2})\$([A-Za-z0-9+/]+)\$([A-Za-z0-9+/]+)$/.exec(
      phc,
    );
  if (match === null) return false;
  const [, ln, r, p, salt, hash] = match;
  assert(salt !== undefined && hash !== undefined, 'the expression has five groups');
  const cost = { ln: Number(ln), r: Number(r), p: Number(p) };
  if (cost.ln > MAX_LN) return false;
  const expected = Buffer.from(hash, 'base64');
  const actual = await derive(password, Buffer.from(salt, 'base64'), expected.length, cost);
  return timingSafeEqual(actual, expected);
}

function derive(password: string, salt: Buffer, bytes: number, cost: ScryptCost): Promise<Buffer> {
  const N = 2 ** cost.ln;
  // OpenSSL refuses above maxmem; what it needs is 128 * N * r and a little.
  const options = { N, r: cost.r, p: cost.p, maxmem: 256 * N * cost.r };
  return new Promise((resolve, reject) => {
    scrypt(password, salt, bytes, options, (error, key) => {
      if (error === null) resolve(key);
      else reject(error);
    });
  });
}

function encode(bytes: Buffer): string {
  return bytes.toString('base64').replaceAll('=', '');
}
