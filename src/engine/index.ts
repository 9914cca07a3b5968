/** The storage engine: open it, and its types. The addon behind it is no one else's business. */

export {
  checkPool,
  createTlsContext,
  nativeTlsVersion,
  openEngine,
  openedEngine,
  sdNotify,
} from './engine.js';
export {
  closeDescriptor,
  connectUnixDescriptor,
  duplicateDescriptor,
  listenUnixDescriptor,
  peerCredentials,
  receiveMessage,
  sendMessage,
  socketPair,
} from './descriptors.js';
export type { DescriptorMessage, PeerCredentials } from './native.js';
export type * from './types.js';
export { TRACK_BYTES } from './types.js';
