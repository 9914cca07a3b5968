// `flashlun` as people run it: child processes of bin/flashlun against a real server.
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdir, readFile, symlink, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { Scope, scoped } from '../helpers/cleanup.js';
import { exec, ok } from '../helpers/exec.js';
import { NbdClient } from '../helpers/nbd-client.js';
import { requires } from '../helpers/requires.js';
import { FLASHLUN, type Server, startServer } from '../helpers/server.js';

const scope = new Scope();
let server: Server;

beforeAll(async () => {
  server = await startServer(scope);
});

afterAll(() => scope.close());

/** Runs a command line that must succeed without a word on stderr; its stdout. */
async function flashlun(line: string): Promise<string> {
  const { code, stdout, stderr } = await server.flashlun(...line.split(' '));
  expect({ code, stderr }).toEqual({ code: 0, stderr: '' });
  return stdout;
}

async function json<T>(line: string): Promise<T> {
  return JSON.parse(await flashlun(`${line} --json`)) as T;
}

/** A refusal: nothing on stdout, one line on stderr, the exit code. Returns the line. */
async function refused(line: string, exitCode: number, on = server): Promise<string> {
  const { code, stdout, stderr } = await on.flashlun(...line.split(' '));
  expect(stderr).toMatch(/^flashlun: [^\n]+\n$/);
  expect({ line, code, stdout }).toEqual({ line, code: exitCode, stdout: '' });
  return stderr;
}

async function volumeIds(): Promise<string[]> {
  const { volumes } = await json<{ volumes: { id: string }[] }>('volume list');
  return volumes.map((volume) => volume.id);
}

/** Writes `bytes` of data to a LUN over NBD. */
async function fill(target: Server, serial: string, bytes: number): Promise<void> {
  const client = await NbdClient.open({ path: target.unixPath }, serial);
  try {
    const data = Buffer.alloc(65_536, 0xa5);
    for (let offset = 0; offset < bytes; offset += data.length) await client.write(offset, data);
  } finally {
    client.close();
  }
}

