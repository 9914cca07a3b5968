// rsExecuteTask without a server: options, time stamps, registration strings.
import { describe, expect, test } from 'vitest';
import { parseArguments } from '../../../src/esscli/arguments.js';
import { localHost } from '../../../src/esscli/main.js';
import {
  checkJoinStatusReply,
  joinStatusRequest,
  parseRegisterReply,
  registerRequest,
} from '../../../src/esscli/registration-client.js';
import { formatTimestamp } from '../../../src/esscli/transcript.js';

const BASE = { help: false, verbose: false, user: 'admin', password: undefined };

describe('parseArguments', () => {
  test.each<[string, string, Record<string, unknown>]>([
    [
      'the order of Figure 11',
      '/v /u me /p secret /s ospl18c0.storage.sanjose.ibm.com VMWare_W2K_FC',
      {
        verbose: true,
        user: 'me',
        password: 'secret',
        server: 'ospl18c0.storage.sanjose.ibm.com',
        tasks: ['VMWare_W2K_FC'],
      },
    ],
    [
      'UNIX options after the tasks',
      'A B -s host:1 -v -p x',
      { verbose: true, password: 'x', server: 'host:1', tasks: ['A', 'B'] },
    ],
    [
      'capitals, mixed prefixes',
      '-V /U me /P x -S h A',
      { verbose: true, user: 'me', password: 'x', server: 'h', tasks: ['A'] },
    ],
    [
      'a password that looks like a path',
      '/p /etc/x /s h A',
      { password: '/etc/x', server: 'h', tasks: ['A'] },
    ],
    [
      'a password with a dash',
      '-p -secret -s h A',
      { password: '-secret', server: 'h', tasks: ['A'] },
    ],
    ['-- ends the options', '-s h -- -v /u', { server: 'h', tasks: ['-v', '/u'] }],
    ['help needs nothing else', '/?', { help: true, server: '', tasks: [] }],
    ['--help', '--help', { help: true, server: '', tasks: [] }],
  ])('%s', (_title, line, expected) => {
    expect(parseArguments(line.split(' '), {})).toEqual({ ...BASE, ...expected });
  });

  test('the environment fills in what the command line leaves out', () => {
    const env = { FLASHLUN_SERVER: 's', FLASHLUN_USER: 'u', FLASHLUN_PASSWORD: 'p' };
    expect(parseArguments(['A'], env)).toEqual({
      ...BASE,
      server: 's',
      user: 'u',
      password: 'p',
      tasks: ['A'],
    });
    expect(parseArguments(['/s', 'x', '/u', 'y', '/p', 'z', 'A'], env)).toEqual({
      ...BASE,
      server: 'x',
      user: 'y',
      password: 'z',
      tasks: ['A'],
    });
  });

  test.each([
    ['no server', 'A', /no server given/],
    ['no task', '/s h', /no task given/],
    ['an unknown option', '/x /s h A', /unknown option \/x/],
    ['joined options', '-vu me -s h A', /unknown option -vu/],
    ['an option without value', 'A /s', /\/s needs a value/],
    ['Figure 11 as printed, user and password blanked', '/v /u /p /s h A', /\/u needs a value/],
  ])('refuses %s', (_title, line, message) => {
    expect(() => parseArguments(line.split(' '), {})).toThrow(message);
  });
});

describe('formatTimestamp', () => {
  test.each([
    [new Date(2005, 4, 4, 15, 56, 46, 656), '2005/05/04 15:56:46:656'],
    [new Date(2005, 4, 4, 15, 56, 47, 94), '2005/05/04 15:56:47:94'],
    [new Date(2026, 10, 22, 0, 0, 0, 0), '2026/11/22 00:00:00:0'],
  ])('%s', (time, text) => {
    expect(formatTimestamp(time)).toBe(text);
  });
});

describe('registration strings', () => {
  test('requests are those of Figure 11', () => {
    expect(registerRequest('rich-w2k-os-1', '192.168.10.2')).toBe(
      '102,3,7ffb00bf007f,rich-w2k-os-1,192.168.10.2,false,false',
    );
    expect(joinStatusRequest(339454997)).toBe('101,3,7ffb00bf007f,339454997');
  });

  test('replies are those of Figure 11, blanks around fields allowed', () => {
    expect(parseRegisterReply('102,513,fffb00bf007f,339454997,0')).toBe(339454997);
    expect(parseRegisterReply(' 102, 513 ,FFFB00BF007F,339454997,0')).toBe(339454997);
    expect(() => checkJoinStatusReply('101,516,fffb00bf007f,339454997,0', 339454997)).not.toThrow();
  });

  test.each(['a,b', 'two words', '', 'ümlaut'])('host name %j is refused', (host) => {
    expect(() => registerRequest(host, '127.0.0.1')).toThrow(/RS_HOST/);
  });

  test('a return code other than 0 is a refusal', () => {
    expect(() => parseRegisterReply('102,513,7ffb00bf007f,0,5')).toThrow(/return code 5/);
    expect(() => checkJoinStatusReply('101,516,fffb00bf007f,1,1', 1)).toThrow(/return code 1/);
  });

  test.each([
    '',
    'ok',
    '102,513,fffb00bf007f,339454997',
    '101,516,fffb00bf007f,339454997,0',
    '102,513,7ffb00bf007f,339454997,0',
    '102,513,fffb00bf007f,x,0',
  ])('%j is no registration reply', (reply) => {
    expect(() => parseRegisterReply(reply)).toThrow(/no registration reply/);
  });

  test('a reply for another client is refused', () => {
    expect(() => checkJoinStatusReply('101,516,fffb00bf007f,2,0', 1)).toThrow(/no registration/);
  });
});

test('RS_HOST takes the place of the host name', () => {
  expect(localHost({ RS_HOST: 'rich-w2k-os-1' }).name).toBe('rich-w2k-os-1');
  expect(localHost({}).name).not.toBe('');
  expect(localHost({}).address).toMatch(/^\d+\.\d+\.\d+\.\d+$/);
});
