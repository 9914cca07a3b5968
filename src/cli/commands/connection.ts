/** `flashlun connection ...`: NBD clients, what they do, and ending one. */

import type { Command } from 'commander';
import { formatSize } from '../../base/units.js';
import type { ConnectionsView, ConnectionView } from '../api-types.js';
import { type CliContext, jsonOption, print, withApi } from '../context.js';
import { formatFields, formatTable, formatTime } from '../output.js';

/** Adds `connection` and its subcommands to the program. */
export function addConnectionCommands(program: Command, context: CliContext): void {
  const connection = program.command('connection').description('NBD clients that are attached');

  jsonOption(connection.command('list'))
    .alias('ls')
    .description('list the clients')
    .action((_flags: unknown, command: Command) =>
      withApi(context, command, async (api) => {
        const answer = await api.json<ConnectionsView>('GET', '/v1/connections');
        print(context, command, answer, () => table(answer.connections));
      }),
    );

  jsonOption(connection.command('show'))
    .description('show one client')
    .argument('<ID>', 'number of the connection, from the list')
    .action((id: string, _flags: unknown, command: Command) =>
      withApi(context, command, async (api) => {
        const view = await api.json<ConnectionView>('GET', pathOf(id));
        print(context, command, view, () => fields(view));
      }),
    );

  connection
    .command('disconnect')
    .description('end a connection; a client that reconnects by itself does so')
    .argument('<ID>', 'number of the connection, from the list')
    .action((id: string, _flags: unknown, command: Command) =>
      withApi(context, command, async (api) => {
        await api.json('DELETE', pathOf(id));
        context.stdout.write(`Disconnected ${id}.\n`);
      }),
    );
}

function pathOf(id: string): string {
  return `/v1/connections/${encodeURIComponent(id)}`;
}

function table(connections: readonly ConnectionView[]): string {
  return formatTable(
    [
      { title: 'ID', value: (each) => each.id },
      { title: 'VOLUME', value: (each) => each.volume },
      { title: 'PEER', value: (each) => peerOf(each) },
      { title: 'IN FLIGHT', value: (each) => each.inFlight },
      { title: 'REQUESTS', value: (each) => requestsOf(each) },
      { title: 'ERRORS', value: (each) => each.errors },
      { title: 'SINCE', value: (each) => formatTime(each.since) },
    ],
    connections,
  );
}

function fields(view: ConnectionView): string {
  const { read, write, flush, trim, writeZeroes, other } = view.requests;
  return formatFields([
    ['id', view.id],
    ['volume', view.volume],
    ['export', view.export],
    ['peer', peerOf(view)],
    ['TLS identity', view.tlsIdentity ?? '-'],
    ['access', view.readOnly ? 'read-only' : 'read and write'],
    ['features', view.features.length === 0 ? '-' : view.features.join(' ')],
    ['since', formatTime(view.since)],
    ['requests', `${read} read, ${write} write, ${flush} flush, ${trim} trim`],
    ['', `${writeZeroes} write zeroes, ${other} other`],
    ['errors', view.errors],
    ['received', formatSize(view.bytesIn)],
    ['sent', formatSize(view.bytesOut)],
    ['in flight', view.held === 0 ? view.inFlight : `${view.inFlight}, ${view.held} held`],
  ]);
}

function peerOf(view: ConnectionView): string {
  if (view.transport === 'tcp' || view.pid === null) return view.peer;
  return `unix, process ${view.pid}, user ${view.uid ?? '?'}`;
}

function requestsOf(view: ConnectionView): number {
  return Object.values(view.requests).reduce((sum, count) => sum + count, 0);
}
