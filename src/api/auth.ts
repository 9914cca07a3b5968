/**
 * Users, log-in and sessions.
 *
 * A session is a random token of 256 bits; the database holds its SHA-256, so a stolen database
 * logs nobody in. Guessing is slowed by counting failures per user and address: above the limit,
 * log-ins are tried one after the other with a pause before each. They are not refused, as long as
 * few wait, so that a script with an old password does not lock out whoever has the right one. The
 * pause comes before the password is looked at, so waiting tells nothing about it. The work
 * one log-in costs (scrypt: 128 MiB, 300 ms) is bounded in number. A password that was right is
 * remembered as a keyed hash until the process ends, because command lines log in for every
 * command.
 */

import { createHash, createHmac, randomBytes, timingSafeEqual } from 'node:crypto';
import { setTimeout as delay } from 'node:timers/promises';
import { FlashlunError } from '../base/errors.js';
import { LIMITS } from '../base/limits.js';
import {
  DEFAULT_COST,
  hashPassword,
  type ScryptCost,
  verifyPassword,
} from '../metadata/passwords.js';
import type { Role, SessionRepository, User, UserRepository } from '../metadata/users.js';
import { FailureCounter } from './failure-counter.js';
import { Places } from './places.js';

export interface LoginResult {
  readonly token: string;
  readonly user: string;
  readonly role: Role;
  readonly expiresAt: string;
}

/** Who makes a request. */
export interface Principal {
  readonly user: string;
  readonly role: Role;
}

export interface AuthOptions {
  readonly users: UserRepository;
  readonly sessions: SessionRepository;
  /** Milliseconds since 1970; tests set the time. */
  readonly now?: () => number;
  /** How log-ins wait for their turn; tests do not. */
  readonly sleep?: (milliseconds: number) => Promise<unknown>;
  /** Of new password hashes. */
  readonly cost?: ScryptCost;
}

const TOKEN_BYTES = 32;

export class Auth {
  readonly #users: UserRepository;
  readonly #sessions: SessionRepository;
  readonly #now: () => number;
  readonly #cost: ScryptCost;
  readonly #sleep: (milliseconds: number) => Promise<unknown>;
  readonly #userFailures: FailureCounter;
  readonly #addressFailures: FailureCounter;
  readonly #places = new Places(LIMITS.loginsInFlight, LIMITS.loginsWaiting);
  /** Key of the hashes in #verified; lives and dies with the process. */
  readonly #key = randomBytes(32);
  /** User -> keyed hash of the stored string and the password that matched it. */
  readonly #verified = new Map<string, Buffer>();
  /** Verified for unknown users, so that they take as long as known ones. Made at first use. */
  #decoy: Promise<string> | undefined;

  constructor(options: AuthOptions) {
    this.#users = options.users;
    this.#sessions = options.sessions;
    this.#now = options.now ?? Date.now;
    this.#cost = options.cost ?? DEFAULT_COST;
    // A log-in that waits must not keep a stopping process.
    this.#sleep = options.sleep ?? ((ms) => delay(ms, undefined, { ref: false }));
    this.#userFailures = new FailureCounter(LIMITS.loginFailuresPerMinute, this.#now);
    this.#addressFailures = new FailureCounter(LIMITS.loginFailuresPerAddress, this.#now);
  }

