/** Who is at the other end of a connection. */

/** Whether the peer is a process of this machine. */
export function isLoopbackPeer(address: string | undefined): boolean {
  const plain = address?.replace(/^::ffff:/, '');
  return plain === '::1' || plain?.startsWith('127.') === true;
}
