import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { readTlsFiles } from '../../../src/nbd/tls-files.js';
import { scoped } from '../../helpers/cleanup.js';

const KEY = '00112233445566778899aabbccddeeff';

async function psk(text: string): Promise<ReturnType<typeof readTlsFiles>> {
  return scoped(async (scope) => {
    const file = join(await scope.tempDir(), 'keys.psk');
    await writeFile(file, text);
    return readTlsFiles({ psk: file, verifyPeer: false });
  });
}

test('a file of pre-shared keys, as psktool writes it', async () => {
  const { credentials } = await psk(`alice:${KEY}\n\nbob smith:${KEY.toUpperCase()}${KEY}\r\n`);
  expect(credentials.psk.map(({ identity, key }) => [identity, key.length])).toEqual([
    ['alice', 16],
    ['bob smith', 32],
  ]);
  expect(Buffer.from(credentials.psk[0]?.key ?? []).toString('hex')).toBe(KEY);
});

test.each([
  ['', 'it holds no key'],
  ['alice\n', 'line 1: it is not IDENTITY:HEX-KEY'],
  [`alice:${KEY}\nbob:123\n`, 'line 2: it is not IDENTITY:HEX-KEY'],
  [`alice:${KEY}zz\n`, 'line 1: it is not IDENTITY:HEX-KEY'],
  [`:${KEY}\n`, 'line 1: it is not IDENTITY:HEX-KEY'],
  ['alice:0011\n', 'line 1: a key has 16 to 256 bytes'],
  [`alice:${'00'.repeat(257)}\n`, 'line 1: a key has 16 to 256 bytes'],
  [`${'a'.repeat(129)}:${KEY}\n`, 'line 1: an identity is at most 128 bytes'],
  [`alice:${KEY}\nalice:${KEY}\n`, 'line 2: this identity stands here twice'],
])('%j is refused', async (text, message) => {
  await expect(psk(text)).rejects.toThrow(message);
});

test('a folder needs certificate and key, and the CA only when clients are asked', async () => {
  await scoped(async (scope) => {
    const dir = await scope.tempDir();
    const read = (verifyPeer: boolean, rules?: string) =>
      readTlsFiles({ certificates: dir, verifyPeer, rules });
    expect(() => read(false)).toThrow(/server-cert\.pem cannot be used: no such file/);
    await writeFile(join(dir, 'server-cert.pem'), 'certificate');
    await writeFile(join(dir, 'server-key.pem'), 'key');
    expect(read(false).credentials).toMatchObject({ certificate: 'certificate', verifyPeer: 'no' });
    expect(() => read(true)).toThrow(/ca-cert\.pem cannot be used: no such file/);
    await writeFile(join(dir, 'ca-cert.pem'), 'ca');
    expect(read(true).credentials).toMatchObject({ ca: 'ca', crl: '', verifyPeer: 'required' });
    await writeFile(join(dir, 'ca-crl.pem'), 'crl');
    expect(read(true).credentials.crl).toBe('crl');
    const rules = join(dir, 'rules.yaml');
    await writeFile(rules, "- {exports: ['*'], clients: ['CN=alice']}");
    // Rules about clients need to know who they are, when they want to say it.
    expect(read(false, rules).credentials.verifyPeer).toBe('optional');
    await writeFile(rules, 'nonsense');
    expect(() => read(false, rules)).toThrow(/rules\.yaml cannot be used: it must be a list/);
  });
});
