/**
 * `flashlun pool ...`: where volumes take their space from. `pool check` verifies the files of a
 * stopped server's pools: it needs no server, and only there the engine is loaded.
 */

import path from 'node:path';
import type { Command } from 'commander';
import { nonEmpty } from '../../base/command-line.js';
import { FlashlunError } from '../../base/errors.js';
import { formatSize, parseSize } from '../../base/units.js';
import type { CheckedPool, PoolFinding } from '../../pool-check.js';
import type { PoolsView, PoolView } from '../api-types.js';
import { type CliContext, EndedWith, jsonOption, print, withApi } from '../context.js';
import { formatFields, formatTable } from '../output.js';

/** Of `pool check`. 7 is its own: nothing is lost, but something is to be repaired. */
const EXIT = { clean: 0, recoverable: 7, damaged: 4 } as const;

const MEANING = {
  clean: 'the pool is as it should be',
  recoverable: 'nothing is lost: the next start of the server repairs what is listed above',
  damaged: 'the server would refuse this pool: restore the directory from a backup',
} as const;

interface CreateFlags {
  readonly path: string;
  readonly size?: string;
}

/** Adds `pool` and its subcommands to the program. */
export function addPoolCommands(program: Command, context: CliContext): void {
  const pool = program.command('pool').description('pools that LUNs take their space from');

  jsonOption(pool.command('list'))
    .alias('ls')
    .description('list the pools and how full they are')
    .action((_flags: unknown, command: Command) => listPools(context, command));

  jsonOption(pool.command('show'))
    .description('show one pool')
    .argument('<POOL>', 'its name')
    .action((name: string, _flags: unknown, command: Command) =>
      showPool(context, command, { method: 'GET', url: poolPath(name) }),
    );

  jsonOption(pool.command('create'))
    .description('create a pool on a new file or an unused block device of the server')
    .argument('<POOL>', 'its name')
    .requiredOption('--path <PATH>', 'absolute path on the server')
    .option('--size <SIZE>', 'most bytes it may use (default: all of a block device)')
    .addHelpText('after', '\nExample: flashlun pool create fast --path /mnt/nvme/fast --size 500G')
    .action((name: string, flags: CreateFlags, command: Command) => {
      if (!path.posix.isAbsolute(flags.path)) {
        throw new FlashlunError('USAGE', `--path ${flags.path} refused: give an absolute path.`);
      }
      const body = { name, path: flags.path, ...sizeOf(flags.size) };
      return showPool(context, command, { method: 'POST', url: '/v1/pools', body });
    });

  jsonOption(pool.command('grow'))
    .description('enlarge a pool; it can never be made smaller')
    .argument('<POOL>', 'its name')
    .option('--size <SIZE>', 'new size (default: all of a block device)')
    .action((name: string, flags: Partial<CreateFlags>, command: Command) =>
      showPool(context, command, {
        method: 'POST',
        url: `${poolPath(name)}/grow`,
        body: sizeOf(flags.size),
      }),
    );

  addCheck(pool, context);
}

function sizeOf(size: string | undefined): { sizeBytes?: number } {
  return size === undefined ? {} : { sizeBytes: parseSize(size) };
}

function listPools(context: CliContext, command: Command): Promise<void> {
  return withApi(context, command, async (api) => {
    const answer = await api.json<PoolsView>('GET', '/v1/pools');
    print(context, command, answer, () => {
      const table = formatTable(
        [
          { title: 'NAME', value: (pool) => pool.name },
          { title: 'SIZE', value: (pool) => formatSize(pool.capacityBytes) },
          { title: 'USED', value: (pool) => formatSize(pool.usedBytes) },
          { title: 'THICK', value: (pool) => formatSize(pool.thickBytes) },
          { title: 'AVAILABLE', value: (pool) => formatSize(pool.availableBytes) },
          { title: 'LEVEL', value: (pool) => pool.level },
          { title: 'PATH', value: (pool) => pool.path },
        ],
        answer.pools,
      );
      const mirror = answer.pools[0]?.metadataMirror;
      if (mirror === undefined || mirror.state === 'none') return table;
      return `${table}\nmetadata mirror: ${mirrorText(mirror)}\n`;
    });
  });
}

/** `none`, or the state with the file: `degraded, /mnt/b/meta: why`. */
function mirrorText({ state, path: file, problem }: PoolView['metadataMirror']): string {
  if (file === undefined) return state;
  return problem === undefined ? `${state}, ${file}` : `${state}, ${file}: ${problem}`;
}

