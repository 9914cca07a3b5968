/** `flashlun array show`, `lss list`, `user list`: what the array is and who may use it. */

import type { Command } from 'commander';
import { formatSize } from '../../base/units.js';
import type { ArrayView, LssesView, LssView, UsersView } from '../api-types.js';
import { type CliContext, jsonOption, parseSeconds, print, withApi } from '../context.js';
import { formatFields, formatTable } from '../output.js';

/** Adds `array`, `lss` and `user` to the program. */
export function addInventoryCommands(program: Command, context: CliContext): void {
  const array = program.command('array').description('the storage array itself');
  jsonOption(array.command('show'))
    .description('show serial, capacity and addresses')
    .action((_flags: unknown, command: Command) =>
      withApi(context, command, async (api) => {
        const view = await api.json<ArrayView>('GET', '/v1/array');
        print(context, command, view, () => arrayText(view));
      }),
    );

  const lss = program.command('lss').description('logical subsystems');
  jsonOption(lss.command('list'))
    .alias('ls')
    .description('list the logical subsystems that have volumes')
    .action((_flags: unknown, command: Command) =>
      withApi(context, command, async (api) => {
        const answer = await api.json<LssesView>('GET', '/v1/lss');
        print(context, command, answer, () => lssTable(answer.lss));
      }),
    );

  addOneLss(lss, context);

  const user = program.command('user').description('users of the array');
  jsonOption(user.command('list'))
    .alias('ls')
    .description('list the users')
    .action((_flags: unknown, command: Command) =>
      withApi(context, command, async (api) => {
        const answer = await api.json<UsersView>('GET', '/v1/users');
        print(context, command, answer, () => userTable(answer.users));
      }),
    );
}

function addOneLss(lss: Command, context: CliContext): void {
  jsonOption(lss.command('show'))
    .description('show one logical subsystem: its freeze timer, and what is frozen')
    .argument('<LSS>', 'for example 12')
    .action((id: string, _flags: unknown, command: Command) =>
      withApi(context, command, async (api) => {
        const view = await api.json<LssView>('GET', `/v1/lss/${encodeURIComponent(id)}`);
        print(context, command, view, () => lssText(view));
      }),
    );

  jsonOption(lss.command('set'))
    .description('set how long a freeze of a consistency group lasts at most')
    .argument('<LSS>', 'for example 12')
    .requiredOption('--freeze-timeout <SECONDS>', 'default: 120', parseSeconds)
    .action((id: string, flags: { freezeTimeout: number }, command: Command) =>
      withApi(context, command, async (api) => {
        const view = await api.json<LssView>('PATCH', `/v1/lss/${encodeURIComponent(id)}`, {
          body: { freezeTimeout: flags.freezeTimeout },
        });
        print(context, command, view, () => lssText(view));
      }),
    );
}

function lssText(view: LssView): string {
  return formatFields([
    ['LSS', view.id],
    ['volumes', view.volumes],
    ['freeze timer', `${view.freezeTimeout} s`],
    ['frozen', view.frozen.length === 0 ? '-' : view.frozen.join(' ')],
  ]);
}

function arrayText(view: ArrayView): string {
  const { usedBytes, capacityBytes } = view.pool;
  return formatFields([
    ['machine', view.machine],
    ['serial', view.serial],
    ['model', view.model],
    ['flashlun', view.version],
    ['pool', `${formatSize(usedBytes)} used of ${formatSize(capacityBytes)}`],
    ['NBD, TCP', view.nbd.tcp ?? '-'],
    ['NBD, unix socket', view.nbd.unix ?? '-'],
    ['NBD, TLS', view.nbd.tls],
    ['LSS', view.lss.join(' ')],
  ]);
}

function lssTable(rows: LssesView['lss']): string {
  return formatTable(
    [
      { title: 'LSS', value: (lss) => lss.id },
      { title: 'VOLUMES', value: (lss) => lss.volumes },
    ],
    rows,
  );
}

function userTable(rows: UsersView['users']): string {
  return formatTable(
    [
      { title: 'USER', value: (user) => user.name },
      { title: 'ROLE', value: (user) => user.role },
    ],
    rows,
  );
}
