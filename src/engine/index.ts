/** The storage engine: open it, and its types. The addon behind it is no one else's business. */

export {
  checkPool,
  closeDescriptor,
  connectUnixDescriptor,
  duplicateDescriptor,
  listenUnixDescriptor,
  openEngine,
  openedEngine,
  peerCredentials,
  receiveMessage,
  sdNotify,
  sendMessage,
} from './engine.js';
export type { DescriptorMessage, PeerCredentials } from './native.js';
export type * from './types.js';
export { TRACK_BYTES } from './types.js';
