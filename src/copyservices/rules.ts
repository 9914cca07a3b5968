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
 *   a second relationship that records        FC_RECORDING
 *   recording of thick volumes                FC_THICKNESS
 *   hosts wrote to the target, no `force`     FC_TARGET_WRITTEN
 *   hosts are connected to it, `refuse`       FC_TARGET_ONLINE
 *   strict: a 13th target of a source         FC_TARGET_LIMIT
 *   strict: a source that is a target, or     FC_CASCADE
 *           a target that is a source
 *
 * Resync asks what holds for a pair of the same pair; reverse of the pair the other way round, and
 * for equal sizes. What a relationship's state allows is state-machine.ts.
 *
 * The strict ones are the ESS's (ess.md 3.1); an engine that shares tracks does not need them.
 */

import type { ErrorCode } from '../base/errors.js';
import { formatVolumeId } from '../base/ids.js';
import { LIMITS } from '../base/limits.js';
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
  /** Hosts have written to it since it was created or last became a target. */
  readonly hostWritten: boolean;
  readonly mappedTracks: number;
  /** NBD connections. */
  readonly attached: number;
}

/** What is asked besides the pairs. */
export interface RuleRequest {
  readonly record: boolean;
  /** Onto targets that hosts have written. */
  readonly force: boolean;
  readonly targetOnline: 'allow' | 'refuse' | 'disconnect';
  readonly strict: boolean;
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
  request: RuleRequest,
): Refusal[] {
  const sources = new Set(pairs.map((pair) => pair.source.id));
  const seen = new Set<number>();
  const recorders = new Set<number>();
  const targetsOf = new Map<number, number>();
  const refusals: Refusal[] = [];
  for (const pair of pairs) {
    const refusal =
      checkPair(pair, relationships) ??
      checkTogether(pair, sources, seen.has(pair.target.id)) ??
      checkRecording(pair, relationships, request.record && recorders) ??
      checkTarget(pair, request) ??
      (request.strict ? checkStrict(pair, relationships, targetsOf) : undefined);
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
  request: RuleRequest,
): Refusal[] {
  const rest = others(own, relationships);
  const refusal =
    checkPair(pair, rest) ??
    checkRecording(pair, rest, request.record && new Set()) ??
    checkOnline(pair, request) ??
    (request.strict ? checkStrict(pair, rest, new Map()) : undefined);
  return refusal === undefined ? [] : [refusal];
}

/** May the relationship turn round? `pair` is what it would become. */
export function checkReverse(
  pair: RulePair,
  own: RelationshipState,
  relationships: readonly RelationshipState[],
  request: RuleRequest,
): Refusal[] {
  const { source, target } = pair;
  if (target.sizeBytes !== source.sizeBytes) {
    const reason =
      `${describe(source)} and ${describe(target)} differ in size. ` +
      'Resize the smaller one first.';
    return [refuse('FC_SIZE_MISMATCH', pair, reason)];
  }
  return checkResync(pair, own, relationships, request);
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

/** A volume's changes are recorded for one relationship. `recorders`: of this request. */
function checkRecording(
  pair: RulePair,
  relationships: readonly RelationshipState[],
  recorders: Set<number> | false,
): Refusal | undefined {
  if (recorders === false) return undefined;
  if (pair.source.thick) {
    const reason =
      'changes of thick volumes are not recorded, because that takes space that is not reserved. ' +
      'Leave out --record, or use thin volumes.';
    return refuse('FC_THICKNESS', pair, reason);
  }
  for (const { id } of [pair.source, pair.target]) {
    const other = relationships.find(
      (each) => each.record && (each.sourceId === id || each.targetId === id),
    );
    if (other === undefined && !recorders.has(id)) {
      recorders.add(id);
      continue;
    }
    const whom = other === undefined ? 'another pair' : describeRelationship(other);
    const reason =
      `${formatVolumeId(id)} records its changes for ${whom} already. ` +
      'Establish this one without --record, or withdraw the other.';
    return refuse('FC_RECORDING', pair, reason);
  }
  return undefined;
}

/** Protection of what hosts have on the target: sources and targets are easily swapped. */
function checkTarget(pair: RulePair, request: RuleRequest): Refusal | undefined {
  const { target } = pair;
  if (!request.force && target.hostWritten && target.mappedTracks > 0) {
    const reason =
      `hosts have written to ${formatVolumeId(target.id)} since it was last established, and ` +
      'that would be lost. Is it the target? Then give --force.';
    return refuse('FC_TARGET_WRITTEN', pair, reason);
  }
  return checkOnline(pair, request);
}

function checkOnline(pair: RulePair, request: RuleRequest): Refusal | undefined {
  const { attached, id } = pair.target;
  if (request.targetOnline !== 'refuse' || attached === 0) return undefined;
  const reason =
    `${formatVolumeId(id)} is attached to ${attached} ${attached === 1 ? 'host' : 'hosts'}. ` +
    'Detach it, or use --target-online disconnect.';
  return refuse('FC_TARGET_ONLINE', pair, reason);
}

/** The ESS's own limits. `targetsOf`: of this request, by source. */
function checkStrict(
  pair: RulePair,
  relationships: readonly RelationshipState[],
  targetsOf: Map<number, number>,
): Refusal | undefined {
  const { source, target } = pair;
  const cascade = relationships.find(
    (each) => each.targetId === source.id || each.sourceId === target.id,
  );
  if (cascade !== undefined) {
    const [id, role] =
      cascade.targetId === source.id ? [source.id, 'target'] : [target.id, 'source'];
    const reason =
      `${formatVolumeId(id)} is the ${role} of ${describeRelationship(cascade)}, and an ESS ` +
      'does not cascade (--strict). Withdraw that first.';
    return refuse('FC_CASCADE', pair, reason);
  }
  const asked = (targetsOf.get(source.id) ?? 0) + 1;
  targetsOf.set(source.id, asked);
  const existing = relationships.filter((each) => each.sourceId === source.id).length;
  if (existing + asked <= LIMITS.strictTargets) return undefined;
  const reason =
    `${formatVolumeId(source.id)} has ${existing} targets, and an ESS allows ` +
    `${LIMITS.strictTargets} (--strict). Withdraw one first.`;
  return refuse('FC_TARGET_LIMIT', pair, reason);
}

function describe(volume: RuleVolume): string {
  const { id, sizeBytes } = volume;
  return `${formatVolumeId(id)} (${formatSize(sizeBytes)}, ${sizeBytes} bytes)`;
}

function refuse(code: ErrorCode, pair: RulePair, reason: string): Refusal {
  const name = `${formatVolumeId(pair.source.id)}:${formatVolumeId(pair.target.id)}`;
  return { code, pair: name, message: `${name} refused: ${reason}` };
}
