import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import {
  formatLss,
  formatVolumeId,
  isEssSerial,
  isVolumeId,
  lssOf,
  parseLss,
  parsePair,
  parseVolumeId,
  serialOf,
  tryParseVolumeId,
  volumeIdOfSerial,
} from '../../../src/base/ids.js';

describe('volume ids', () => {
  test.each([
    ['1203', 0x1203],
    ['1000', 0x1000],
    ['1FFF', 0x1fff],
    ['1abc', 0x1abc],
  ])('%s is 0x%x', (text, id) => {
    expect(parseVolumeId(text)).toBe(id);
    expect(tryParseVolumeId(text)).toBe(id);
    expect(formatVolumeId(id)).toBe(text.toUpperCase());
  });

  test.each(['', '0203', '2203', '120', '12034', '12G3', ' 1203', '1203\n', '0x1203', '20313698'])(
    'refuses %j',
    (text) => {
      expect(tryParseVolumeId(text)).toBeUndefined();
      expect(() => parseVolumeId(text)).toThrow(/is not a volume id.*for example 1203/);
    },
  );

  test.each([
    [0x1000, true],
    [0x1fff, true],
    [0x0fff, false],
    [0x2000, false],
    [0x1203 + 0.5, false],
    [Number.NaN, false],
  ])('isVolumeId(%d) is %s', (id, expected) => {
    expect(isVolumeId(id)).toBe(expected);
  });
});

describe('LSS', () => {
  test.each([
    ['10', 0x10],
    ['12', 0x12],
    ['1f', 0x1f],
  ])('%s is 0x%x', (text, lss) => {
    expect(parseLss(text)).toBe(lss);
    expect(formatLss(lss)).toBe(text.toUpperCase());
  });

  test.each(['', '1', '0F', '20', '123', '1G'])('refuses %j', (text) => {
    expect(() => parseLss(text)).toThrow(expect.objectContaining({ code: 'LSS_INVALID' }));
  });

  test.each([
    [0x1203, '12'],
    [0x1f00, '1F'],
    [0x10ff, '10'],
  ])('lssOf(0x%x) is %s', (id, lss) => {
    expect(lssOf(id)).toBe(lss);
  });
});

describe('serials', () => {
  // The white paper's LUN and the ones of SDD's lsvpcfg (ess.md 2.1).
  test.each([
    [0x1203, '13698', '20313698'],
    [0x1206, '13698', '20613698'],
    [0x1304, '13698', '30413698'],
    [0x1502, 'FCA01', '502FCA01'],
    [0x1407, 'FCA01', '407FCA01'],
    [0x100a, '13698', '00A13698'],
  ])('0x%x on %s is %s', (id, ess, serial) => {
    expect(serialOf(id, ess)).toBe(serial);
    expect(volumeIdOfSerial(serial, ess)).toBe(id);
    expect(volumeIdOfSerial(serial.toLowerCase(), ess)).toBe(id);
  });

  test.each(['', '1203', '20313699', '2031369', '203136980', 'G0313698', '20313698 '])(
    '%j is no serial of 13698',
    (serial) => {
      expect(volumeIdOfSerial(serial, '13698')).toBeUndefined();
    },
  );

  test('every id comes back from its serial', () => {
    fc.assert(
      fc.property(fc.integer({ min: 0x1000, max: 0x1fff }), (id) => {
        expect(serialOf(id, '13698')).toHaveLength(8);
        expect(volumeIdOfSerial(serialOf(id, '13698'), '13698')).toBe(id);
        expect(parseVolumeId(formatVolumeId(id))).toBe(id);
      }),
    );
  });

  test.each([
    ['13698', true],
    ['FCA01', true],
    ['fca01', false],
    ['1369', false],
    ['136988', false],
    ['13-98', false],
  ])('isEssSerial(%s) is %s', (text, expected) => {
    expect(isEssSerial(text)).toBe(expected);
  });
});

describe('parsePair', () => {
  test.each([
    ['1203:1303', '1203', '1303'],
    ['12ab:13cd', '12AB', '13CD'],
    [' 1203 : 1303 ', '1203', '1303'],
    ['20313698:30313698', '20313698', '30313698'],
    ['db:db-copy', 'db', 'db-copy'],
  ])('%s', (text, source, target) => {
    expect(parsePair(text)).toEqual({ source, target });
  });

  test.each(['', ':', '1203', '1203:', ':1303', '1203:1303:1403', ' : '])('refuses %j', (text) => {
    expect(() => parsePair(text)).toThrow(/is not a pair.*for example 1203:1303/);
  });
});

test('what was typed does not break the line of a message', () => {
  expect(() => parseLss('12\n')).toThrow(/^'12\?' is not an LSS/);
  expect(() => parseVolumeId('12\n03')).toThrow(/^'12\?03' is not a volume id/);
});
