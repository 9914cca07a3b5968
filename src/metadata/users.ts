/** Users and their sessions. Passwords are PHC strings, tokens are stored as SHA-256. */

import type { MetadataDatabase } from './database.js';

/** What a user may do: everything, everything but users, or look only. */
export type Role = 'admin' | 'operator' | 'monitor';

export interface User {
  readonly name: string;
  readonly role: Role;
  /** PHC string. */
  readonly password: string;
}

export class UserRepository {
  readonly #get;
  readonly #list;
  readonly #insert;
  readonly #setPassword;

  constructor(db: MetadataDatabase) {
    this.#get = db.prepare<[string], User>('SELECT name, role, password FROM users WHERE name = ?');
    this.#list = db.prepare<[], User>('SELECT name, role, password FROM users ORDER BY name');
    this.#insert = db.prepare<[string, string, Role, number]>(
      'INSERT INTO users (name, password, role, created_ms) VALUES (?, ?, ?, ?)',
    );
    this.#setPassword = db.prepare<[string, string]>(
      'UPDATE users SET password = ? WHERE name = ?',
    );
  }

  get(name: string): User | undefined {
    return this.#get.get(name);
  }

  list(): User[] {
    return this.#list.all();
  }

  add(user: User, nowMs: number): void {
    this.#insert.run(user.name, user.password, user.role, nowMs);
  }

  setPassword(name: string, password: string): void {
    this.#setPassword.run(password, name);
  }
}

export interface Session {
  readonly userName: string;
  readonly role: Role;
  readonly expiresMs: number;
}

export class SessionRepository {
  readonly #insert;
  readonly #get;
  readonly #delete;
  readonly #deleteOfUser;
  readonly #deleteExpired;
  readonly #deleteOldest;
  readonly #add;

  /** `most`: live sessions kept; adding one more ends the oldest. */
  constructor(db: MetadataDatabase, most: number) {
    this.#insert = db.prepare<[Buffer, string, number, number]>(
      'INSERT INTO sessions (token_hash, user_name, created_ms, expires_ms) VALUES (?, ?, ?, ?)',
    );
    this.#get = db.prepare<[Buffer, number], Session>(
      `SELECT user_name AS userName, role, expires_ms AS expiresMs
       FROM sessions JOIN users ON users.name = user_name
       WHERE token_hash = ? AND expires_ms > ?`,
    );
    this.#delete = db.prepare<[Buffer]>('DELETE FROM sessions WHERE token_hash = ?');
    this.#deleteOfUser = db.prepare<[string]>('DELETE FROM sessions WHERE user_name = ?');
    this.#deleteExpired = db.prepare<[number]>('DELETE FROM sessions WHERE expires_ms <= ?');
    this.#deleteOldest = db.prepare<[number]>(
      `DELETE FROM sessions WHERE rowid IN
         (SELECT rowid FROM sessions ORDER BY created_ms DESC, rowid DESC LIMIT -1 OFFSET ?)`,
    );
    this.#add = db.transaction((tokenHash: Buffer, user: string, now: number, expires: number) => {
      this.#deleteExpired.run(now);
      this.#insert.run(tokenHash, user, now, expires);
      this.#deleteOldest.run(most);
    });
  }

  add(tokenHash: Buffer, userName: string, nowMs: number, expiresMs: number): void {
    this.#add(tokenHash, userName, nowMs, expiresMs);
  }

  /** The live session of a token, with the role its user has now. */
  find(tokenHash: Buffer, nowMs: number): Session | undefined {
    return this.#get.get(tokenHash, nowMs);
  }

  end(tokenHash: Buffer): void {
    this.#delete.run(tokenHash);
  }

  /** Logs a user out everywhere: after a change of password. */
  endAllOf(userName: string): void {
    this.#deleteOfUser.run(userName);
  }
}
