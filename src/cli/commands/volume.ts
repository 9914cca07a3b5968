/** `flashlun volume ...` and `flashlun attach`: LUNs and how to connect to them. */

import { type Command, Option } from 'commander';
import { FlashlunError } from '../../base/errors.js';
import { lssOf, parseVolumeId } from '../../base/ids.js';
import { formatSize, parseSize } from '../../base/units.js';
import type { ArrayView, ThawView, VolumesView, VolumeView } from '../api-types.js';
import { ATTACH_FORMATS, type AttachFormat, attachText, type Transport } from '../attach.js';
import { type CliContext, jsonOption, print, withApi } from '../context.js';
import { formatFields, formatTable, formatTime } from '../output.js';
import { addVolumeAccessCommands } from './volume-access.js';

interface CreateFlags {
  readonly lss?: string;
  readonly size: string;
  readonly id?: string;
  readonly name?: string;
  readonly pool?: string;
  readonly thick?: boolean;
  readonly blockSize?: '512' | '4096';
}

interface AttachFlags {
  readonly format: AttachFormat;
  readonly transport?: Transport;
  readonly tls?: boolean;
}

/** Adds `volume` and its subcommands to the program. */
export function addVolumeCommands(program: Command, context: CliContext): void {
  const volume = program.command('volume').description('create, look at, grow and delete LUNs');

  jsonOption(volume.command('create'))
    .description('create a LUN, thin unless --thick')
    .option('--lss <LSS>', 'logical subsystem, 10 to 1F; taken from --id when that is given')
    .requiredOption('--size <SIZE>', 'capacity, for example 10G; rounded up to 64 KiB')
    .option('--id <ID>', 'volume id such as 1203 (default: the first free one of the LSS)')
    .option('--name <NAME>', 'a name that also works as export name')
    .option('--pool <POOL>', 'pool that its space comes from (default: default)')
    .option('--thick', 'reserve the whole size: its writes never find the pool full')
    .addOption(
      new Option(
        '--block-size <BYTES>',
        'logical block size that hosts see (default: 512)',
      ).choices(['512', '4096']),
    )
    .addHelpText('after', '\nExample: flashlun volume create --lss 12 --size 10G --name db')
    .action((flags: CreateFlags, command: Command) => createVolume(context, flags, command));

  jsonOption(volume.command('list'))
    .alias('ls')
    .description('list the LUNs')
    .option('--host <HOST>', 'only the disks that this host has by its disk map')
    .action((flags: { host?: string }, command: Command) =>
      listVolumes(context, flags.host, command),
    );

  jsonOption(volume.command('show'))
    .description('show one LUN')
    .argument('<VOLUME>', 'id, serial or name')
    .action((ref: string, _flags: unknown, command: Command) => showVolume(context, ref, command));

  addResize(volume, context);
  addVolumeAccessCommands(volume, context);
  addFreeze(volume, context);

  volume
    .command('delete')
    .description('delete a LUN and its data; refused while it is attached or in a relationship')
    .argument('<VOLUME>', 'id, serial or name')
    .action((ref: string, _flags: unknown, command: Command) =>
      withApi(context, command, async (api) => {
        await api.json('DELETE', volumePath(ref));
        context.stdout.write(`Deleted volume ${ref}.\n`);
      }),
    );
}

function addResize(volume: Command, context: CliContext): void {
  jsonOption(volume.command('resize'))
    .description('grow a LUN, also while it is in use')
    .argument('<VOLUME>', 'id, serial or name')
    .requiredOption('--size <SIZE>', 'new capacity, for example 20G; rounded up to 64 KiB')
    .action((ref: string, flags: { readonly size: string }, command: Command) =>
      withApi(context, command, async (api) => {
        const body = { sizeBytes: parseSize(flags.size) };
        const view = await api.json<VolumeView>('PATCH', volumePath(ref), { body });
        print(context, command, view, () => {
          const again = view.attached > 0 ? ' Its clients see it when they connect again.' : '';
          return `Volume ${view.id} has ${formatSize(view.sizeBytes)}.${again}\n`;
        });
      }),
    );
}

function addFreeze(volume: Command, context: CliContext): void {
  jsonOption(volume.command('freeze'))
    .description('hold up what hosts write; reads go on')
    .argument('<VOLUME>', 'id, serial or name')
    .option('--seconds <SECONDS>', 'after which it thaws by itself (default: 120)')
    .action((ref: string, flags: { readonly seconds?: string }, command: Command) =>
      withApi(context, command, async (api) => {
        const body = flags.seconds === undefined ? {} : { seconds: Number(flags.seconds) };
        const view = await api.json<VolumeView>('POST', `${volumePath(ref)}/freeze`, { body });
        print(context, command, view, () => {
          const until = view.frozenUntil === null ? '-' : formatTime(view.frozenUntil);
          return `Volume ${view.id} is frozen until ${until}.\n`;
        });
      }),
    );

  jsonOption(volume.command('thaw'))
    .description('let hosts write again')
    .argument('<VOLUME>', 'id, serial or name')
    .action((ref: string, _flags: unknown, command: Command) =>
      withApi(context, command, async (api) => {
        const answer = await api.json<ThawView>('POST', `${volumePath(ref)}/thaw`);
        print(context, command, answer, () =>
          answer.wasFrozen
            ? `Thawed volume ${answer.volume.id}.\n`
            : `Volume ${answer.volume.id} was not frozen, or not any more.\n`,
        );
      }),
    );
}

