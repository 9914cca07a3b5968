/** `flashlun volume allow|deny|access|limit`: who may attach a LUN, and how fast. */

import type { Command } from 'commander';
import { FlashlunError } from '../../base/errors.js';
import type { RatesView, VolumeAccessView } from '../api-types.js';
import { type CliContext, jsonOption, print, withApi } from '../context.js';
import { formatFields } from '../output.js';
import { endedText } from './host.js';

interface AccessFlags {
  readonly host?: string;
  readonly readOnly?: boolean;
  readonly default?: boolean;
  readonly all?: boolean;
}

interface RateFlags {
  readonly iops?: string;
  readonly mbps?: string;
  readonly connectionIops?: string;
  readonly connectionMbps?: string;
  readonly burstSeconds?: string;
  readonly none?: boolean;
}

/** Adds them to `volume`. */
export function addVolumeAccessCommands(volume: Command, context: CliContext): void {
  jsonOption(volume.command('allow'))
    .description('let a host attach a LUN; from the first host on only these may')
    .argument('<VOLUME>', 'id, serial or name')
    .option('--host <HOST>', 'name of the host')
    .option('--read-only', 'it may only read')
    .option('--default', 'forget all hosts: clients on the server itself, and nobody else')
    .addHelpText('after', '\nExample: flashlun volume allow 1203 --host hyper1')
    .action((ref: string, flags: AccessFlags, command: Command) => {
      if ((flags.host === undefined) === (flags.default !== true)) {
        throw new FlashlunError('USAGE', 'say who: --host HOST, or --default.');
      }
      const path = accessPath(ref, flags.host);
      if (flags.host === undefined) return showAccess(context, command, { method: 'DELETE', path });
      const body = { access: flags.readOnly === true ? 'read-only' : 'read-write' };
      return showAccess(context, command, { method: 'PUT', path, body });
    });

  jsonOption(volume.command('deny'))
    .description('take a host off a LUN; without any host nobody may attach it')
    .argument('<VOLUME>', 'id, serial or name')
    .option('--host <HOST>', 'name of the host')
    .option('--all', 'everybody')
    .action((ref: string, flags: AccessFlags, command: Command) => {
      if ((flags.host === undefined) === (flags.all !== true)) {
        throw new FlashlunError('USAGE', 'say whom: --host HOST, or --all.');
      }
      const path = accessPath(ref, flags.host);
      return flags.host === undefined
        ? showAccess(context, command, { method: 'PUT', path, body: { hosts: [] } })
        : showAccess(context, command, { method: 'DELETE', path });
    });

  jsonOption(volume.command('access'))
    .description('show who may attach a LUN')
    .argument('<VOLUME>', 'id, serial or name')
    .action((ref: string, _flags: unknown, command: Command) =>
      showAccess(context, command, { method: 'GET', path: accessPath(ref) }),
    );

  addLimit(volume, context);
}

function addLimit(volume: Command, context: CliContext): void {
  jsonOption(volume.command('limit'))
    .description('limit how fast hosts may use a LUN, at once; without options: show the limits')
    .argument('<VOLUME>', 'id, serial or name')
    .option('--iops <N>', 'requests a second, flushes not counted; or none')
    .option('--mbps <N>', 'MB a second read and written; or none')
    .option('--connection-iops <N>', 'the same of each connection; or none')
    .option('--connection-mbps <N>', 'the same of each connection; or none')
    .option('--burst-seconds <S>', 'unused time that may be caught up (default: 1)')
    .option('--none', 'take all limits away')
    .addHelpText('after', '\nExample: flashlun volume limit 1203 --iops 5000 --mbps 200')
    .action((ref: string, flags: RateFlags, command: Command) =>
      limit(context, command, ref, flags),
    );
}

function limit(
  context: CliContext,
  command: Command,
  ref: string,
  flags: RateFlags,
): Promise<void> {
  const none = { iops: null, mbPerSecond: null, connectionIops: null, connectionMbPerSecond: null };
  const body = {
    ...(flags.none === true ? none : {}),
    ...rate('iops', '--iops', flags.iops),
    ...rate('mbPerSecond', '--mbps', flags.mbps),
    ...rate('connectionIops', '--connection-iops', flags.connectionIops),
    ...rate('connectionMbPerSecond', '--connection-mbps', flags.connectionMbps),
    ...rate('burstSeconds', '--burst-seconds', flags.burstSeconds),
  };
  const path = `/v1/volumes/${encodeURIComponent(ref)}/limits`;
  return withApi(context, command, async (api) => {
    const change = Object.keys(body).length > 0;
    const rates = change
      ? await api.json<RatesView>('PATCH', path, { body })
      : await api.json<RatesView>('GET', path);
    print(context, command, rates, () => ratesText(rates));
  });
}

function rate(key: string, flag: string, text: string | undefined): object {
  if (text === undefined) return {};
  if (text === 'none' && flag !== '--burst-seconds') return { [key]: null };
  if (/^\d{1,9}(\.\d{1,6})?$/.test(text)) return { [key]: Number(text) };
  throw new FlashlunError('USAGE', `${flag} '${text}' refused: give a number, or none.`);
}

function ratesText(rates: RatesView): string {
  const shown = (value: number | null, unit: string): string =>
    value === null ? 'no limit' : `${value}${unit}`;
  return formatFields([
    ['volume', rates.volume],
    ['requests a second', shown(rates.iops, '')],
    ['throughput', shown(rates.mbPerSecond, ' MB/s')],
    ['requests a second of a connection', shown(rates.connectionIops, '')],
    ['throughput of a connection', shown(rates.connectionMbPerSecond, ' MB/s')],
    ['burst', `${rates.burstSeconds} s`],
  ]);
}

function accessPath(ref: string, host?: string): string {
  const path = `/v1/volumes/${encodeURIComponent(ref)}/access`;
  return host === undefined ? path : `${path}/${encodeURIComponent(host)}`;
}

/** Sends a request whose answer is the access of one volume, and prints it. */
function showAccess(
  context: CliContext,
  command: Command,
  request: { method: 'GET' | 'PUT' | 'DELETE'; path: string; body?: object },
): Promise<void> {
  return withApi(context, command, async (api) => {
    const { method, path, body } = request;
    const options = body === undefined ? undefined : { body };
    const view = await api.json<VolumeAccessView>(method, path, options);
    print(context, command, view, () => accessText(view) + endedText(view.disconnected));
  });
}

function accessText(view: VolumeAccessView): string {
  const { volume, restricted, hosts } = view;
  if (!restricted) {
    return `Volume ${volume} is open to clients on the server itself, and to nobody else.\n`;
  }
  if (hosts.length === 0) return `Nobody may attach volume ${volume}.\n`;
  const fields = hosts.map(({ host, access }) => [host, access] as const);
  return `Volume ${volume} may be attached by\n${formatFields(fields)}`;
}
