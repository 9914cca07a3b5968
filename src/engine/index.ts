/** The storage engine: open it, and its types. The addon behind it is no one else's business. */

export {
  checkPool,
  createTlsContext,
  nativeTlsVersion,
  openEngine,
  openedEngine,
  peerUid,
  sdNotify,
  socketPair,
} from './engine.js';
export type * from './types.js';
export { TRACK_BYTES } from './types.js';
