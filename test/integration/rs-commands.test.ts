// The rs* commands against a real server: the white paper's listing and Figures 5, 6 and 11 line by
// line, queries, and what each of them answers to bad input.
import { readFile, symlink, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { localHost } from '../../src/esscli/main.js';
import { Scope, scoped } from '../helpers/cleanup.js';
import { exec, type ExecResult } from '../helpers/exec.js';
import { NbdClient } from '../helpers/nbd-client.js';
import { rs, transcriptOf } from '../helpers/rs.js';
import { ROOT, type Server, startServer } from '../helpers/server.js';

const TASK = 'VMWare_W2K_FC';
const GUEST1 = { RS_HOST: 'rich-w2k-os-1', RS_DISKS: 'Disk1=20313698,Disk2=20413698' };
const GUEST2 = { RS_HOST: 'RICH-W2K-OS-2', RS_DISKS: 'Disk1=30313698' };
const { address } = localHost({});

const scope = new Scope();
let server: Server;
let password: string;

beforeAll(async () => {
  server = await startServer(scope);
  password = (await readFile(join(server.data, 'admin-password'), 'utf8')).trim();
});

afterAll(() => scope.close());

/** Without an address of the command's own, the running server. */
function run(name: string, line: string, env: Record<string, string> = {}): Promise<ExecResult> {
  return rs(name, line, {
    FLASHLUN_SERVER: server.addresses.http,
    FLASHLUN_PASSWORD: password,
    ...env,
  });
}

/** The lines of rsRegister in Figures 5, 6 and 11. */
function registration(host: string, id: number): string[] {
  const request = `102,3,7ffb00bf007f,${host},${address},false,false`;
  return [
    `<ts> rsRegister: Local host ${host} at address ${address}`,
    '<ts> rsRegister: CLI client going to register with server',
    `<ts> rsRegister: registerClient request string "${request}"`,
    `<ts> rsRegister: registerClient response string "102,513,fffb00bf007f,${id},0"`,
    '<ts> rsRegister: CLI client registered successfully',
  ];
}

const HEARTBEAT = 'rsWebTest: HeartBeat to the server was successful.';

function figure5(host: string, id: number, name: string): string[] {
  return [
    HEARTBEAT,
    `rsPrimeServer: Local host is ${host}`,
    ...registration(host, id),
    'rsPrimeServer: Got task manager reference',
    `rsPrimeServer: Host ${host} registered`,
    `rsPrimeServer: Configuration change requested made to ${name}`,
    'rsPrimeServer: Command successful',
  ];
}

describe('the white paper', () => {
  test('6.2.1: rsList2105s needs no server', async () => {
    const result = await rs('rsList2105s', '', {
      ...GUEST1,
      RS_DISKS: 'Disk1=20313698,Disk2=20413698,Disk3=20513698,Disk4=20613698',
    });
    expect(result).toEqual({
      code: 0,
      stderr: '',
      stdout: [
        'disk name          2105 serial number',
        '---------          ------------------',
        'Disk1              20313698',
        'Disk2              20413698',
        'Disk3              20513698',
        'Disk4              20613698',
        '',
      ].join('\n'),
    });
  });

  test('Figures 5 and 6, host focus, Figure 11: clients 995, 996 and 997', async () => {
    const url = server.addresses.http;
    const line = `/v /u admin /p ${password} /s ${url}`;
    const first = await run('rsPrimeServer', line, GUEST1);
    expect({ code: first.code, stderr: first.stderr }).toEqual({ code: 0, stderr: '' });
    expect(transcriptOf(first)).toEqual(figure5('rich-w2k-os-1', 339454995, url));
    const second = await run('rsPrimeServer', `-s ${url} -V -p ${password} -u admin`, GUEST2);
    expect(transcriptOf(second)).toEqual(figure5('RICH-W2K-OS-2', 339454996, url));

    const hosts = await server.flashlun('host', 'list');
    expect(hosts.stdout).toMatch(/^RICH-W2K-OS-2 .* 1$/m);
    expect(hosts.stdout).toMatch(/^rich-w2k-os-1 .* 2$/m);
    const focus = await server.flashlun('volume', 'list', '--host', 'RICH-W2K-OS-1', '--json');
    const { volumes } = JSON.parse(focus.stdout) as { volumes: { id: string }[] };
    expect(volumes.map(({ id }) => id)).toEqual(['1203', '1204']);
    const saved = await server.flashlun('task', 'create', TASK, 'establish', '1203:1303');
    expect(saved.code).toBe(0);

    const result = await run('rsExecuteTask', `${line} ${TASK}`, GUEST1);
    expect({ code: result.code, stderr: result.stderr }).toEqual({ code: 0, stderr: '' });
    expect(transcriptOf(result)).toEqual([
      HEARTBEAT,
      ...registration('rich-w2k-os-1', 339454997),
      'rsExecuteTask: Got task manager reference',
      'rsAppletStatusConnection: Successfully connected to Applet Status Server',
      '<ts> rsRegister: CLI client going to register with status server',
      '<ts> rsRegister: connectToServerProt2 request string "101,3,7ffb00bf007f,339454997"',
      '<ts> rsRegister: rsAppletStatusServer response string "101,516,fffb00bf007f,339454997,0"',
      '<ts> rsRegister: CLI client registered successfully',
      'rsStatusMessenger: Status Messenger started',
      'rsExecuteTask: *****Finding the tasks*****',
      `rsExecuteTask: Task ${TASK} found by task manager`,
      'rsExecuteTask: *****Scheduling the tasks*****',
      `rsExecuteTask: Task ${TASK} scheduled with copy services server`,
      'rsExecuteTask: *****Monitoring the tasks*****',
      'rsExecuteTask: Waiting on server...',
      `rsExecuteTask: Task ${TASK} completed successfully`,
      'rsExecuteTask: Command successful',
    ]);
  });

  test('rsPrimeServer again replaces the map; without /v it says only how it ended', async () => {
    const result = await run('rsPrimeServer', '', { ...GUEST1, RS_DISKS: 'Disk9=20513698' });
    expect(result).toEqual({
      code: 0,
      stdout: 'rsPrimeServer: Command successful\n',
      stderr: '',
    });
    const shown = await server.flashlun('host', 'show', 'RICH-w2k-os-1');
    expect(shown.stdout).toMatch(/^disks +Disk9 20513698 \(1205\)$/m);
  });
});

test('one bundled file, under names of any case and suffix', async () => {
  const script = join(ROOT, 'scripts/build-ess-cli.mjs');
  expect(await exec('node', [script, '--bundle-only'])).toMatchObject({ code: 0 });
  const bundle = join(ROOT, 'dist/ess-cli/flashlun-ess-cli.cjs');
  const dir = await scope.tempDir();
  for (const [name, words] of [
    ['RSLIST2105S.BAT', []],
    ['rslist2105s.sh', []],
    ['rsList2105s', ['/v']],
    ['anything', ['RsList2105s']],
  ] as const) {
    await symlink(bundle, join(dir, name));
    const result = await exec(join(dir, name), words, { env: GUEST2 });
    expect(result).toMatchObject({ code: 0, stderr: '' });
    expect(result.stdout).toMatch(/\nDisk1 {14}30313698\n$/);
  }
  const lost = await exec(join(dir, 'anything'), []);
  expect(lost).toMatchObject({ code: 1, stdout: '' });
  expect(lost.stderr).toMatch(/^flashlun ESS CLI: [^\n]*rsList2105s[^\n]*\n$/);
});

describe('queries', () => {
  beforeAll(async () => {
    const client = await NbdClient.open({ path: server.unixPath }, '1204');
    await client.write(0, Buffer.alloc(65_536, 1));
    client.close();
    await server.api.establish(['1204:1304'], true);
    await server.flashlun('task', 'create', 'Nocopy', 'establish', '1204:1304', '--nocopy');
  });

  afterAll(() => server.api.withdraw('1204:1304'));

  test('rsTestConnection asks for a sign of life only', async () => {
    expect(await run('rsTestConnection', '/v', { FLASHLUN_PASSWORD: 'wrong' })).toEqual({
      code: 0,
      stdout: `${HEARTBEAT}\nrsTestConnection: Command successful\n`,
      stderr: '',
    });
  });

  test('rsQuery: volumes of /q, of a file and as words, each once', async () => {
    const file = join(await scope.tempDir(), 'list');
    await writeFile(file, '30413698 # the target\n20413698\n');
    const result = await run('rsQuery', `/q 1204,20313698 -f ${file} 1206`);
    expect(result).toMatchObject({ code: 0, stderr: '' });
    expect(result.stdout).toBe(
      [
        '2105 serial number  volume  FlashCopy    PPRC',
        '------------------  ------  ---------    ----',
        '20413698            1204    source of 1  SIMPLEX',
        '20313698            1203    none         SIMPLEX',
        '30413698            1304    target       SIMPLEX',
        '20613698            1206    none         SIMPLEX',
        '',
      ].join('\n'),
    );
  });

  test('rsFlashCopyQuery: relationships of volumes, or none', async () => {
    const result = await run('rsFlashCopyQuery', '20413698');
    expect(result).toMatchObject({ code: 0, stderr: '' });
    expect(result.stdout).toMatch(
      /^20413698 +30413698 +nocopy +nocopy +\d+ +16384 +\d+% +\d{4}\//m,
    );
    expect(await run('rsFlashCopyQuery', '1206')).toEqual({
      code: 0,
      stdout: 'rsFlashCopyQuery: No FlashCopy relationships\n',
      stderr: '',
    });
  });

  test('rsQueryComplete: a task whose copies have ended, and one that never will', async () => {
    const done = await run('rsQueryComplete', `${TASK} /t 120`);
    expect(done).toEqual({
      code: 0,
      stdout: `rsQueryComplete: Task ${TASK} complete\nrsQueryComplete: Command successful\n`,
      stderr: '',
    });
    await server.flashlun('task', 'create', 'Both', 'group', TASK, 'Nocopy');
    expect((await run('rsQueryComplete', 'Both')).stderr).toMatch(/1204:1304 has no background/);
    const never = await run('rsQueryComplete', 'Nocopy');
    expect(never.code).toBe(5);
    expect(never.stdout).toBe(
      'rsQueryComplete: Task Nocopy not complete\nrsQueryComplete: Command failed\n',
    );
    expect(never.stderr).toMatch(/^rsQueryComplete: 1204:1304 has no background copy [^\n]+\n$/);
  });
});

describe('bad input: one line, the right exit code, nothing changed', () => {
  test.each<[string, string, number, RegExp, Record<string, string>?]>([
    ['rsList2105s', 'x', 1, /'x' is too much/],
    ['rsList2105s', '/s h', 1, /unknown option \/s/],
    ['rsList2105s', '', 1, /RS_DISKS is malformed/, { RS_DISKS: 'nonsense' }],
    ['rsPrimeServer', 'x', 1, /'x' is too much/],
    ['rsPrimeServer', '/s', 1, /\/s needs a value/],
    ['rsPrimeServer', '', 1, /cannot be registered/, { RS_HOST: 'a,b', RS_DISKS: 'a=20313698' }],
    ['rsPrimeServer', '', 3, /wrong user or password/, { ...GUEST1, FLASHLUN_PASSWORD: 'x' }],
    ['rsPrimeServer', '', 5, /host name/, { ...GUEST1, RS_HOST: '-dash' }],
    ['rsPrimeServer', '', 5, /stands in it twice/, { RS_DISKS: 'a=20313698,a=20413698' }],
    ['rsPrimeServer', '/s 127.0.0.1:1', 2, /cannot connect/, GUEST1],
    ['rsTestConnection', '/s 127.0.0.1:1', 2, /cannot connect/],
    ['rsTestConnection', '/s http://', 1, /not a server address/],
    ['rsQuery', '', 1, /no volume given/],
    ['rsQuery', '/q 1999', 5, /1999/],
    ['rsQuery', '/f /no/such/file', 1, /no such file/],
    ['rsQuery', `/q ${'x'.repeat(100)}`, 1, /serial number, id or name/],
    ['rsFlashCopyQuery', 'nosuch', 5, /nosuch/],
    ['rsQueryComplete', '', 1, /no task given/],
    ['rsQueryComplete', 'a b', 1, /at most 1/],
    ['rsQueryComplete', 'NoSuch', 4, /no task 'NoSuch'/],
    ['rsQueryComplete', `/t never ${TASK}`, 1, /no number of seconds/],
    ['rsExecuteTask', `${'A '.repeat(257)}`.trim(), 1, /at most 256/],
  ])('%s %s: %i', async (name, line, code, reason, env = {}) => {
    const before = await server.api.call('GET', '/v1/hosts');
    const result = await run(name, line, env);
    expect(result.code).toBe(code);
    expect(result.stderr).toMatch(reason);
    expect(result.stderr).toMatch(new RegExp(`^${name}: [^\\n]+\\n$`));
    expect(result.stdout.split('\n').at(-2) ?? '').toBe(
      code === 1 ? '' : `${name}: Command failed`,
    );
    expect(await server.api.call('GET', '/v1/hosts')).toEqual(before);
  });
});

test('client ids are never given twice, also when the server is killed', () =>
  scoped(async (own) => {
    const first = await startServer(own);
    const request = '102,3,7ffb00bf007f,h,10.0.0.1,false,false\n';
    const ids: string[] = [];
    const register = async (on: Server): Promise<void> => {
      const secret = (await readFile(join(on.data, 'admin-password'), 'utf8')).trim();
      const post = (path: string, type: string, body: string, token = '') =>
        fetch(on.addresses.http + path, {
          method: 'POST',
          headers: { 'content-type': type, authorization: `Bearer ${token}` },
          body,
        });
      const credentials = JSON.stringify({ user: 'admin', password: secret });
      const session = await post('/v1/session', 'application/json', credentials);
      const { token } = (await session.json()) as { token: string };
      const path = '/v1/copyservices/registration';
      const reply = await (await post(path, 'text/plain', request.repeat(3), token)).text();
      expect(reply).toMatch(/^(102,513,fffb00bf007f,\d+,0\n?){3}$/);
      ids.push(...reply.split('\n').map((line) => line.split(',')[3] ?? ''));
    };
    await register(first);
    await first.kill9();
    const second = await startServer(own, { data: first.data });
    await register(second);
    expect(ids.map(Number)).toEqual([1, 2, 3, 4, 5, 6].map((each) => 339454994 + each));
  }));
