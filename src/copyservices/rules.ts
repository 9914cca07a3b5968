/**
 * The rules of Establish, pure: what is asked and what is there go in, refusals come out. Every
 * pair is judged before anything changes.
 *
 *   rule                                      code
 *   source = target                           FC_SAME_VOLUME
 *   target smaller than its source            FC_SIZE_MISMATCH
 *   one thick, the other thin                 FC_THICKNESS
 *   both thick, in different pools            FC_THICKNESS
 *   blocks of 512 bytes and of 4096           FC_BLOCK_SIZE
 *   target already has a relationship         FC_TARGET_IN_USE
 *   one target twice in the request           FC_TARGET_REPEATED
 *   a volume as source and target in it       FC_CHAINED
 *
 * Resync asks the first three of the same pair; reverse of the pair the other way round, and for
 * equal sizes.
 *
 * Allowed: several targets of one source, and a target that is the source of other relationships
 * (cascading). The ESS allows neither the latter nor a 13th target; those are the rules of its
 * strict mode (ess.md 3.1) and an engine that shares tracks does not need them.
 */

import type { ErrorCode } from '../base/errors.js';
import { formatVolumeId } from '../base/ids.js';
import { formatSize } from '../base/units.js';
import type { RelationshipState } from '../engine/types.js';
import { describeRelationship } from '../array/words.js';

/** One side of a pair that was found. */
export interface RuleVolume {
  readonly id: number;
  readonly sizeBytes: number;
  readonly pool: number;
  readonly thick: boolean;
  readonly blockBytes: number;
}

export interface RulePair {
  readonly source: RuleVolume;
  readonly target: RuleVolume;
}

/** Why a pair may not be established; the message is one line with rule, objects and way out. */
export interface Refusal {
  readonly code: ErrorCode;
  readonly pair: string;
  readonly message: string;
}

/** All refusals, in the order of the pairs; none means that the whole request may be done. */
export function checkEstablish(
  pairs: readonly RulePair[],
  relationships: readonly RelationshipState[],
): Refusal[] {
  const sources = new Set(pairs.map((pair) => pair.source.id));
  const seen = new Set<number>();
  const refusals: Refusal[] = [];
  for (const pair of pairs) {
    const refusal =
      checkPair(pair, relationships) ?? checkTogether(pair, sources, seen.has(pair.target.id));
    if (refusal !== undefined) refusals.push(refusal);
    seen.add(pair.target.id);
  }
  return refusals;
}

/** May the pair of this relationship be copied again? Its volumes may have grown since. */
export function checkResync(
  pair: RulePair,
  own: RelationshipState,
  relationships: readonly RelationshipState[],
): Refusal[] {
  const refusal = checkPair(pair, others(own, relationships));
  return refusal === undefined ? [] : [refusal];
}

/** May the relationship turn round? `pair` is what it would become. */
export function checkReverse(
  pair: RulePair,
  own: RelationshipState,
  relationships: readonly RelationshipState[],
): Refusal[] {
  const { source, target } = pair;
  if (target.sizeBytes !== source.sizeBytes) {
    const reason =
      `${describe(source)} and ${describe(target)} differ in size. ` +
      'Resize the smaller one first.';
    return [refuse('FC_SIZE_MISMATCH', pair, reason)];
  }
  return checkResync(pair, own, relationships);
}

function others(
  own: RelationshipState,
  relationships: readonly RelationshipState[],
): RelationshipState[] {
  return relationships.filter((each) => each.id !== own.id);
}

/** What can be said of a pair by itself. */
function checkPair(
  pair: RulePair,
  relationships: readonly RelationshipState[],
): Refusal | undefined {
  const { source, target } = pair;
  if (source.id === target.id) {
    return refuse(
      'FC_SAME_VOLUME',
      pair,
      'source and target are the same volume. Choose another target.',
    );
  }
  if (target.sizeBytes < source.sizeBytes) {
    return refuse(
      'FC_SIZE_MISMATCH',
      pair,
      `target ${describe(target)} is smaller than source ${describe(source)}. ` +
        'Choose a target at least as large.',
    );
  }
  if (source.thick !== target.thick) {
    const [thick, thin] = source.thick ? [source, target] : [target, source];
    return refuse(
      'FC_THICKNESS',
      pair,
      `${formatVolumeId(thick.id)} is thick and ${formatVolumeId(thin.id)} is thin, so the space ` +
        'of the copy would not be reserved. Create both thick, or both thin.',
    );
  }
  if (source.thick && source.pool !== target.pool) {
    return refuse(
      'FC_THICKNESS',
      pair,
      'copies of thick volumes stay in one pool. Create the target in the pool of the source.',
    );
  }
  if (source.blockBytes !== target.blockBytes) {
    return refuse(
      'FC_BLOCK_SIZE',
      pair,
      `${formatVolumeId(source.id)} has blocks of ${source.blockBytes} bytes and ` +
        `${formatVolumeId(target.id)} of ${target.blockBytes}, so partitions and file systems of ` +
        'the copy could not be read. Create a target with the block size of the source.',
    );
  }
  const existing = relationships.find((each) => each.targetId === target.id);
  if (existing !== undefined) {
    return refuse(
      'FC_TARGET_IN_USE',
      pair,
      `${formatVolumeId(target.id)} is already the target of ${describeRelationship(existing)}. ` +
        'Withdraw it first.',
    );
  }
  return undefined;
}

/** What can only be said of a pair among the others of its request. */
function checkTogether(
  pair: RulePair,
  sources: ReadonlySet<number>,
  targetSeen: boolean,
): Refusal | undefined {
  const target = formatVolumeId(pair.target.id);
  if (targetSeen) {
    return refuse(
      'FC_TARGET_REPEATED',
      pair,
      `${target} is the target of an earlier pair of this request. ` +
        'A volume can be the target of one source only.',
    );
  }
  if (sources.has(pair.target.id)) {
    return refuse(
      'FC_CHAINED',
      pair,
      `${target} is also a source in this request, so the pairs have no common point in time. ` +
        'Establish one after the other.',
    );
  }
  return undefined;
}

function describe(volume: RuleVolume): string {
  const { id, sizeBytes } = volume;
  return `${formatVolumeId(id)} (${formatSize(sizeBytes)}, ${sizeBytes} bytes)`;
}

function refuse(code: ErrorCode, pair: RulePair, reason: string): Refusal {
  const name = `${formatVolumeId(pair.source.id)}:${formatVolumeId(pair.target.id)}`;
  return { code, pair: name, message: `${name} refused: ${reason}` };
}
