/**
 * Versions of the metadata database. `PRAGMA user_version` holds the number of the last migration
 * that ran; a database is brought up to date in one transaction, so it is at one version or the
 * next, never between. Entries are never edited once released: a change is a new entry at the end.
 */

export interface Migration {
  /** 1 for the first; consecutive. */
  readonly version: number;
  /** What it is for, shown in the log. */
  readonly name: string;
  readonly sql: string;
}

export const MIGRATIONS: readonly Migration[] = [
  {
    version: 1,
    name: 'users, sessions, tasks, counters',
    sql: `
      -- password is a PHC string ($scrypt$...), so that the algorithm can change user by user.
      CREATE TABLE users (
        name TEXT PRIMARY KEY,
        password TEXT NOT NULL,
        role TEXT NOT NULL CHECK (role IN ('admin', 'operator', 'monitor')),
        created_ms INTEGER NOT NULL
      ) STRICT, WITHOUT ROWID;

      -- token_hash is SHA-256: whoever reads this file cannot log in with it.
      CREATE TABLE sessions (
        token_hash BLOB PRIMARY KEY,
        user_name TEXT NOT NULL REFERENCES users (name) ON DELETE CASCADE,
        created_ms INTEGER NOT NULL,
        expires_ms INTEGER NOT NULL
      ) STRICT;
      CREATE INDEX sessions_by_age ON sessions (created_ms);
      CREATE INDEX sessions_by_user ON sessions (user_name);

      -- pairs and options are JSON: they are only ever read and written whole.
      CREATE TABLE tasks (
        id INTEGER PRIMARY KEY,
        name TEXT NOT NULL UNIQUE,
        type TEXT NOT NULL CHECK (type IN ('establish', 'withdraw')),
        pairs TEXT NOT NULL,
        options TEXT NOT NULL,
        description TEXT NOT NULL,
        created_ms INTEGER NOT NULL
      ) STRICT;

      CREATE TABLE task_runs (
        id INTEGER PRIMARY KEY,
        task_id INTEGER NOT NULL REFERENCES tasks (id) ON DELETE CASCADE,
        status TEXT NOT NULL CHECK (status IN ('completed', 'failed')),
        message TEXT NOT NULL,
        started_ms INTEGER NOT NULL,
        finished_ms INTEGER NOT NULL
      ) STRICT;
      CREATE INDEX task_runs_by_task ON task_runs (task_id, id);

      -- The last number given out, for example the client id of the registration protocol.
      CREATE TABLE counters (
        name TEXT PRIMARY KEY,
        value INTEGER NOT NULL
      ) STRICT, WITHOUT ROWID;

      -- What was decided at the first start and must not change, for example the ESS serial.
      CREATE TABLE settings (
        name TEXT PRIMARY KEY,
        value TEXT NOT NULL
      ) STRICT, WITHOUT ROWID;
    `,
  },
  {
    version: 2,
    name: 'hosts, volume access, rate limits',
    sql: `
      -- identities is JSON {addresses, uids, tlsIdentities}: only ever read and written whole.
      CREATE TABLE hosts (
        name TEXT PRIMARY KEY,
        description TEXT NOT NULL,
        identities TEXT NOT NULL,
        created_ms INTEGER NOT NULL
      ) STRICT, WITHOUT ROWID;

      -- Volumes whose access was set. One without a row in volume_access is nobody's: taking the
      -- last host away must not open the volume to everybody.
      CREATE TABLE restricted_volumes (
        volume_id INTEGER PRIMARY KEY
      ) STRICT;

      CREATE TABLE volume_access (
        volume_id INTEGER NOT NULL
          REFERENCES restricted_volumes (volume_id) ON DELETE CASCADE,
        host TEXT NOT NULL REFERENCES hosts (name) ON DELETE RESTRICT,
        read_only INTEGER NOT NULL CHECK (read_only IN (0, 1)),
        PRIMARY KEY (volume_id, host)
      ) STRICT, WITHOUT ROWID;
      CREATE INDEX volume_access_by_host ON volume_access (host);

      -- 0 is no limit.
      CREATE TABLE volume_rates (
        volume_id INTEGER PRIMARY KEY,
        iops INTEGER NOT NULL,
        bytes_per_second INTEGER NOT NULL,
        connection_iops INTEGER NOT NULL,
        connection_bytes_per_second INTEGER NOT NULL,
        burst_ms INTEGER NOT NULL
      ) STRICT;
    `,
  },
];
