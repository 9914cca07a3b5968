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
  {
    version: 3,
    name: 'attributes of relationships, freeze timers',
    sql: `
      -- What a relationship has besides its flags. Which relationships there are, the pool knows:
      -- rows of others are deleted at start.
      CREATE TABLE copy_attributes (
        relationship_id INTEGER PRIMARY KEY,
        bytes_per_second INTEGER NOT NULL, -- 0 is no limit
        priority INTEGER NOT NULL,
        paused INTEGER NOT NULL CHECK (paused IN (0, 1)),
        freeze TEXT NOT NULL CHECK (freeze IN ('none', 'frozen', 'created', 'expired')),
        frozen_ms INTEGER NOT NULL
      ) STRICT;

      CREATE TABLE lss_settings (
        lss INTEGER PRIMARY KEY,
        freeze_seconds INTEGER NOT NULL
      ) STRICT;
    `,
  },
  {
    version: 4,
    name: 'disk maps of hosts',
    sql: `
      -- JSON {disks: [{name, serial}], address, primedMs}: what rsPrimeServer last sent, or NULL.
      ALTER TABLE hosts ADD COLUMN disk_map TEXT;
    `,
  },
  {
    version: 5,
    name: 'tasks of all types, task groups, who ran a task',
    sql: `
      -- The types are those of src/base/task-types.ts: a CHECK here would need a migration for each
      -- new one. SQLite cannot take a CHECK away, so both tables are made anew; the rename of the
      -- first one carries the reference of the second along.
      CREATE TABLE new_tasks (
        id INTEGER PRIMARY KEY,
        name TEXT NOT NULL UNIQUE,
        type TEXT NOT NULL,
        pairs TEXT NOT NULL,
        members TEXT NOT NULL, -- JSON: names of tasks, in the order in which a group runs them
        lss TEXT NOT NULL, -- JSON: LSSs of a "consistency created"
        options TEXT NOT NULL,
        description TEXT NOT NULL,
        created_ms INTEGER NOT NULL
      ) STRICT;
      CREATE TABLE new_task_runs (
        id INTEGER PRIMARY KEY,
        task_id INTEGER NOT NULL REFERENCES new_tasks (id) ON DELETE CASCADE,
        status TEXT NOT NULL CHECK (status IN ('completed', 'failed')),
        message TEXT NOT NULL,
        started_ms INTEGER NOT NULL,
        finished_ms INTEGER NOT NULL,
        started_by TEXT NOT NULL -- 'user admin', 'schedule nightly', 'group G'
      ) STRICT;
      INSERT INTO new_tasks SELECT id, name, type, pairs, '[]', '[]', options, description,
        created_ms FROM tasks;
      INSERT INTO new_task_runs
        SELECT id, task_id, status, message, started_ms, finished_ms, '' FROM task_runs;
      DROP TABLE task_runs;
      DROP TABLE tasks;
      ALTER TABLE new_tasks RENAME TO tasks;
      ALTER TABLE new_task_runs RENAME TO task_runs;
      CREATE INDEX task_runs_by_task ON task_runs (task_id, id);
    `,
  },
  {
    version: 6,
    name: 'schedules',
    sql: `
      -- Either task or rotation, which is JSON. done_until_ms: times up to then are dealt with.
      CREATE TABLE schedules (
        name TEXT PRIMARY KEY,
        cron TEXT NOT NULL,
        time_zone TEXT NOT NULL,
        enabled INTEGER NOT NULL CHECK (enabled IN (0, 1)),
        missed TEXT NOT NULL CHECK (missed IN ('once', 'skip')),
        task TEXT REFERENCES tasks (name) ON DELETE RESTRICT ON UPDATE CASCADE,
        rotation TEXT,
        created_ms INTEGER NOT NULL,
        done_until_ms INTEGER NOT NULL,
        CHECK ((task IS NULL) <> (rotation IS NULL))
      ) STRICT, WITHOUT ROWID;
      CREATE INDEX schedules_by_task ON schedules (task);

      CREATE TABLE schedule_runs (
        id INTEGER PRIMARY KEY,
        schedule TEXT NOT NULL REFERENCES schedules (name) ON DELETE CASCADE,
        due_ms INTEGER, -- NULL: somebody asked for it
        started_ms INTEGER NOT NULL,
        finished_ms INTEGER,
        status TEXT NOT NULL
          CHECK (status IN ('running', 'completed', 'failed', 'skipped', 'interrupted')),
        message TEXT NOT NULL
      ) STRICT;
      CREATE INDEX schedule_runs_by_schedule ON schedule_runs (schedule, id);

      -- Copies that rotations keep. confirmed is 0 from before the establish until after it.
      CREATE TABLE scheduled_copies (
        id INTEGER PRIMARY KEY,
        schedule TEXT NOT NULL REFERENCES schedules (name) ON DELETE CASCADE,
        pairs TEXT NOT NULL, -- JSON
        set_index INTEGER NOT NULL,
        t0_ms INTEGER NOT NULL,
        locked_until_ms INTEGER NOT NULL,
        confirmed INTEGER NOT NULL CHECK (confirmed IN (0, 1))
      ) STRICT;
      CREATE INDEX scheduled_copies_by_schedule ON scheduled_copies (schedule);
    `,
  },
];
