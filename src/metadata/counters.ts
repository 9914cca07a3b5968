/** Numbers that are never given out twice, and settings that are fixed at the first start. */

import type { MetadataDatabase } from './database.js';

export class CounterRepository {
  readonly #next;

  constructor(db: MetadataDatabase) {
    this.#next = db
      .prepare<[string, number], number>(
        `INSERT INTO counters (name, value) VALUES (?, ?)
         ON CONFLICT (name) DO UPDATE SET value = value + 1
         RETURNING value`,
      )
      .pluck();
  }

  /** The next number of `name`, `first` when there was none; durable when it returns. */
  next(name: string, first: number): number {
    return this.#next.get(name, first) as number;
  }
}

export class SettingRepository {
  readonly #get;
  readonly #insert;

  constructor(db: MetadataDatabase) {
    this.#get = db.prepare<[string], string>('SELECT value FROM settings WHERE name = ?').pluck();
    this.#insert = db.prepare<[string, string]>(
      'INSERT INTO settings (name, value) VALUES (?, ?) ON CONFLICT DO NOTHING',
    );
  }

  get(name: string): string | undefined {
    return this.#get.get(name);
  }

  /** Stores `value` unless the setting has one already; returns the one that holds from now on. */
  keepFirst(name: string, value: string): string {
    this.#insert.run(name, value);
    return this.#get.get(name) ?? value;
  }
}