describe('volumes', () => {
  test('the demo array in a table', async () => {
    const lines = (await flashlun('volume list')).split('\n');
    expect(lines[0]).toBe('ID    SERIAL    LSS     SIZE  USED  CLIENTS  NAME');
    expect(lines[1]).toBe('1203  20313698  12   1.0 GiB   0 B        0');
    expect(lines.slice(1, -1).map((line) => line.slice(0, 4))).toEqual([
      '1203',
      '1204',
      '1205',
      '1206',
      '1303',
      '1304',
    ]);
  });

  test('create, show by id, serial and name, delete', async () => {
    const created = await flashlun('volume create --lss 14 --size 100M --name scratch');
    expect(created).toBe(
      'Created volume 1400: serial 40013698, 100.0 MiB, thin.\n' +
        'Attach it: flashlun attach 1400 --format qemu\n',
    );
    for (const ref of ['1400', '40013698', 'scratch']) {
      const volume = await json(`volume show ${ref}`);
      expect(volume).toMatchObject({ id: '1400', lss: '14', sizeBytes: 104_857_600 });
    }
    expect(await flashlun('volume show scratch')).toMatch(
      /^id +1400\nserial +40013698\nLSS +14\nname +scratch\nsize +100\.0 MiB \(/,
    );
    expect(await flashlun('volume delete scratch')).toBe('Deleted volume scratch.\n');
    expect(await refused('volume show 1400', 6)).toMatch(/1400/);
  });

  test('create by id alone, as JSON', async () => {
    const volume = await json('volume create --id 1a07 --size 65536');
    expect(volume).toMatchObject({ id: '1A07', serial: 'A0713698', name: '' });
    await flashlun('volume delete 1A07');
  });

  test.each([
    ['size 0', 'volume create --lss 12 --size 0', 6],
    ['above the limit', 'volume create --lss 12 --size 65T', 6],
    ['no such LSS', 'volume create --lss 20 --size 1G', 6],
    ['id taken', 'volume create --id 1203 --size 1G', 6],
    ['an impossible name', 'volume create --lss 12 --size 1G --name a/b', 2],
    ['delete of what is not there', 'volume delete 12FF', 6],
  ])('refused without effect: %s', async (_title, line, code) => {
    const before = await volumeIds();
    await refused(line, code);
    expect(await volumeIds()).toEqual(before);
  });
});

describe('attach', () => {
  test.for(['unix', 'tcp'])('qemu-img opens the URI over %s', async (transport, context) => {
    requires(context, 'qemu-img');
    const uri = (await flashlun(`attach 1203 --format uri --transport ${transport}`)).trim();
    expect(uri).toContain('20313698');
    const info = await ok('qemu-img', ['info', '--output=json', uri]);
    expect(JSON.parse(info)).toMatchObject({ 'virtual-size': 1024 ** 3 });
  });

  test('the qemu lines start a machine with the disk', async (context) => {
    requires(context, 'qemu-system-x86_64');
    const lines = await flashlun('attach 1203 --format qemu');
    const command = `qemu-system-x86_64 -S -display none -qmp stdio ${lines}`;
    const input = [
      { execute: 'qmp_capabilities' },
      { execute: 'query-block' },
      { execute: 'quit' },
    ];
    const answers = await ok('sh', ['-c', command], {
      input: input.map((each) => `${JSON.stringify(each)}\n`).join(''),
    });
    expect(answers).toContain('"node-name": "lun20313698"');
    expect(answers).toContain('"direct": true');
  });

  test('the nbdfuse lines make a file of it', async (context) => {
    requires(context, 'fuse', 'nbdfuse', 'fusermount3');
    const lines = (await flashlun('attach 1206 --format nbdfuse')).split('\n');
    const dir = '/tmp/lun20613698';
    const script = [
      ...lines.slice(0, 3),
      `stat -c %s ${dir}/disk`,
      `fusermount3 -u ${dir}`,
      'wait',
      `rmdir ${dir}`,
    ];
    expect(await ok('sh', ['-c', script.join('\n')])).toBe(`${1024 ** 3}\n`);
  });

  test('the fio lines run', async (context) => {
    requires(context, 'fio');
    const lines = await flashlun('attach 1203 --format fio');
    const short = lines.replace('--runtime=10', '--runtime=1');
    expect(await ok('sh', ['-c', short])).toMatch(/read: IOPS=/);
  });
});

describe('flashcopy', () => {
  test('nocopy: establish, list, show, withdraw', async () => {
    await fill(server, '20313698', 1 << 20);
    expect(await flashlun('flashcopy establish 1203:1303 --nocopy')).toBe(
      'Established 1203:1303 (nocopy, stays until withdrawn).\n',
    );
    const list = await json<{ flashcopies: unknown[] }>('flashcopy list');
    expect(list.flashcopies).toEqual([
      expect.objectContaining({ id: '1203:1303', copyMode: 'nocopy', outOfSyncTracks: 16 }),
    ]);
    expect(await json('flashcopy list 1204')).toEqual({ flashcopies: [] });
    const table = await flashlun('flashcopy list');
    expect(table).toMatch(
      /^PAIR +MODE +STATE +OUT OF SYNC +TRACKS +COPIED +ESTABLISHED\n1203:1303/,
    );
    const shown = await flashlun('flashcopy show 20313698:30313698');
    expect(shown).toMatch(/out-of-sync tracks {2}16 of 16384\n/);
    expect(await flashlun('flashcopy withdraw 1203:1303')).toBe('Withdrew 1203:1303.\n');
    expect(await json('flashcopy list')).toEqual({ flashcopies: [] });
  });

  test('--wait returns when the relationship has ended', async () => {
    await fill(server, '20413698', 4 << 20);
    const text = await flashlun('flashcopy establish 1204:1304 --wait --timeout 60');
    expect(text).toMatch(/^Established 1204:1304 \(background copy of 64 tracks\)\.\n$/);
    expect(await json('flashcopy list')).toEqual({ flashcopies: [] });
  });

  test('--wait gives up in time and on Ctrl-C; the copy goes on', async () => {
    await scoped(async (own) => {
      const slow = await startServer(own, { args: ['--copy-rate', '0.1'] });
      await fill(slow, '20313698', 8 << 20);
      const line = 'flashcopy establish 1203:1303 --wait';
      const late = await slow.flashlun(...line.split(' '), '--timeout', '0.2');
      expect(late.code).toBe(4);
      expect(late.stderr).toMatch(
        /^flashlun: 1203:1303: \d+ tracks are still to be copied after 0.2 s/,
      );
      expect(await slow.api.flashcopies()).toHaveLength(1);

      await slow.flashlun('flashcopy', 'withdraw', '1203:1303');
      const child = spawn(FLASHLUN, ['--data', slow.data, ...line.split(' ')]);
      let stderr = '';
      child.stderr.on('data', (chunk: Buffer) => (stderr += chunk.toString()));
      // It says so before it begins to wait.
      await once(child.stdout, 'data');
      child.kill('SIGINT');
      expect(await once(child, 'close')).toEqual([130, null]);
      expect(stderr).toBe(
        'flashlun: stopped waiting. The background copy goes on in the server.\n',
      );
      expect(await slow.api.flashcopies()).toHaveLength(1);
    });
  });

  test('refusals name the rule, exit with 6 and change nothing', async () => {
    await flashlun('volume create --id 1f00 --size 1M');
    await flashlun('flashcopy establish 1205:1303 --nocopy');
    expect(await refused('flashcopy establish 1203:1203', 6)).toMatch(/same volume/);
    expect(await refused('flashcopy establish 1203:1F00', 6)).toMatch(/1F00/);
    expect(await refused('flashcopy establish 1206:1304 1203:1303', 6)).toMatch(/1205:1303/);
    expect(await refused('flashcopy establish 1206:1304 1203:1304', 6)).toMatch(/1304/);
    expect(await refused('flashcopy establish 1203:12FF', 6)).toMatch(/12FF/);
    expect(await refused('flashcopy withdraw 1203:1304', 6)).toMatch(/no relationship 1203:1304/);
    expect(await refused('flashcopy show 1203:1304', 6)).toMatch(/no relationship 1203:1304/);
    expect(await refused('volume delete 1205', 6)).toMatch(/1205:1303/);
    const { flashcopies } = await json<{ flashcopies: { id: string }[] }>('flashcopy list');
    expect(flashcopies.map((pair) => pair.id)).toEqual(['1205:1303']);
    await flashlun('flashcopy withdraw 1205:1303');
    await flashlun('volume delete 1F00');
  });
});

describe('tasks', () => {
  test('create, list, show, run, delete', async () => {
    expect(
      await flashlun('task create T1 establish 1203:1303 --nocopy --description nightly'),
    ).toBe('Saved task T1. Run it: flashlun task run T1\n');
    expect((await flashlun('task list')).split('\n')).toEqual([
      'NAME  TYPE                PAIRS      LAST RUN  DESCRIPTION',
      'T1    establish --nocopy  1203:1303  -         nightly',
      '',
    ]);
    expect(await json('task show T1')).toMatchObject({
      name: 'T1',
      type: 'establish',
      pairs: [{ source: '1203', target: '1303' }],
      options: { noCopy: true },
      lastRun: null,
    });
    expect(await flashlun('task run T1')).toMatch(/^Task T1 completed: .*1203:1303/);
    expect(await refused('task run T1', 6)).toMatch(/1203:1303/);
    expect(await flashlun('task show T1')).toMatch(/last run +\d{4}-\d\d-\d\d .* failed\n/);
    await flashlun('flashcopy withdraw 1203:1303');
    expect(await refused('task create T1 withdraw 1203:1303', 6)).toMatch(/T1/);
    expect(await flashlun('task delete T1')).toBe('Deleted task T1.\n');
    for (const verb of ['show', 'run', 'delete']) {
      expect(await refused(`task ${verb} T1`, 6)).toMatch(/T1/);
    }
  });

  test('groups, run now, history, export and import', async () => {
    await flashlun('task create Copy establish 1203:1303 --nocopy');
    await flashlun('task create End withdraw 1203:1303');
    await flashlun('task create Both group End Copy --description ordered');
    expect(await flashlun('task run Both')).toMatch(/^Task Both completed: End: .*; Copy: /);
    expect(await flashlun('task now resync 1203:1303 --nocopy')).toBe(
      'Completed: resynced 1203:1303\n',
    );
    expect(await refused('task now resync 1203:1304', 6)).toMatch(/no relationship 1203:1304/);
    expect(await flashlun('task history Copy')).toMatch(/completed +group Both +established/);
    expect(await refused('task delete End', 6)).toMatch(/group Both runs it/);

    const file = join(await scope.tempDir(), 'tasks.json');
    await flashlun(`task export --file ${file}`);
    expect(await refused(`task export --file ${file}`, 2)).toMatch(/it exists/);
    const text = await readFile(file, 'utf8');
    expect(await refused(`task import ${file}`, 6)).toMatch(/there is one of that name/);
    for (const name of ['Both', 'Copy', 'End']) await flashlun(`task delete ${name}`);
    expect(await flashlun(`task import ${file}`)).toBe('Saved 3 tasks: Both, Copy, End.\n');
    expect(await flashlun('task export')).toBe(text);
    await flashlun(`task import ${file} --replace`);
    expect(await refused('task export Nope', 6)).toMatch(/no task 'Nope'/);
    expect(await refused('task import /no/such/file', 2)).toMatch(/no such file/);
    for (const [content, reason] of [
      ['{', /no file of "flashlun task export"/],
      ['{"format": "flashlun-tasks", "version": 2, "tasks": []}', /another version/],
      ['{"format": "flashlun-tasks", "version": 1, "tasks": []}', /fewer than 1/],
      ['{"format": "flashlun-tasks", "version": 1, "tasks": [{"name": "x"}]}', /body\/tasks\/0/],
      [text.replace('"name": "Copy"', '"name": "a b"'), /task name refused/],
      [text.replace('"Copy"', '"a b"'), /no such task/],
      [text.replace('"1303"', '"1999"'), /1999/],
    ] as const) {
      const bad = join(await scope.tempDir(), 'bad.json');
      await writeFile(bad, content);
      const before = await flashlun('task export');
      const result = await server.flashlun('task', 'import', bad, '--replace');
      expect(result.code).toBeGreaterThan(0);
      expect(result.stderr).toMatch(reason);
      expect(result.stderr).toMatch(/^flashlun: [^\n]+\n$/);
      expect(await flashlun('task export')).toBe(before);
    }
    await flashlun('flashcopy withdraw 1203:1303');
    for (const name of ['Both', 'Copy', 'End']) await flashlun(`task delete ${name}`);
  });
});

test('array show, lss list, user list', async () => {
  const array = await flashlun('array show');
  expect(array).toMatch(/^machine +2105\.13698\n/);
  expect(array).toContain(server.unixPath);
  expect(await flashlun('lss list')).toBe('LSS  VOLUMES\n12         4\n13         2\n');
  expect(await flashlun('user list')).toBe('USER   ROLE\nadmin  admin\n');
});

describe('reaching the server', () => {
  test('a wrong password is 5, whatever the command', async () => {
    expect(await refused('-p wrong volume list', 5)).toMatch(/wrong user or password/);
  });

  test('a data directory without server, and a server that is down, are 3', async () => {
    await scoped(async (own) => {
      const dir = await own.tempDir();
      const none = await exec(FLASHLUN, ['--data', join(dir, 'none'), 'volume', 'list']);
      expect(none.code).toBe(3);
      expect(none.stderr).toMatch(/^flashlun: no server is running on [^\n]+\n$/);
      const other = await startServer(own);
      await other.kill9();
      const line = await refused('volume list', 3, other);
      expect(line).toMatch(
        /^flashlun: cannot connect to http:\/\/127\.0\.0\.1:\d+: nothing listens/,
      );
    });
  });

  test('usage is 2', async () => {
    await refused('volume create --lss 12', 2);
    await refused('flashcopy establish 1203', 2);
  });

  test('environment and password file', async () => {
    await scoped(async (own) => {
      const dir = await own.tempDir();
      const password = await readFile(join(server.data, 'admin-password'), 'utf8');
      await writeFile(join(dir, 'secret'), password);
      const env = { FLASHLUN_SERVER: server.addresses.http, FLASHLUN_USER: 'admin' };
      const args = ['lss', 'list', '--password', `@${join(dir, 'secret')}`];
      const byFile = await exec(FLASHLUN, args, { env, cwd: dir });
      expect(byFile).toMatchObject({ code: 0, stderr: '' });
      const byEnv = await exec(FLASHLUN, ['lss', 'list'], {
        env: { ...env, FLASHLUN_PASSWORD: password.trim() },
        cwd: dir,
      });
      expect(byEnv).toEqual(byFile);
      const without = await exec(FLASHLUN, ['lss', 'list'], { env, cwd: dir });
      expect(without.code).toBe(5);
    });
  });

  test('./data is found without options; the command works through a link', async () => {
    await scoped(async (own) => {
      const dir = await own.tempDir();
      await symlink(server.data, join(dir, 'data'));
      await mkdir(join(dir, 'bin'));
      await symlink(FLASHLUN, join(dir, 'bin/flashlun'));
      const result = await exec(join(dir, 'bin/flashlun'), ['lss', 'list'], { cwd: dir });
      expect(result).toMatchObject({ code: 0, stderr: '' });
    });
  });

  test('a reader that goes away is no error', async () => {
    const line = `'${FLASHLUN}' --data '${server.data}' volume list | true`;
    expect(await exec('bash', ['-c', `${line}; exit "\${PIPESTATUS[0]}"`])).toEqual({
      code: 0,
      stdout: '',
      stderr: '',
    });
  });
});