/** Sends a request whose answer is one pool, and prints it. */
function showPool(
  context: CliContext,
  command: Command,
  request: { method: 'GET' | 'POST'; url: string; body?: object },
): Promise<void> {
  return withApi(context, command, async (api) => {
    const { method, url, body } = request;
    const options = body === undefined ? undefined : { body };
    const pool = await api.json<PoolView>(method, url, options);
    print(context, command, pool, () =>
      formatFields([
        ['name', pool.name],
        ['path', pool.path],
        ['size', `${formatSize(pool.capacityBytes)} (${pool.capacityBytes} bytes)`],
        ['used', formatSize(pool.usedBytes)],
        ['reserved for thick volumes', formatSize(pool.thickBytes)],
        ['available to thin volumes', formatSize(pool.availableBytes)],
        ['allocated on disk', formatSize(pool.allocatedBytes)],
        ['level', pool.problem === undefined ? pool.level : `${pool.level}: ${pool.problem}`],
        ['metadata mirror', mirrorText(pool.metadataMirror)],
      ]),
    );
  });
}

function poolPath(name: string): string {
  return `/v1/pools/${encodeURIComponent(name)}`;
}

function addCheck(pool: Command, context: CliContext): void {
  jsonOption(pool.command('check'))
    .description('verify all metadata of a pool whose server is stopped; changes nothing')
    .argument('[DIR]', 'pool directory (default: pool in the data directory)')
    .addHelpText(
      'after',
      '\nExit codes: 0 clean, 7 recoverable (the next start repairs), 4 damaged or not checked.' +
        '\n\nExample: flashlun pool check /var/lib/flashlun/pool',
    )
    .action(async (named: string | undefined, _flags: unknown, command: Command) => {
      const { data } = command.optsWithGlobals<{ data?: string }>();
      const dataDir = data ?? nonEmpty(context.env['FLASHLUN_DATA']) ?? 'data';
      const dir = path.resolve(context.cwd, named ?? path.join(dataDir, 'pool'));
      const { checkPool } = await import('../../pool-check.js');
      const report = await checkPool(dir);
      print(context, command, report, () => reportText(report));
      if (report.verdict !== 'clean') throw new EndedWith(EXIT[report.verdict]);
    });
}

function reportText(report: CheckedPool): string {
  const verdict = `${report.verdict}: ${MEANING[report.verdict]}\n`;
  return [summary(report), findings(report), verdict].filter((part) => part !== '').join('\n');
}

function summary(report: CheckedPool): string {
  if (report.poolUuid === '') return formatFields([['pool', report.dir]]);
  const { volumes, relationships, usedTracks, capacityTracks, usedBytes } = report;
  return formatFields([
    ['pool', `${report.dir}, ${report.poolUuid}`],
    ['metadata mirror', report.mirrorPath === '' ? 'none' : report.mirrorPath],
    ['superblock', `generation ${report.generation}, ${report.superblockCopies} of 4 copies`],
    ['closed in order', report.closedInOrder ? 'yes' : 'no: the next start replays'],
    ['checkpoints', `records up to ${report.currentLsn}, before that ${report.previousLsn}`],
    ['checkpoint pages', `${report.usedPages} used of ${report.areaPages}`],
    ['journal', `${report.groups} groups, ${report.records} records to replay`],
    ['kill ring', `${report.ringRecords} records to replay`],
    ['volumes', `${volumes}, and ${relationships} relationships`],
    ['tracks', `${usedTracks} used of ${capacityTracks} (${formatSize(usedBytes)})`],
    ['tracks file', `${report.tracksBytes} bytes, ${report.neededBytes} needed behind its label`],
  ]);
}

function findings(report: CheckedPool): string {
  if (report.findings.length === 0) return '';
  const table = formatTable<PoolFinding>(
    [
      { title: 'MEANS', value: (finding) => finding.severity },
      { title: 'FILE', value: (finding) => finding.file },
      { title: 'PLACE', value: (finding) => finding.place },
      { title: 'WHAT', value: (finding) => finding.text },
    ],
    report.findings,
  );
  const all = Object.values(report.found).reduce((sum, count) => sum + count, 0);
  const more = all - report.findings.length;
  return more === 0 ? table : `${table}... and ${more} more\n`;
}
