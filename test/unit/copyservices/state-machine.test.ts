/** Every operation in every state: the whole table of ess.md 3.4, with the refusals of 3.8. */
import { expect, test } from 'vitest';
import { ERRORS } from '../../../src/base/errors.js';
import {
  type CopyState,
  decide,
  OPERATIONS,
  type Operation,
  STATES,
  stateOf,
} from '../../../src/copyservices/state-machine.js';

const GONE = 'RELATIONSHIP_NOT_FOUND';
const TAKEN = 'FC_TARGET_IN_USE';
const RUNS = 'FC_COPY_RUNNING';
const PLAIN = 'FC_NOT_RECORDING';
const WAITS = 'FC_REVERTIBLE';
const NO_IMAGE = 'FC_NOT_REVERTIBLE';
const NO_COPY = 'FC_NO_COPY_RUNNING';

/**
 * In the order of STATES: none, copying, nocopy, idle, revertible. The state that follows, or the
 * code of the refusal; `a / b`: b in strict mode, of a relationship that does not record.
 */
const TABLE: Record<Operation, string[]> = {
  establish: ['copying', TAKEN, TAKEN, TAKEN, TAKEN],
  resync: [GONE, `copying / ${PLAIN}`, `copying / ${PLAIN}`, `copying / ${PLAIN}`, WAITS],
  reverse: [GONE, RUNS, RUNS, `copying / ${PLAIN}`, WAITS],
  'fast-reverse': [GONE, `copying / ${PLAIN}`, `copying / ${PLAIN}`, `copying / ${PLAIN}`, WAITS],
  'set-revertible': [
    GONE,
    `${RUNS} | ${PLAIN}`,
    `${RUNS} | ${PLAIN}`,
    `revertible | ${PLAIN}`,
    WAITS,
  ],
  commit: [GONE, NO_IMAGE, NO_IMAGE, NO_IMAGE, 'idle'],
  revert: [GONE, NO_IMAGE, NO_IMAGE, NO_IMAGE, 'idle'],
  copy: [GONE, RUNS, 'copying', NO_COPY, NO_COPY],
  pause: [GONE, 'copying', NO_COPY, NO_COPY, 'copying'],
  resume: [GONE, 'copying', NO_COPY, NO_COPY, 'copying'],
  withdraw: [GONE, 'none', 'none', 'none', 'none'],
  complete: [GONE, 'none', 'none', 'none', WAITS],
};

interface Row {
  readonly operation: Operation;
  readonly state: CopyState;
  readonly record: boolean;
  readonly strict: boolean;
  readonly expected: string;
}

/** `a / b`: b when strict and not recording. `a | b`: b when not recording. */
function expectedOf(cell: string, record: boolean, strict: boolean): string {
  const [first = '', second = first] = cell.split(cell.includes('/') ? ' / ' : ' | ');
  return !record && (strict || cell.includes('|')) ? second : first;
}

const ROWS: Row[] = OPERATIONS.flatMap((operation) =>
  STATES.flatMap((state, at) =>
    [true, false].flatMap((record) =>
      [true, false].map((strict) => ({
        operation,
        state,
        record,
        strict,
        expected: expectedOf(TABLE[operation][at] ?? '', record, strict),
      })),
    ),
  ),
);

test('the table has every operation in every state', () => {
  expect(ROWS).toHaveLength(OPERATIONS.length * STATES.length * 4);
  for (const cells of Object.values(TABLE)) expect(cells).toHaveLength(STATES.length);
});

test.each(ROWS)(
  '$operation when $state (record $record, strict $strict): $expected',
  ({ operation, state, record, strict, expected }) => {
    const verdict = decide(state, operation, { record, strict });
    if ('next' in verdict) return expect(verdict.next).toBe(expected);
    expect(verdict.code).toBe(expected);
    expect(ERRORS[verdict.code].exit).toBe(6);
    expect(verdict.reason).toMatch(/\.$/);
    expect(verdict.reason).not.toContain('\n');
  },
);

test.each([
  [{ noCopy: true }, 'nocopy'],
  [{ noCopy: true, persistent: true }, 'nocopy'],
  [{ pendingTracks: 3 }, 'copying'],
  [{ pendingTracks: 0 }, 'copying'],
  [{ pendingTracks: 3, persistent: true }, 'copying'],
  [{ pendingTracks: 0, persistent: true }, 'idle'],
  [{ pendingTracks: 3, persistent: true, revertible: true }, 'revertible'],
])('the state of %j is %s', (flags, state) => {
  const none = { noCopy: false, persistent: false, revertible: false, pendingTracks: 0 };
  expect(stateOf({ ...none, ...flags })).toBe(state);
});
