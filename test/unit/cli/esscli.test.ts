// The rs* commands without a server: options, names, disks, time stamps, registration strings.
import { mkdirSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { describe, expect, test } from 'vitest';
import { parseArguments } from '../../../src/esscli/arguments.js';
import { EXECUTE_TASK } from '../../../src/esscli/commands/execute-task.js';
import { QUERY } from '../../../src/esscli/commands/queries.js';
import { localDisks } from '../../../src/esscli/disks.js';
import { COMMANDS, commandOf, localHost, run } from '../../../src/esscli/main.js';
import { table } from '../../../src/esscli/table.js';
import { scoped } from '../../helpers/cleanup.js';
import {
  checkJoinStatusReply,
  joinStatusRequest,
  parseRegisterReply,
  registerRequest,
} from '../../../src/esscli/registration-client.js';
import { formatTimestamp } from '../../../src/esscli/transcript.js';

const BASE = { help: false, verbose: false, user: 'admin', password: undefined, values: {} };

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
        words: ['VMWare_W2K_FC'],
      },
    ],
    [
      'UNIX options after the tasks',
      'A B -s host:1 -v -p x',
      { verbose: true, password: 'x', server: 'host:1', words: ['A', 'B'] },
    ],
    [
      'capitals, mixed prefixes',
      '-V /U me /P x -S h A',
      { verbose: true, user: 'me', password: 'x', server: 'h', words: ['A'] },
    ],
    [
      'a password that looks like a path',
      '/p /etc/x /s h A',
      { password: '/etc/x', server: 'h', words: ['A'] },
    ],
    [
      'a password with a dash',
      '-p -secret -s h A',
      { password: '-secret', server: 'h', words: ['A'] },
    ],
    ['-- ends the options', '-s h -- -v /u', { server: 'h', words: ['-v', '/u'] }],
    ['help needs nothing else', '/?', { help: true, server: '', words: [] }],
    ['--help', '--help', { help: true, server: '', words: [] }],
  ])('%s', (_title, line, expected) => {
    expect(parseArguments(EXECUTE_TASK, line.split(' '), {})).toEqual({ ...BASE, ...expected });
  });

  test('the environment fills in what the command line leaves out', () => {
    const env = { FLASHLUN_SERVER: 's', FLASHLUN_USER: 'u', FLASHLUN_PASSWORD: 'p' };
    expect(parseArguments(EXECUTE_TASK, ['A'], env)).toEqual({
      ...BASE,
      server: 's',
      user: 'u',
      password: 'p',
      words: ['A'],
    });
    expect(parseArguments(EXECUTE_TASK, ['/s', 'x', '/u', 'y', '/p', 'z', 'A'], env)).toEqual({
      ...BASE,
      server: 'x',
      user: 'y',
      password: 'z',
      words: ['A'],
    });
  });

  test.each([
    ['no server', 'A', /no server given/],
    ['no task', '/s h', /no task given/],
    ['an unknown option', '/x /s h A', /unknown option \/x/],
    ['an option of another command', '/q 1203 /s h A', /unknown option \/q: .*\/u USER/],
    ['joined options', '-vu me -s h A', /unknown option -vu/],
    ['an option without value', 'A /s', /\/s needs a value/],
    ['Figure 11 as printed, user and password blanked', '/v /u /p /s h A', /\/u needs a value/],
  ])('refuses %s', (_title, line, message) => {
    expect(() => parseArguments(EXECUTE_TASK, line.split(' '), {})).toThrow(message);
  });
});

test('options of a command of its own', () => {
  const parsed = parseArguments(QUERY, ['/Q', '1203,1204', '-f', 'list', '/s', 'h'], {});
  expect(parsed).toMatchObject({ values: { q: '1203,1204', f: 'list' }, words: [] });
  expect(() => parseArguments(QUERY, ['/q', '/f', 'x', '/s', 'h'], {})).toThrow(
    /\/q needs a value/,
  );
});

