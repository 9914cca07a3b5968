import { expect, test } from 'vitest';
import { alternativeNames } from '../../../src/nbd/tls-identity.js';
import { glob, isNamed, parseTlsRules } from '../../../src/nbd/tls-rules.js';
import { LUN_1203, LUN_1303 } from './catalog.js';

test.each([
  ['abc', 'abc', true],
  ['abc', 'abcd', false],
  ['', '', true],
  ['*', '', true],
  ['*', 'anything', true],
  ['a*', 'a', true],
  ['a*', 'ba', false],
  ['*a', 'ba', true],
  ['a*a', 'a', false],
  ['a*a', 'aa', true],
  ['a*b*c', 'a-b-b-c', true],
  ['a*b*c', 'a-c-b', false],
  ['*b*', 'abc', true],
  ['**', 'x', true],
  ['a.c', 'abc', false],
  ['a[b]c', 'abc', false],
])('%s and %s: %s', (pattern, text, expected) => {
  expect(glob(pattern, false)(text)).toBe(expected);
});

test('a pattern with many stars is no problem', () => {
  const matches = glob(`${'a*'.repeat(500)}b`, false);
  expect(matches('a'.repeat(100_000))).toBe(false);
});

test('host names have no case, names in certificates have', () => {
  const [upper] = [parseTlsRules("- {exports: ['*'], clients: ['DNS:VM*.lab', 'CN=Alice']}")];
  const clients = upper.for(LUN_1203)?.clients ?? [];
  const named = (subject: string, ...names: string[]): boolean =>
    isNamed({ kind: 'x509', subject, names, fingerprint: '' }, clients);
  expect(named('CN=x', 'DNS:vm1.LAB')).toBe(true);
  expect(named('CN=Alice')).toBe(true);
  expect(named('CN=alice')).toBe(false);
  // A name of one kind is not taken for one of another.
  expect(named('DNS:vm1.lab.example')).toBe(false);
  expect(named('CN=x', 'URI:vm1.lab')).toBe(false);
});

test('exports are named by id, serial or name, in any case', () => {
  const rules = parseTlsRules("- {exports: [db]}\n- {exports: ['30313698']}");
  expect(rules.for({ ...LUN_1203, names: ['1203', '20313698', 'DB'] })?.required).toBe(true);
  expect(rules.for(LUN_1203)).toBeUndefined();
  expect(rules.for({ ...LUN_1303, name: '1303', names: ['30313698'] })?.required).toBe(true);
});

test.each([
  ['exports: [a]', 'it must be a list of rules'],
  ['- {exports: []}', 'rule 1: '],
  ['- {exports: [a]}\n- {export: [a]}', 'rule 2: '],
  ['- {exports: [1203]}', 'rule 1: '],
  ['- {exports: [a], tls: maybe}', 'rule 1: '],
  ["- {exports: [a], tls: optional, clients: ['*']}", 'rule 1: clients are known by TLS only'],
  ['- {exports: [a', 'it is not YAML: '],
])('%j is refused', (text, message) => {
  expect(() => parseTlsRules(text)).toThrow(message);
});

test('an empty file is no rule', () => {
  expect(parseTlsRules('').isEmpty).toBe(true);
  expect(parseTlsRules('[]').nameClients).toBe(false);
});

test('alternative names of a certificate are taken apart', () => {
  expect(alternativeNames(undefined)).toEqual([]);
  expect(alternativeNames('DNS:a.lab, IP Address:127.0.0.1, URI:http://x/')).toEqual([
    'DNS:a.lab',
    'IP:127.0.0.1',
    'URI:http://x/',
  ]);
  // Node quotes what could be taken for two names.
  expect(alternativeNames('DNS:"a.lab, DNS:b.lab", email:x@y')).toEqual([
    'DNS:a.lab, DNS:b.lab',
    'email:x@y',
  ]);
  expect(alternativeNames('DNS:"a\\"b"')).toEqual(['DNS:a"b']);
});
