/** Opening the listening sockets, with errors that say which address and what to do about it. */

import { createServer, type ListenOptions, type Server, type Socket } from 'node:net';
import { FlashlunError, fromNative } from '../base/errors.js';
import { listenUnixDescriptor } from '../engine/index.js';
import { clearStaleSocket, hasCode } from './unix-socket.js';

export interface TcpAddress {
  readonly host: string;
  /** 0 lets the kernel choose. */
  readonly port: number;
}

export type OnConnection = (socket: Socket) => void;

/** Bits that the umask takes away while a unix socket is made: its mode becomes 0600. */
const OWNER_ONLY = 0o177;

/** Listens on TCP. @throws FlashlunError ADDRESS_IN_USE, ADDRESS_UNUSABLE */
export async function listenTcp(address: TcpAddress, onConnection: OnConnection): Promise<Server> {
  const server = makeServer(onConnection);
  const name = formatAddress(address.host, address.port);
  await listen(server, { host: address.host, port: address.port }, name, '--nbd HOST:PORT');
  return server;
}

/**
 * Listens on a unix socket, replacing one that a killed server left behind. NBD asks for no
 * password, so the socket is for the user of the server alone; chmod it to let others in.
 *
 * @throws FlashlunError ADDRESS_IN_USE, ADDRESS_UNUSABLE
 */
export async function listenUnix(path: string, onConnection: OnConnection): Promise<Server> {
  await clearStaleSocket(path);
  // By descriptor, not by path: Node removes the path of a socket that it has made itself when it
  // closes it, also when another server goes on listening there.
  // bind() makes the path within the call, so there is no moment with a wider mode.
  const umask = process.umask(OWNER_ONLY);
  let fd: number;
  try {
    fd = listenUnixDescriptor(path);
  } catch (error) {
    throw listenError(asSystemError(error), path, '--nbd-unix PATH');
  } finally {
    process.umask(umask);
  }
  return listenOn(fd, onConnection);
}

/** Accepts on a socket that listens already, and takes its descriptor. */
export async function listenOn(fd: number, onConnection: OnConnection): Promise<Server> {
  const server = makeServer(onConnection);
  await listen(server, { fd }, `descriptor ${fd}`, '--nbd HOST:PORT');
  return server;
}

/** `127.0.0.1:10809`, `[::1]:10809`. */
export function formatAddress(host: string, port: number): string {
  return host.includes(':') ? `[${host}]:${port}` : `${host}:${port}`;
}

function makeServer(onConnection: OnConnection): Server {
  return createServer(
    {
      // Nothing is read before the handshake starts, nothing closed behind native code's back:
      // see hand-over.ts. noDelay is the kernel's and stays with the descriptor.
      pauseOnConnect: true,
      allowHalfOpen: true,
      noDelay: true,
    },
    onConnection,
  );
}

function listen(
  server: Server,
  options: ListenOptions | { readonly fd: number },
  name: string,
  flag: string,
): Promise<void> {
  return new Promise((resolve, reject) => {
    const onError = (error: Error): void => reject(listenError(error, name, flag));
    server.once('error', onError);
    server.listen(options, () => {
      server.removeListener('error', onError);
      resolve();
    });
  });
}

/** Native code says what the system said, in its words. */
function asSystemError(error: unknown): Error {
  const { message } = fromNative(error, '');
  const code = [...SYSTEM_WORDS].find(([words]) => message.includes(words))?.[1];
  return Object.assign(new Error(message, { cause: error }), code === undefined ? {} : { code });
}

const SYSTEM_WORDS = new Map([
  ['Address already in use', 'EADDRINUSE'],
  ['Permission denied', 'EACCES'],
]);

function listenError(cause: Error, name: string, flag: string): FlashlunError {
  if (hasCode(cause, 'EADDRINUSE')) {
    const message =
      `cannot listen on ${name}: another program uses it. ` +
      `Stop that program or choose another address with ${flag}.`;
    return new FlashlunError('ADDRESS_IN_USE', message, { cause });
  }
  const why = REASONS.get('code' in cause ? String(cause.code) : '') ?? cause.message;
  const message = `cannot listen on ${name}: ${why}. Choose another address with ${flag}.`;
  return new FlashlunError('ADDRESS_UNUSABLE', message, { cause });
}

const REASONS = new Map([
  ['EACCES', 'this user may not'],
  ['EADDRNOTAVAIL', 'this machine has no such address'],
  ['ENOTFOUND', 'there is no host of this name'],
]);