/** Adds `attach` to the program. */
export function addAttachCommand(program: Command, context: CliContext): void {
  program
    .command('attach')
    .description('print what to paste to give a LUN to a guest or tool')
    .argument('<VOLUME>', 'id, serial or name')
    .addOption(new Option('--format <FORMAT>', 'for whom').choices(ATTACH_FORMATS).default('qemu'))
    .addOption(
      new Option(
        '--transport <TRANSPORT>',
        'unix: same machine, faster; tcp: any machine (default: unix when there is a socket)',
      ).choices(['unix', 'tcp']),
    )
    .option('--tls', 'encrypted, also where the server does not require it')
    .addHelpText('after', '\nExample: flashlun attach 1203 --format libvirt')
    .action((ref: string, flags: AttachFlags, command: Command) =>
      withApi(context, command, async (api) => {
        const volume = await api.json<VolumeView>('GET', volumePath(ref));
        const array = await api.json<ArrayView>('GET', '/v1/array');
        context.stdout.write(attachText(volume, array.nbd, flags));
      }),
    );
}

function createVolume(context: CliContext, flags: CreateFlags, command: Command): Promise<void> {
  const lss = flags.lss ?? (flags.id === undefined ? undefined : lssOf(parseVolumeId(flags.id)));
  if (lss === undefined) {
    throw new FlashlunError('USAGE', 'say where to create the volume: --lss 12 or --id 1203.');
  }
  const request = {
    lss,
    sizeBytes: parseSize(flags.size),
    ...(flags.id === undefined ? {} : { id: flags.id }),
    ...(flags.name === undefined ? {} : { name: flags.name }),
    ...(flags.pool === undefined ? {} : { pool: flags.pool }),
    ...(flags.thick === undefined ? {} : { thick: flags.thick }),
    ...(flags.blockSize === undefined ? {} : { blockBytes: Number(flags.blockSize) }),
  };
  return withApi(context, command, async (api) => {
    const volume = await api.json<VolumeView>('POST', '/v1/volumes', { body: request });
    print(context, command, volume, () => {
      const { id, serial, sizeBytes, thick } = volume;
      const kind = thick ? 'thick' : 'thin';
      return (
        `Created volume ${id}: serial ${serial}, ${formatSize(sizeBytes)}, ${kind}.\n` +
        `Attach it: flashlun attach ${id} --format qemu\n`
      );
    });
  });
}

function listVolumes(
  context: CliContext,
  host: string | undefined,
  command: Command,
): Promise<void> {
  return withApi(context, command, async (api) => {
    const query = host === undefined ? '' : `?host=${encodeURIComponent(host)}`;
    const answer = await api.json<VolumesView>('GET', `/v1/volumes${query}`);
    print(context, command, answer, () =>
      formatTable(
        [
          { title: 'ID', value: (volume) => volume.id },
          { title: 'SERIAL', value: (volume) => volume.serial },
          { title: 'LSS', value: (volume) => volume.lss },
          { title: 'SIZE', value: (volume) => formatSize(volume.sizeBytes) },
          { title: 'USED', value: (volume) => formatSize(volume.usedBytes) },
          { title: 'CLIENTS', value: (volume) => volume.attached },
          { title: 'NAME', value: (volume) => volume.name },
        ],
        answer.volumes,
      ),
    );
  });
}

function showVolume(context: CliContext, ref: string, command: Command): Promise<void> {
  return withApi(context, command, async (api) => {
    const volume = await api.json<VolumeView>('GET', volumePath(ref));
    print(context, command, volume, () =>
      formatFields([
        ['id', volume.id],
        ['serial', volume.serial],
        ['LSS', volume.lss],
        ['name', volume.name === '' ? '-' : volume.name],
        ['size', `${formatSize(volume.sizeBytes)} (${volume.sizeBytes} bytes)`],
        ['used', formatSize(volume.usedBytes)],
        ['pool', volume.pool],
        ['provisioning', volume.thick ? 'thick' : 'thin'],
        ['block size', volume.blockBytes],
        ['clients', volume.attached],
        ['frozen', volume.frozenUntil === null ? 'no' : `until ${formatTime(volume.frozenUntil)}`],
        ['created', formatTime(volume.createdAt)],
      ]),
    );
  });
}

function volumePath(ref: string): string {
  return `/v1/volumes/${encodeURIComponent(ref)}`;
}
