/** Every rule of Establish against every situation: the title carries the verdict. */
import { expect, test } from 'vitest';
import { parseVolumeId } from '../../../src/base/ids.js';
import {
  checkEstablish,
  checkResync,
  checkReverse,
  type RulePair,
} from '../../../src/copyservices/rules.js';
import type { RelationshipState } from '../../../src/engine/types.js';

const MIB = 1024 * 1024;
const SIZES: Record<string, number> = { '1207': 2 * MIB, '1208': MIB + 65_536 };

/**
 * `1203:1303`; 1211, 1311 and 1312 are thick, 1312 in another pool; 1207 is larger than the others,
 * 1208 by one track; 1221 has blocks of 4096 bytes.
 */
function pair(text: string): RulePair {
  const [source = '', target = ''] = text.split(':');
  const volume = (id: string) => ({
    id: parseVolumeId(id),
    sizeBytes: SIZES[id] ?? MIB,
    pool: id === '1312' ? 1 : 0,
    thick: /^1[23]1/.test(id),
    blockBytes: id === '1221' ? 4096 : 512,
  });
  return { source: volume(source), target: volume(target) };
}

function related(text: string, noCopy = false): RelationshipState {
  const { source, target } = pair(text);
  return {
    id: 1,
    sourceId: source.id,
    targetId: target.id,
    noCopy,
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
  const refusals = checkEstablish(pairs.map(pair), existing);
  expect(refusals.map((refusal) => refusal.code)).toEqual(codes);
  for (const { pair: name, message } of refusals) {
    expect(message).toMatch(new RegExp(`^${name} refused: .+\\. [A-Z].+\\.$`));
    expect(message).not.toContain('\n');
  }
});

test('resync looks at the others and at the size of the source, which may have grown', () => {
  const own = related('1203:1303');
  expect(checkResync(pair('1203:1303'), own, [own, related('1203:1304')])).toEqual([]);
  expect(checkResync(pair('1208:1303'), own, [own])[0]?.code).toBe('FC_SIZE_MISMATCH');
});

test('reverse needs volumes of one size and a source that is no target', () => {
  const own = related('1203:1303');
  expect(checkReverse(pair('1303:1203'), own, [own, related('1203:1304')])).toEqual([]);
  expect(checkReverse(pair('1303:1207'), own, [own])[0]?.code).toBe('FC_SIZE_MISMATCH');
  const [busy] = checkReverse(pair('1303:1203'), own, [
    own,
    { ...related('1204:1203'), id: own.id + 1 },
  ]);
  expect(busy).toMatchObject({ code: 'FC_TARGET_IN_USE', pair: '1303:1203' });
});

test('a refusal names the relationship in the way, its mode, its time and the way out', () => {
  const [refusal] = checkEstablish([pair('1203:1303')], [related('1204:1303', true)]);
  expect(refusal?.message).toBe(
    '1203:1303 refused: 1303 is already the target of 1204:1303 ' +
      '(nocopy, since 2026-11-22 10:40:11). Withdraw it first.',
  );
});

test('a size refusal tells both sizes apart', () => {
  const [refusal] = checkEstablish([pair('1208:1303')], []);
  expect(refusal?.message).toContain('1303 (1.0 MiB, 1048576 bytes)');
  expect(refusal?.message).toContain('1208 (1.1 MiB, 1114112 bytes)');
});
