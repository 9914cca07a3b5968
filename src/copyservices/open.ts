/** Puts Copy Services together on an open pool. */

import type { ChangeQueue } from '../array/change-queue.js';
import { VolumeFreezes } from '../array/freeze.js';
import type { StorageArray } from '../array/storage-array.js';
import { LIMITS } from '../base/limits.js';
import type { Logger } from '../base/log.js';
import type { Engine } from '../engine/types.js';
import { CopyAttributeRepository, LssRepository } from '../metadata/copies.js';
import type { MetadataDatabase } from '../metadata/database.js';
import { RelationshipAttributes } from './attributes.js';
import { BackgroundCopy, type BackgroundCopyOptions } from './background-copy.js';
import type { CopyLocks } from './copy-locks.js';
import { ConsistencyGroups } from './consistency-groups.js';
import { CopyServices } from './copy-services.js';
import { SavedImages } from './saved-images.js';
import { type Connections, TargetClients } from './target-clients.js';
import { UndoImages } from './undo.js';

export interface OpenOptions extends Omit<BackgroundCopyOptions, 'engine' | 'settings'> {
  readonly engine: Engine;
  readonly array: StorageArray;
  readonly changes: ChangeQueue;
  readonly db: MetadataDatabase;
  readonly connections: Connections;
  readonly strict: boolean;
  readonly locks?: Pick<CopyLocks, 'check'> | undefined;
}

export interface OpenCopyServices {
  readonly backgroundCopy: BackgroundCopy;
  readonly copyServices: CopyServices;
  readonly groups: ConsistencyGroups;
  close(): Promise<void>;
}

export async function openCopyServices(options: OpenOptions): Promise<OpenCopyServices> {
  const { array, changes, db, engine, log } = options;
  const images = new SavedImages(engine);
  await images.repair();
  const existing = engine.relationships().map(({ id }) => id);
  const attributes = new RelationshipAttributes(new CopyAttributeRepository(db), existing);
  for (const id of existing) {
    // Freezes do not outlive the process that made them.
    if (attributes.of(id).freeze === 'frozen') attributes.change(id, { freeze: 'expired' });
  }
  const backgroundCopy = new BackgroundCopy({ ...options, settings: (id) => attributes.of(id) });
  const groups = new ConsistencyGroups({
    engine,
    lssRecords: new LssRepository(db),
    log,
    onEnd: (ids, freeze, frozenMs) => {
      const alive = new Set(engine.relationships().map(({ id }) => id));
      for (const id of ids) if (alive.has(id)) attributes.change(id, { freeze, frozenMs });
    },
  });
  const undo = new UndoImages(images, log);
  const copyServices = new CopyServices({
    ...options,
    attributes,
    backgroundCopy,
    clients: new TargetClients(options.connections),
    freezes: new VolumeFreezes(engine, array, changes),
    groups,
    images,
    undo,
  });
  const stopSweeping = sweepUndo(undo, engine, changes, log);
  return {
    backgroundCopy,
    copyServices,
    groups,
    close: async () => {
      stopSweeping();
      groups.close();
      await backgroundCopy.close();
    },
  };
}

/** Drops expired images, as a change among the others. Returns what ends it. */
function sweepUndo(
  undo: UndoImages,
  engine: Engine,
  changes: ChangeQueue,
  log: Logger,
): () => void {
  const exists = (id: number): boolean => engine.volume(id) !== undefined;
  const timer = setInterval(() => {
    if (!undo.due(exists)) return;
    changes
      .run(() => undo.sweep(exists))
      .catch((error: unknown) => {
        log.warn({ err: error }, 'an undo image could not be dropped; will be tried again');
      });
  }, LIMITS.undoSweepMs);
  timer.unref();
  return () => clearInterval(timer);
}
