/**
 * The metadata database: opening, durability, migration.
 *
 * SQLite in WAL mode with synchronous=FULL: what an API call answered survives a power loss. All of
 * it runs on the main thread; statements take microseconds and no data path waits for them
 * (architecture.md, invariant 5). The engine's lock on DATA/pool is taken first, so there is never
 * a second process in this file.
 */

import { chmodSync, existsSync } from 'node:fs';
import Database from 'better-sqlite3';
import { FlashlunError } from '../base/errors.js';
import type { Logger } from '../base/log.js';
import { MIGRATIONS, type Migration } from './migrations.js';

export type MetadataDatabase = Database.Database;

/**
 * Opens or creates the database at `file` and brings it to the newest version. Before a migration
 * of existing data the file is copied to `FILE.before-vN`.
 *
 * @throws FlashlunError METADATA_UNUSABLE the file is damaged, or of a newer flashlun. It is left
 *   as it is.
 */
export async function openDatabase(
  file: string,
  log: Logger,
  migrations: readonly Migration[] = MIGRATIONS,
): Promise<MetadataDatabase> {
  let db: MetadataDatabase | undefined;
  try {
    db = new Database(file);
    // Password hashes are inside; SQLite gives its -wal and -shm files the same mode.
    chmodSync(file, 0o600);
    refuseNewer(db, file, migrations);
    db.pragma('journal_mode = WAL');
    db.pragma('synchronous = FULL');
    db.pragma('foreign_keys = ON');
    await migrate(db, file, log, migrations);
    return db;
  } catch (error) {
    db?.close();
    throw describe(error, file);
  }
}

function userVersion(db: MetadataDatabase): number {
  return db.pragma('user_version', { simple: true }) as number;
}

function refuseNewer(db: MetadataDatabase, file: string, migrations: readonly Migration[]): void {
  const version = userVersion(db);
  if (version <= migrations.length) return;
  throw new FlashlunError(
    'METADATA_UNUSABLE',
    `${file} is of version ${version}; this flashlun knows versions up to ${migrations.length}. ` +
      'Start the newer flashlun that wrote it, or put back its backup.',
  );
}

async function migrate(
  db: MetadataDatabase,
  file: string,
  log: Logger,
  migrations: readonly Migration[],
): Promise<void> {
  const from = userVersion(db);
  const pending = migrations.slice(from);
  if (pending.length === 0) return;
  if (from > 0) await backUp(db, `${file}.before-v${migrations.length}`, log);
  db.transaction(() => {
    for (const migration of pending) {
      db.exec(migration.sql);
      db.pragma(`user_version = ${migration.version}`);
    }
  }).exclusive();
  log.debug({ from, to: migrations.length }, 'metadata database migrated');
}

/** A backup that exists is older, from before a try at the same migration that failed: keep it. */
async function backUp(db: MetadataDatabase, backup: string, log: Logger): Promise<void> {
  if (existsSync(backup)) return;
  await db.backup(backup);
  chmodSync(backup, 0o600);
  log.debug({ backup }, 'metadata database copied before its migration');
}

function describe(error: unknown, file: string): FlashlunError {
  if (error instanceof FlashlunError) return error;
  if (error instanceof Database.SqliteError && error.code === 'SQLITE_FULL') {
    return new FlashlunError(
      'NO_SPACE',
      `cannot write ${file}: no space is left. Free some space on its disk, then start again.`,
      { cause: error },
    );
  }
  const reason = error instanceof Error ? error.message : String(error);
  return new FlashlunError(
    'METADATA_UNUSABLE',
    `the metadata database ${file} cannot be used: ${reason}. Nothing was changed. Put back a ` +
      'backup, or move the file away to start without users and tasks: volumes are not in it, ' +
      'but the ESS serial is, so give that with --ess-serial.',
    { cause: error },
  );
}
