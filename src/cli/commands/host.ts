/** `flashlun host ...`: names for the machines that attach LUNs, and how they are known. */

import type { Command } from 'commander';
import { FlashlunError } from '../../base/errors.js';
import type { HostsView, HostView } from '../api-types.js';
import { type CliContext, jsonOption, print, withApi } from '../context.js';
import { formatFields, formatTable, formatTime } from '../output.js';

interface IdentityFlags {
  readonly address?: readonly string[];
  readonly uid?: readonly string[];
  readonly tlsIdentity?: readonly string[];
  readonly description?: string;
}

/** Adds `host` and its subcommands to the program. */
export function addHostCommands(program: Command, context: CliContext): void {
  const host = program.command('host').description('machines that attach LUNs, by name');

  identityOptions(jsonOption(host.command('create')))
    .description('name a host, and say what its clients are known by')
    .argument('<HOST>', 'its name')
    .addHelpText(
      'after',
      '\nA client is the host when it has one mark of each kind given that clients of its sort ' +
        'have:\nan address and a TLS identity over TCP, a user on the unix socket.' +
        '\n\nExample: flashlun host create hyper1 --address 192.0.2.17',
    )
    .action((name: string, flags: IdentityFlags, command: Command) =>
      showHost(context, command, {
        method: 'POST',
        path: '/v1/hosts',
        body: { name, ...identitiesOf(flags) },
      }),
    );

  identityOptions(jsonOption(host.command('update')))
    .description('change a host; each option replaces all marks of its kind')
    .argument('<HOST>', 'its name')
    .action((name: string, flags: IdentityFlags, command: Command) =>
      showHost(context, command, {
        method: 'PATCH',
        path: hostPath(name),
        body: identitiesOf(flags),
      }),
    );

  jsonOption(host.command('list'))
    .alias('ls')
    .description('list the hosts')
    .action((_flags: unknown, command: Command) => listHosts(context, command));

  jsonOption(host.command('show'))
    .description('show one host, its disks and the LUNs it may attach')
    .argument('<HOST>', 'its name')
    .action((name: string, _flags: unknown, command: Command) =>
      showHost(context, command, { method: 'GET', path: hostPath(name) }),
    );

  host
    .command('delete')
    .description('delete a host and its disk map; refused while it has access to a LUN')
    .argument('<HOST>', 'its name')
    .action((name: string, _flags: unknown, command: Command) =>
      withApi(context, command, async (api) => {
        await api.json('DELETE', hostPath(name));
        context.stdout.write(`Deleted host ${name}.\n`);
      }),
    );
}

function identityOptions(command: Command): Command {
  return command
    .option('--address <ADDRESS...>', 'IP addresses or networks, as 192.0.2.17 or 192.0.2.0/24')
    .option('--uid <UID...>', 'numbers of users on the unix socket')
    .option('--tls-identity <NAME...>', 'names that its TLS certificates prove')
    .option('--description <TEXT>', 'for people');
}

function identitiesOf(flags: IdentityFlags): object {
  const { address, uid, tlsIdentity, description } = flags;
  return {
    ...(address === undefined ? {} : { addresses: address }),
    ...(uid === undefined ? {} : { uids: uid.map(parseUid) }),
    ...(tlsIdentity === undefined ? {} : { tlsIdentities: tlsIdentity }),
    ...(description === undefined ? {} : { description }),
  };
}

function parseUid(text: string): number {
  if (/^\d{1,10}$/.test(text)) return Number(text);
  throw new FlashlunError(
    'USAGE',
    `--uid '${text}' refused: give the number of a user ("id -u NAME").`,
  );
}

function listHosts(context: CliContext, command: Command): Promise<void> {
  return withApi(context, command, async (api) => {
    const answer = await api.json<HostsView>('GET', '/v1/hosts');
    print(context, command, answer, () =>
      formatTable(
        [
          { title: 'NAME', value: (host) => host.name },
          { title: 'ADDRESSES', value: (host) => orDash(host.addresses) },
          { title: 'USERS', value: (host) => orDash(host.uids) },
          { title: 'TLS IDENTITIES', value: (host) => orDash(host.tlsIdentities) },
          { title: 'DISKS', value: (host) => host.disks.length },
          { title: 'DESCRIPTION', value: (host) => host.description },
        ],
        answer.hosts,
      ),
    );
  });
}

/** Sends a request whose answer is one host, and prints it. */
function showHost(
  context: CliContext,
  command: Command,
  request: { method: 'GET' | 'POST' | 'PATCH'; path: string; body?: object },
): Promise<void> {
  return withApi(context, command, async (api) => {
    const { method, path, body } = request;
    const options = body === undefined ? undefined : { body };
    const host = await api.json<HostView>(method, path, options);
    print(context, command, host, () => {
      const volumes = host.volumes.map(({ volume, access }) => `${volume} (${access})`);
      const fields = formatFields([
        ['name', host.name],
        ['description', host.description === '' ? '-' : host.description],
        ['addresses', orDash(host.addresses)],
        ['users', orDash(host.uids)],
        ['TLS identities', orDash(host.tlsIdentities)],
        ['disks', orDash(host.disks.map(diskText))],
        ['primed', host.primedAt === null ? '-' : formatTime(host.primedAt)],
        ['volumes', orDash(volumes)],
        ['created', formatTime(host.createdAt)],
      ]);
      return fields + endedText(host.disconnected);
    });
  });
}

function diskText({ name, serial, volume }: HostView['disks'][number]): string {
  return `${name} ${serial} (${volume ?? 'no volume of this array'})`;
}

function orDash(items: readonly (string | number)[]): string {
  return items.length === 0 ? '-' : items.join(', ');
}

/** What a change did to the clients that were attached. */
export function endedText(disconnected: number | undefined): string {
  if (disconnected === undefined || disconnected === 0) return '';
  const what = disconnected === 1 ? '1 connection' : `${disconnected} connections`;
  return `${what} ended, as by a broken network: what was answered is kept.\n`;
}

function hostPath(name: string): string {
  return `/v1/hosts/${encodeURIComponent(name)}`;
}
