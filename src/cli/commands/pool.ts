/** `flashlun pool ...`: where volumes take their space from. */

import path from 'node:path';
import type { Command } from 'commander';
import { FlashlunError } from '../../base/errors.js';
import { formatSize, parseSize } from '../../base/units.js';
import type { PoolsView, PoolView } from '../api-types.js';
import { type CliContext, jsonOption, print, withApi } from '../context.js';
import { formatFields, formatTable } from '../output.js';

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
}

function sizeOf(size: string | undefined): { sizeBytes?: number } {
  return size === undefined ? {} : { sizeBytes: parseSize(size) };
}

function listPools(context: CliContext, command: Command): Promise<void> {
  return withApi(context, command, async (api) => {
    const answer = await api.json<PoolsView>('GET', '/v1/pools');
    print(context, command, answer, () =>
      formatTable(
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
      ),
    );
  });
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
      ]),
    );
  });
}

function poolPath(name: string): string {
  return `/v1/pools/${encodeURIComponent(name)}`;
}