describe('names', () => {
  test.each([
    ['/usr/bin/rsExecuteTask', 'rsExecuteTask'],
    ['rsprimeserver', 'rsPrimeServer'],
    ['RSPRIMESERVER.BAT', 'rsPrimeServer'],
    ['C:\\Program Files\\ibm\\ESScli\\rsList2105s.bat', 'rsList2105s'],
    ['./rsQueryComplete.sh', 'rsQueryComplete'],
    ['rsFlashCopyQuery.exe', 'rsFlashCopyQuery'],
    ['RsQuery', 'rsQuery'],
    ['rsTestConnection.mjs', 'rsTestConnection'],
    ['node', undefined],
    ['rsExecuteTask2', undefined],
    ['', undefined],
  ])('%s', (path, name) => {
    expect(commandOf(path)?.name).toBe(name);
  });

  test('each command says how it is used', async () => {
    for (const command of COMMANDS) {
      let text = '';
      const out = { write: (part: string) => (text += part) };
      const host = { name: 'h', address: '127.0.0.1' };
      expect(await run(command, ['/?'], { env: {}, host, stdout: out, stderr: out })).toBe(0);
      expect(text).toMatch(new RegExp(`^Usage: ${command.name} \\[/v\\]`));
      expect(text).toContain('Exit codes');
      for (const letter of Object.keys(command.values ?? {}))
        expect(text).toContain(`  /${letter} `);
    }
  });
});

describe('local disks', () => {
  const page = (serial: string): Buffer =>
    Buffer.concat([Buffer.from([0, 0x80, 0, serial.length]), Buffer.from(serial)]);

  test('SCSI disks of an ESS by VPD page 0x80, virtio disks by their serial, others not', () =>
    scoped(async (scope) => {
      const sysfs = await scope.tempDir();
      const put = (path: string, content: string | Buffer): void => {
        mkdirSync(dirname(join(sysfs, 'block', path)), { recursive: true });
        writeFileSync(join(sysfs, 'block', path), content);
      };
      const scsi = (name: string, vendor: string, model: string, serial?: string): void => {
        put(`${name}/device/vendor`, `${vendor}\n`);
        put(`${name}/device/model`, `${model}\n`);
        if (serial !== undefined) put(`${name}/device/vpd_pg80`, page(serial));
      };
      scsi('sda', 'IBM     ', '2105800         ', '20313698');
      scsi('sdb', 'QEMU    ', 'QEMU HARDDISK   ', '20413698');
      scsi('sdc', 'IBM     ', '2107900         ', '20513698');
      scsi('sdd', 'IBM     ', '2105F20         ', '  203FCA01');
      scsi('sde', 'IBM     ', '2105800         ');
      put('sdf/device/vendor', 'IBM\n');
      put('sdf/device/model', '2105800\n');
      put('sdf/device/vpd_pg80', Buffer.from([0]));
      put('vda/serial', '30313698');
      put('vda/device/vendor', '0x1af4\n');
      put('vdb/serial', 'my-root-disk');
      put('loop0/size', '0');
      expect(localDisks({}, sysfs)).toEqual([
        { name: 'sda', serial: '20313698' },
        { name: 'sdd', serial: '203FCA01' },
        { name: 'vda', serial: '30313698' },
      ]);
      expect(() => localDisks({}, join(sysfs, 'none'))).toThrow(/name them in RS_DISKS/);
    }));

  test('RS_DISKS takes their place', () => {
    expect(localDisks({ RS_DISKS: 'Disk1=20313698, Disk2=203fca01' })).toEqual([
      { name: 'Disk1', serial: '20313698' },
      { name: 'Disk2', serial: '203FCA01' },
    ]);
  });

  test.each(['Disk1', 'Disk1=', '=20313698', 'Disk1=2031369', 'a=20313698,', 'a b=20313698'])(
    'RS_DISKS=%s is refused',
    (text) => {
      expect(() => localDisks({ RS_DISKS: text })).toThrow(/RS_DISKS is malformed/);
    },
  );
});

test('the list of the white paper', () => {
  const rows = [
    ['Disk1', '20313698'],
    ['Disk2', '20413698'],
  ];
  expect(table(['disk name', '2105 serial number'], rows, 19)).toEqual([
    'disk name          2105 serial number',
    '---------          ------------------',
    'Disk1              20313698',
    'Disk2              20413698',
  ]);
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
