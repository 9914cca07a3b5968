import { expect, test } from 'vitest';
import { AssertionFailure, assert } from '../../../src/base/assert.js';

test('a true condition passes and narrows', () => {
  const value: string | undefined = ['x'][0];
  assert(value, 'there is a value');
  expect(value.length).toBe(1);
});

test.each([false, 0, '', null, undefined])('%j fails with the message', (condition) => {
  expect(() => assert(condition, 'size fits')).toThrow(AssertionFailure);
  expect(() => assert(condition, 'size fits')).toThrow(/size fits.*bug in flashlun/);
});
