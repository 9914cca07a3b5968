/**
 * The state machine of a relationship (shared/reference/ess.md 3.4), pure: every verb in every
 * state is allowed, with the state it leads to, or refused, with a code and a way out. The verbs of
 * copy-services.ts ask here and nowhere else; what two volumes may be is rules.ts.
 *
 *   none --establish--> copying | nocopy
 *   copying --last track--> none, or idle when persistent
 *   nocopy --copy--> copying
 *   copying, nocopy, idle --resync--> copying, or nocopy when asked for     a new T0
 *   idle --reverse--> copying                                               the other way round
 *   copying, nocopy, idle --fast-reverse--> copying
 *   idle --set-revertible--> revertible --commit--> idle
 *                                       --revert--> idle                    the image before
 *   any --withdraw--> none
 *   any --complete--> none                                                  when all is copied
 *   copying --pause--> copying --resume--> copying
 */

import type { ErrorCode } from '../base/errors.js';
import type { RelationshipState } from '../engine/types.js';

export const STATES = ['none', 'copying', 'nocopy', 'idle', 'revertible'] as const;
export type CopyState = (typeof STATES)[number];

export const OPERATIONS = [
  'establish',
  'resync',
  'reverse',
  'fast-reverse',
  'set-revertible',
  'commit',
  'revert',
  'copy',
  'pause',
  'resume',
  'withdraw',
  'complete',
] as const;
export type Operation = (typeof OPERATIONS)[number];

/** What besides the state decides. */
export interface Facts {
  /** The relationship records its changes. */
  readonly record: boolean;
  /** The ESS's own rules (serve --strict). */
  readonly strict: boolean;
}

export type Verdict =
  | { readonly next: CopyState }
  | { readonly code: ErrorCode; readonly reason: string };

const TAKEN: Verdict = {
  code: 'FC_TARGET_IN_USE',
  reason: 'the relationship exists. Use resync to copy again, or withdraw it first.',
};
const NOT_THERE: Verdict = {
  code: 'RELATIONSHIP_NOT_FOUND',
  reason: 'there is no such relationship.',
};
const RUNNING: Verdict = {
  code: 'FC_COPY_RUNNING',
  reason:
    'its background copy has not ended. Wait for it ("flashlun flashcopy show" tells how far it ' +
    'is), or reverse with --fast.',
};
const NEVER_ENDS: Verdict = {
  code: 'FC_COPY_RUNNING',
  reason:
    'it is nocopy, so its tracks are not all copied. Start the copy with "flashlun flashcopy ' +
    'copy", or reverse with --fast.',
};
const NOT_RECORDING: Verdict = {
  code: 'FC_NOT_RECORDING',
  reason:
    'it does not record changes, so what changed is not known. Establish it with --record ' +
    '--persistent.',
};
const REVERTIBLE: Verdict = {
  code: 'FC_REVERTIBLE',
  reason: 'it is revertible. Commit or revert it first.',
};
const NOT_REVERTIBLE: Verdict = {
  code: 'FC_NOT_REVERTIBLE',
  reason: 'it is not revertible, so there is no earlier image. Nothing was changed.',
};
const NO_COPY: Verdict = {
  code: 'FC_NO_COPY_RUNNING',
  reason: 'no background copy is under way.',
};

type Rule = Verdict | ((facts: Facts) => Verdict);

const copying: Verdict = { next: 'copying' };
const idle: Verdict = { next: 'idle' };
const ended: Verdict = { next: 'none' };

/** The ESS wants recording; an engine that shares tracks can copy the whole source anew. */
const ifRecording: Rule = ({ record, strict }) => (record || !strict ? copying : NOT_RECORDING);

type Row = Readonly<Record<Exclude<CopyState, 'none'>, Rule>>;

const TABLE: Readonly<Record<Operation, Row>> = {
  establish: { copying: TAKEN, nocopy: TAKEN, idle: TAKEN, revertible: TAKEN },
  resync: {
    copying: ifRecording,
    nocopy: ifRecording,
    idle: ifRecording,
    revertible: REVERTIBLE,
  },
  reverse: { copying: RUNNING, nocopy: NEVER_ENDS, idle: ifRecording, revertible: REVERTIBLE },
  'fast-reverse': {
    copying: ifRecording,
    nocopy: ifRecording,
    idle: ifRecording,
    revertible: REVERTIBLE,
  },
  'set-revertible': {
    copying: ({ record }) => (record ? RUNNING : NOT_RECORDING),
    nocopy: ({ record }) => (record ? NEVER_ENDS : NOT_RECORDING),
    idle: ({ record }) => (record ? { next: 'revertible' } : NOT_RECORDING),
    revertible: REVERTIBLE,
  },
  commit: {
    copying: NOT_REVERTIBLE,
    nocopy: NOT_REVERTIBLE,
    idle: NOT_REVERTIBLE,
    revertible: idle,
  },
  revert: {
    copying: NOT_REVERTIBLE,
    nocopy: NOT_REVERTIBLE,
    idle: NOT_REVERTIBLE,
    revertible: idle,
  },
  copy: { copying: RUNNING, nocopy: copying, idle: NO_COPY, revertible: NO_COPY },
  pause: { copying, nocopy: NO_COPY, idle: NO_COPY, revertible: copying },
  resume: { copying, nocopy: NO_COPY, idle: NO_COPY, revertible: copying },
  withdraw: { copying: ended, nocopy: ended, idle: ended, revertible: ended },
  complete: { copying: ended, nocopy: ended, idle: ended, revertible: REVERTIBLE },
};

/** What `operation` does to a relationship in `state`. */
export function decide(state: CopyState, operation: Operation, facts: Facts): Verdict {
  if (state === 'none') return operation === 'establish' ? copying : NOT_THERE;
  const rule = TABLE[operation][state];
  return typeof rule === 'function' ? rule(facts) : rule;
}

/** The state of a relationship that the engine has. */
export function stateOf(
  relationship: Pick<RelationshipState, 'noCopy' | 'persistent' | 'revertible' | 'pendingTracks'>,
): Exclude<CopyState, 'none'> {
  if (relationship.revertible) return 'revertible';
  if (relationship.noCopy) return 'nocopy';
  // One that is not persistent ends by itself a moment after its last track.
  return relationship.persistent && relationship.pendingTracks === 0 ? 'idle' : 'copying';
}