  /**
   * Checks user and password and opens a session.
   *
   * @throws FlashlunError UNAUTHENTICATED (which of the two was wrong is not said), RATE_LIMITED
   */
  async login(name: string, password: string, address: string): Promise<LoginResult> {
    const pair = `${address} ${name}`;
    // Counted before anything is awaited: attempts that come at the same time must all be seen.
    const waitMs = [this.#userFailures.begin(pair), this.#addressFailures.begin(address)];
    let isWrong = false;
    try {
      await this.#awaitTurn(waitMs);
      const user = this.#users.get(name);
      isWrong = !(await this.#matches(user, password)) || user === undefined;
      if (isWrong || user === undefined) throw wrongCredentials();
      return this.#open(user);
    } finally {
      if (!isWrong) {
        this.#userFailures.takeBack(pair);
        this.#addressFailures.takeBack(address);
      }
    }
  }

  async #awaitTurn(waitMs: readonly number[]): Promise<void> {
    const longestMs = Math.max(...waitMs);
    if (longestMs > LIMITS.loginWaitMs) throw throttled();
    if (longestMs > 0) await this.#sleep(longestMs);
  }

  /** The principal of an Authorization header. @throws FlashlunError UNAUTHENTICATED */
  authenticate(header: string | undefined): Principal {
    const token = bearerToken(header);
    if (token === undefined) {
      throw new FlashlunError(
        'UNAUTHENTICATED',
        'not logged in. POST /v1/session with user and password, then send ' +
          '"Authorization: Bearer TOKEN".',
      );
    }
    const session = this.#sessions.find(hashOf(token), this.#now());
    if (session === undefined) {
      throw new FlashlunError('UNAUTHENTICATED', 'the session has ended. Log in again.');
    }
    return { user: session.userName, role: session.role };
  }

  /** Ends the session of an Authorization header; one that has ended is fine. */
  logout(header: string | undefined): void {
    const token = bearerToken(header);
    if (token !== undefined) this.#sessions.end(hashOf(token));
  }

  users(): { name: string; role: Role }[] {
    return this.#users.list().map(({ name, role }) => ({ name, role }));
  }

  /** Makes a user. The name must be new. */
  async addUser(name: string, password: string, role: Role): Promise<void> {
    const stored = await hashPassword(password, this.#cost);
    this.#users.add({ name, role, password: stored }, this.#now());
    this.#verified.set(name, this.#keyed(stored, password));
  }

  /** Sets a password, and logs the user out everywhere, unless it is the one already. */
  async setPassword(name: string, password: string): Promise<void> {
    if (await this.#matches(this.#users.get(name), password)) return;
    this.#users.setPassword(name, await hashPassword(password, this.#cost));
    this.#sessions.endAllOf(name);
  }

  #open(user: User): LoginResult {
    const token = randomBytes(TOKEN_BYTES).toString('base64url');
    const nowMs = this.#now();
    const expiresMs = nowMs + LIMITS.sessionMs;
    this.#sessions.add(hashOf(token), user.name, nowMs, expiresMs);
    const expiresAt = new Date(expiresMs).toISOString();
    return { token, user: user.name, role: user.role, expiresAt };
  }

  async #matches(user: User | undefined, password: string): Promise<boolean> {
    const stored = user?.password ?? (await this.#decoyString());
    const keyed = this.#keyed(stored, password);
    const verified = user === undefined ? undefined : this.#verified.get(user.name);
    if (verified !== undefined && timingSafeEqual(verified, keyed)) return true;
    const right = await this.#places.run(() => verifyPassword(password, stored));
    // Users are few and bounded by the table, so this map is.
    if (right && user !== undefined) this.#verified.set(user.name, keyed);
    return right && user !== undefined;
  }

  #keyed(stored: string, password: string): Buffer {
    return createHmac('sha256', this.#key).update(`${stored}\0${password}`).digest();
  }

  #decoyString(): Promise<string> {
    this.#decoy ??= hashPassword(randomBytes(TOKEN_BYTES).toString('base64url'), this.#cost);
    return this.#decoy;
  }
}

function bearerToken(header: string | undefined): string | undefined {
  return /^Bearer ([A-Za-z0-9_-]{1,128})$/i.exec(header ?? '')?.[1];
}

function hashOf(token: string): Buffer {
  return createHash('sha256').update(token).digest();
}

function wrongCredentials(): FlashlunError {
  return new FlashlunError(
    'UNAUTHENTICATED',
    'wrong user or password. On the server itself the first password is in ' +
      'DATA/admin-password, and "flashlun --data DIR" uses it.',
  );
}

function throttled(): FlashlunError {
  const seconds = LIMITS.loginSpacingMs / 1000;
  return new FlashlunError('RATE_LIMITED', `too many failed log-ins. Try again in ${seconds} s.`, {
    details: { retryAfterSeconds: seconds },
  });
}
