/** A metadata database of its own for a test. */
import { join } from 'node:path';
import { createLogger } from '../../../src/base/log.js';
import { type MetadataDatabase, openDatabase } from '../../../src/metadata/database.js';
import type { Scope } from '../../helpers/cleanup.js';

export const QUIET = createLogger({ level: 'silent' });

/** Opens a new database in a temporary folder; it is closed with the scope. */
export async function openTestDatabase(scope: Scope): Promise<MetadataDatabase> {
  const db = await openDatabase(join(await scope.tempDir(), 'test.sqlite'), QUIET);
  scope.defer('close the database', () => {
    db.close();
  });
  return db;
}
