/** Every rule of Establish against every situation: the title carries the verdict. */
import { expect, test } from 'vitest';
import { parseVolumeId } from '../../../src/base/ids.js';
import {
  checkEstablish,
  checkResync,
  checkReverse,
  type RulePair,
  type RuleRequest,
} from '../../../src/copyservices/rules.js';
import type { RelationshipState } from '../../../src/engine/types.js';

const MIB = 1024 * 1024;
const SIZES: Record<string, number> = { '1207': 2 * MIB, '1208': MIB + 65_536 };

/**
 * `1203:1303`; 1211, 1311 and 1312 are thick, 1312 in another pool; 1207 is larger than the others,
 * 1208 by one track; 1221 has blocks of 4096 bytes; hosts wrote to 1231 and 1232, where 1232 holds
 * nothing any more; 1241 is attached to two hosts.
 */
function pair(text: string): RulePair {
  const [source = '', target = ''] = text.split(':');
  const volume = (id: string) => ({
    id: parseVolumeId(id),
    sizeBytes: SIZES[id] ?? MIB,
    pool: id === '1312' ? 1 : 0,
    thick: /^1[23]1/.test(id),
    blockBytes: id === '1221' ? 4096 : 512,
    hostWritten: id === '1231' || id === '1232',
    mappedTracks: id === '1231' ? 3 : 0,
    attached: id === '1241' ? 2 : 0,
  });
  return { source: volume(source), target: volume(target) };
}

const PLAIN: RuleRequest = { record: false, force: false, targetOnline: 'allow', strict: false };

function related(text: string, noCopy = false, record = false): RelationshipState {
  const { source, target } = pair(text);
  return {
    id: 1,
    sourceId: source.id,
    targetId: target.id,
    noCopy,
    record,
    persistent: record,
    inhibitTargetWrites: false,
    revertible: false,
    sourceReplaced: false,
    pendingTracks: 1,
    t0UnixMs: new Date(2026, 10, 22, 10, 40, 11).getTime(),
    outOfSyncTracks: 1,
    totalTracks: 16,
    copiedTracks: 0,
  };
}

const CASES: readonly (readonly [string, string[], RelationshipState[], string[]])[] = [
  ['two volumes', ['1203:1303'], [], []],
  ['two volumes of one LSS', ['1203:1204'], [], []],
  ['a larger target', ['1203:1207'], [], []],
  ['several targets of one source', ['1203:1303', '1203:1304', '1203:1204'], [], []],
  ['another target of a source', ['1203:1304'], [related('1203:1303')], []],
  ['a source that is a target (cascade)', ['1303:1304'], [related('1203:1303')], []],
  ['a target that is a source (cascade)', ['1205:1203'], [related('1203:1303')], []],
  ['two thick volumes', ['1211:1311'], [], []],
  ['a thick source and a thin target', ['1211:1303'], [], ['FC_THICKNESS']],
  ['a thin source and a thick target', ['1203:1311'], [], ['FC_THICKNESS']],
  ['thick volumes of two pools', ['1211:1312'], [], ['FC_THICKNESS']],
  ['blocks of two sizes', ['1203:1221'], [], ['FC_BLOCK_SIZE']],
  ['source = target', ['1203:1203'], [], ['FC_SAME_VOLUME']],
  ['a smaller target', ['1207:1303'], [], ['FC_SIZE_MISMATCH']],
  ['a target smaller by one track', ['1208:1303'], [], ['FC_SIZE_MISMATCH']],
  ['the same pair again', ['1203:1303'], [related('1203:1303')], ['FC_TARGET_IN_USE']],
  ['a target of another source', ['1204:1303'], [related('1203:1303')], ['FC_TARGET_IN_USE']],
  ['a target of a nocopy', ['1204:1303'], [related('1203:1303', true)], ['FC_TARGET_IN_USE']],
  ['a target twice', ['1203:1303', '1204:1303'], [], ['FC_TARGET_REPEATED']],
  ['a pair twice', ['1203:1303', '1203:1303'], [], ['FC_TARGET_REPEATED']],
  ['a chain in one request', ['1203:1303', '1303:1304'], [], ['FC_CHAINED']],
  ['a chain the other way round', ['1303:1304', '1203:1303'], [], ['FC_CHAINED']],
  ['an exchange', ['1203:1303', '1303:1203'], [], ['FC_CHAINED', 'FC_CHAINED']],
  ['one bad pair among good ones', ['1203:1303', '1204:1204', '1205:1304'], [], ['FC_SAME_VOLUME']],
  ['several bad pairs', ['1203:1203', '1207:1303'], [], ['FC_SAME_VOLUME', 'FC_SIZE_MISMATCH']],
];

test.each(
  CASES.map(([what, pairs, existing, codes]) => ({
    verdict: codes.length === 0 ? 'allowed' : `refused (${codes.join(', ')})`,
    what,
    pairs,
    existing,
    codes,
  })),
)('$what: $verdict', ({ pairs, existing, codes }) => {
  const refusals = checkEstablish(pairs.map(pair), existing, PLAIN);
  expect(refusals.map((refusal) => refusal.code)).toEqual(codes);
  for (const { pair: name, message } of refusals) {
    expect(message).toMatch(new RegExp(`^${name} refused: .+\\. [A-Z].+\\.$`));
    expect(message).not.toContain('\n');
  }
});

