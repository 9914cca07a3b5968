/**
 * One run of a rotation: the sources are copied onto the next set of targets, at one T0, and copies
 * beyond those to keep are given up.
 *
 * A copy is noted before it is made and confirmed after, so a server that is killed in between
 * finds out at its next start whether it was made.
 */

import { FlashlunError } from '../base/errors.js';
import type { VolumePair } from '../base/ids.js';
import type { Logger } from '../base/log.js';
import type { CopyRecord, CopyRepository, Rotation } from '../metadata/schedules.js';
import type { CopyServices } from './copy-services.js';

export interface RotationParts {
  readonly copies: CopyRepository;
  readonly copyServices: Pick<CopyServices, 'establish' | 'list' | 'withdraw'>;
  readonly now: () => number;
  readonly log: Logger;
}

/**
 * Makes a copy and keeps the newest; returns what was done in words.
 *
 * @throws FlashlunError COPY_LOCKED (all sets), or what refused the establish
 */
export async function rotate(
  schedule: string,
  rotation: Rotation,
  parts: RotationParts,
): Promise<string> {
  const { copies, copyServices, now } = parts;
  const kept = copies.list().filter((copy) => copy.schedule === schedule);
  const setIndex = nextSet(schedule, rotation, kept, now());
  const replaced = kept.filter((copy) => copy.setIndex === setIndex);
  const targets = rotation.targetSets[setIndex] ?? [];
  const pairs = rotation.sources.map((source, at) => ({ source, target: targets[at] ?? '' }));
  for (const copy of replaced) await giveUpOne(copy, parts);
  const id = copies.begin({ schedule, pairs, setIndex }, now());
  let t0Ms: number;
  try {
    // Which volumes are targets was decided when the schedule was made.
    const request = { ...rotation.options, pairs, force: true, undoSeconds: 0 };
    const views = await copyServices.establish(request);
    t0Ms = Math.min(...views.map(({ establishedAt }) => Date.parse(establishedAt)));
  } catch (error) {
    copies.delete(id);
    throw error;
  }
  const lockMs = rotation.lockSeconds * 1000;
  copies.confirm(id, t0Ms, lockMs === 0 ? 0 : now() + lockMs);
  const given = await giveUp(schedule, rotation.keep, parts);
  const names = pairs.map(nameOf).join(', ');
  const set = `set ${setIndex + 1} of ${rotation.targetSets.length}`;
  const withdrawn = given.length === 0 ? '' : `; gave up ${given.join(', ')}`;
  return `established ${names} (${set})${withdrawn}`;
}

/**
 * Copies that were begun by a process that was killed: those whose relationships are there are
 * confirmed, the others were not made.
 */
export function settleCopies(
  lockSecondsOf: (schedule: string) => number,
  { copies, copyServices, log, now }: RotationParts,
): void {
  for (const copy of copies.list().filter(({ confirmed }) => !confirmed)) {
    const views = copyServices.list().filter(({ id, establishedAt }) => {
      const own = copy.pairs.some((pair) => nameOf(pair) === id);
      // T0 is in whole milliseconds of the same clock.
      return own && Date.parse(establishedAt) >= copy.t0Ms - 1;
    });
    const made = views.length === copy.pairs.length;
    log.warn({ schedule: copy.schedule, pairs: copy.pairs, made }, 'copy of a killed server');
    if (!made) {
      copies.delete(copy.id);
      continue;
    }
    const t0Ms = Math.min(...views.map(({ establishedAt }) => Date.parse(establishedAt)));
    const lockMs = lockSecondsOf(copy.schedule) * 1000;
    copies.confirm(copy.id, t0Ms, lockMs === 0 ? 0 : now() + lockMs);
    const older = copies.list().filter(({ schedule, setIndex, id }) => {
      return schedule === copy.schedule && setIndex === copy.setIndex && id !== copy.id;
    });
    for (const { id } of older) copies.delete(id);
  }
}

/** A set without a copy, in their order; else the one of the oldest copy that is not locked. */
function nextSet(
  schedule: string,
  { targetSets }: Rotation,
  kept: readonly CopyRecord[],
  nowMs: number,
): number {
  const used = new Set(kept.map(({ setIndex }) => setIndex));
  const last = kept[0]?.setIndex ?? targetSets.length - 1;
  for (let step = 1; step <= targetSets.length; step += 1) {
    const index = (last + step) % targetSets.length;
    if (!used.has(index)) return index;
  }
  const free = kept.filter(({ lockedUntilMs }) => lockedUntilMs <= nowMs).at(-1);
  if (free !== undefined) return free.setIndex;
  const first = Math.min(...kept.map(({ lockedUntilMs }) => lockedUntilMs));
  throw new FlashlunError(
    'COPY_LOCKED',
    `schedule ${schedule} refused: copies in all ${targetSets.length} target sets are locked, ` +
      `the first until ${new Date(first).toISOString()}. Add sets, or lock for a shorter time.`,
  );
}

/** Withdraws and forgets copies beyond the newest `keep`; locked ones stay. */
async function giveUp(
  schedule: string,
  keep: number,
  { copies, copyServices, now }: RotationParts,
): Promise<string[]> {
  const own = copies.list().filter((copy) => copy.schedule === schedule);
  const old = own.slice(keep).filter(({ lockedUntilMs }) => lockedUntilMs <= now());
  const names: string[] = [];
  for (const copy of old) {
    await giveUpOne(copy, { copies, copyServices });
    names.push(...copy.pairs.map(nameOf));
  }
  return names;
}

/** Relationships of the copy, which may have ended, end; its targets are free then. */
async function giveUpOne(
  copy: CopyRecord,
  { copies, copyServices }: Pick<RotationParts, 'copies' | 'copyServices'>,
): Promise<void> {
  for (const pair of copy.pairs) await withdrawIfThere(pair, copyServices);
  copies.delete(copy.id);
}

async function withdrawIfThere(
  pair: VolumePair,
  copyServices: RotationParts['copyServices'],
): Promise<void> {
  try {
    await copyServices.withdraw(pair);
  } catch (error) {
    const gone = error instanceof FlashlunError && error.code === 'RELATIONSHIP_NOT_FOUND';
    if (!gone) throw error;
  }
}

function nameOf({ source, target }: VolumePair): string {
  return `${source}:${target}`;
}