test('resync looks at the others and at the size of the source, which may have grown', () => {
  const own = related('1203:1303');
  expect(checkResync(pair('1203:1303'), own, [own, related('1203:1304')], PLAIN)).toEqual([]);
  expect(checkResync(pair('1208:1303'), own, [own], PLAIN)[0]?.code).toBe('FC_SIZE_MISMATCH');
});

test('reverse needs volumes of one size and a source that is no target', () => {
  const own = related('1203:1303');
  expect(checkReverse(pair('1303:1203'), own, [own, related('1203:1304')], PLAIN)).toEqual([]);
  expect(checkReverse(pair('1303:1207'), own, [own], PLAIN)[0]?.code).toBe('FC_SIZE_MISMATCH');
  const [busy] = checkReverse(
    pair('1303:1203'),
    own,
    [own, { ...related('1204:1203'), id: own.id + 1 }],
    PLAIN,
  );
  expect(busy).toMatchObject({ code: 'FC_TARGET_IN_USE', pair: '1303:1203' });
});

test('a refusal names the relationship in the way, its mode, its time and the way out', () => {
  const [refusal] = checkEstablish([pair('1203:1303')], [related('1204:1303', true)], PLAIN);
  expect(refusal?.message).toBe(
    '1203:1303 refused: 1303 is already the target of 1204:1303 ' +
      '(nocopy, since 2026-11-22 10:40:11). Withdraw it first.',
  );
});

test('a size refusal tells both sizes apart', () => {
  const [refusal] = checkEstablish([pair('1208:1303')], [], PLAIN);
  expect(refusal?.message).toContain('1303 (1.0 MiB, 1048576 bytes)');
  expect(refusal?.message).toContain('1208 (1.1 MiB, 1114112 bytes)');
});

const TWELVE = Array.from({ length: 12 }, (_, n) => related(`1203:${(0x1350 + n).toString(16)}`));

/** What the request adds: the same pairs are allowed without it. */
const REQUESTS: readonly (readonly [
  string,
  string[],
  RelationshipState[],
  Partial<RuleRequest>,
  string[],
])[] = [
  ['recording', ['1203:1303'], [], { record: true }, []],
  ['two that record', ['1203:1303', '1203:1304'], [], { record: true }, ['FC_RECORDING']],
  [
    'recording of a source that records',
    ['1203:1304'],
    [related('1203:1303', false, true)],
    { record: true },
    ['FC_RECORDING'],
  ],
  [
    'recording of a source that is copied without',
    ['1203:1304'],
    [related('1203:1303')],
    { record: true },
    [],
  ],
  ['recording of thick volumes', ['1211:1311'], [], { record: true }, ['FC_THICKNESS']],
  ['onto a target that hosts wrote', ['1203:1231'], [], {}, ['FC_TARGET_WRITTEN']],
  ['onto one that holds nothing any more', ['1203:1232'], [], {}, []],
  ['onto a target that hosts wrote, forced', ['1203:1231'], [], { force: true }, []],
  ['from a volume that hosts wrote', ['1231:1303'], [], {}, []],
  ['onto an attached target', ['1203:1241'], [], {}, []],
  ['the same, refuse', ['1203:1241'], [], { targetOnline: 'refuse' }, ['FC_TARGET_ONLINE']],
  ['the same, disconnect', ['1203:1241'], [], { targetOnline: 'disconnect' }, []],
  ['a 13th target', ['1203:1303'], TWELVE, {}, []],
  ['a 13th target, strict', ['1203:1303'], TWELVE, { strict: true }, ['FC_TARGET_LIMIT']],
  ['a 12th target, strict', ['1203:1303'], TWELVE.slice(1), { strict: true }, []],
  [
    'a 12th and a 13th target in one request, strict',
    ['1203:1303', '1203:1304'],
    TWELVE.slice(1),
    { strict: true },
    ['FC_TARGET_LIMIT'],
  ],
  [
    'a source that is a target, strict',
    ['1303:1304'],
    [related('1203:1303')],
    { strict: true },
    ['FC_CASCADE'],
  ],
  [
    'a target that is a source, strict',
    ['1205:1203'],
    [related('1203:1303')],
    { strict: true },
    ['FC_CASCADE'],
  ],
];

test.each(
  REQUESTS.map(([what, pairs, existing, request, codes]) => ({
    verdict: codes.length === 0 ? 'allowed' : `refused (${codes.join(', ')})`,
    what,
    pairs,
    existing,
    request,
    codes,
  })),
)('$what: $verdict', ({ pairs, existing, request, codes }) => {
  const refusals = checkEstablish(pairs.map(pair), existing, { ...PLAIN, ...request });
  expect(refusals.map((refusal) => refusal.code)).toEqual(codes);
  for (const { message } of refusals) expect(message).not.toContain('\n');
});
