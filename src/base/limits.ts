/**
 * Every limit of the TypeScript side, with its reason. native/core/limits.h holds the native
 * side's; what appears in both is compared by a test. Nothing else in src/ may hold a size, count
 * or time limit of its own.
 */

import { KIB, MIB, TIB } from './units.js';

export const LIMITS = {
  // NBD negotiation -------------------------------------------------------------------------------

  /** Longest string NBD allows: names, descriptions, error texts (proto.md "Values"). */
  nbdStringBytes: 4096,
  /** Longest option data parsed. The largest legal GO is 4 + 4096 + 2 + 2 for each info. */
  nbdOptionDataBytes: 64 * KIB,
  /** Longer option data is dropped and refused; above this the connection is closed instead. */
  nbdOptionDrainBytes: 1 * MIB,
  /** A client needs about five; libnbd's tests send some dozen. */
  nbdOptionsPerConnection: 128,
  /** INFO and GO for exports that do not exist; a client with a wrong name asks once or twice. */
  nbdUnknownNamesPerConnection: 16,
  /** Largest READ and WRITE, told in INFO_BLOCK_SIZE; native kMaxPayloadBytes enforces it. */
  nbdPayloadBytes: 32 * MIB,
  /** Metadata contexts that one client may select; native kMaxContexts. Tools select one or two. */
  nbdContexts: 16,
  /** Answers to LIST on one connection: at least one of a full array (4096 volumes, 1.2 MB). */
  nbdListBytesPerConnection: 2 * MIB,
  /** A client that takes longer holds a socket for nothing. QEMU's server waits as long. */
  nbdHandshakeMs: 10_000,
  /**
   * Connections in negotiation at once, of each listener: what the network fills must not keep the
   * unix socket's users out. QEMU's server allows 100.
   */
  nbdHandshakes: 128,
  /** NBD connections in all, negotiating or attached (native kMaxConnections). */
  nbdConnections: 960,
  /** Of one client (an address, a user of the unix socket): a hypervisor has one for each LUN. */
  nbdConnectionsPerClient: 512,
  /** Attached to one volume: a cluster of 32 hosts with 4 each. */
  nbdConnectionsPerExport: 128,
  /** Native kSharedBufferBytes: payloads beyond what each connection has of its own. */
  nbdMemoryBytes: 256 * MIB,
  /** Warnings of clients turned away for the same reason come at most so often. */
  nbdWarnMs: 10_000,
  /** A TCP client that says nothing for so long although asked is gone (native kPeerTimeout). */
  nbdPeerTimeoutSeconds: 120,
  /** Bytes of a unix socket's path, without the NUL (sun_path of Linux). */
  unixPathBytes: 107,
  /** Bytes of a path that the pool remembers, without the NUL (native/core/limits.h). */
  poolPathBytes: 511,
  /** How long close() waits for native connections to end before it reports that one is stuck. */
  nbdCloseMs: 10_000,
  /** How long a connect to an existing unix socket may take before its owner counts as alive. */
  unixProbeMs: 2_000,

  // TLS of NBD ------------------------------------------------------------------------------------

  /** Of a bridged connection; native kKeepAliveIdleSeconds does it for the others. */
  nbdKeepAliveMs: 60_000,
  /** How long close() waits for bridges to send what native code has answered. */
  nbdBridgeCloseMs: 2_000,
  /** A certificate with its chain is a few KiB; a list of revoked ones may be long. */
  tlsFileBytes: 1 * MIB,
  /** Native kMaxPskEntries. */
  tlsPskEntries: 4096,
  /** Native kMinPskBytes and kMaxPskBytes: 128 bits, and the most that OpenSSL takes. */
  tlsPskMinBytes: 16,
  tlsPskMaxBytes: 256,
  /** Native kMaxPskIdentityBytes (RFC 4279 section 5.3). */
  tlsPskIdentityBytes: 128,
  /** Rules about who may have which exports; each is looked at for each export in a list. */
  tlsRules: 256,
  /** Exports, or clients, that one rule names; and characters of one. */
  tlsRulePatterns: 256,
  tlsPatternChars: 1024,

  // Takeover and freeze ---------------------------------------------------------------------------

  /** For one message between two servers of one machine; a loaded one needs a while. */
  takeoverMessageMs: 5_000,
  /** Who has connected and not greeted yet; each of them keeps a thread of libuv's four waiting. */
  takeoverGreetings: 2,
  /** How long the running server waits for a new one that has greeted to be ready. */
  takeoverReadyMs: 30_000,
  /** How long the new server waits for the first socket: requests in flight end before. */
  takeoverPrepareMs: 20_000,
  /** How long the new server waits for the pool: a commit and a checkpoint on a slow disk. */
  takeoverReleaseMs: 60_000,
  /** What a client's negotiation may still take when a takeover begins; then it is dropped. */
  takeoverNegotiationMs: 250,
  /** HTTP requests in flight get so long before they are cut off for a takeover. */
  takeoverHttpMs: 2_000,
  /** Default time limit of a freeze: that of an LSS of the ESS (ess.md 3.6). */
  freezeSeconds: 120,
  /** Native kMaxFreeze. */
  maxFreezeSeconds: 3_600,
  /** Volumes of one freeze: all of some LSSs. */
  volumesPerFreeze: 4_096,

  // The array -------------------------------------------------------------------------------------

  /** One track (native kMinVolumeBytes). */
  minVolumeBytes: 64 * KIB,
  /** Native kMaxVolumeBytes; safe as a JavaScript number and far above the ESS's 2 TB. */
  maxVolumeBytes: 64 * TIB,
  /** Two hex digits of volume number. */
  volumesPerLss: 256,
  /** Native kMaxNameBytes. */
  volumeNameBytes: 64,
  /** Native kMaxPairsPerEstablish: one transaction must fit one journal group. */
  pairsPerEstablish: 1024,

  // Hosts and limits ------------------------------------------------------------------------------

  /** Far more than a machine room has; bounds GET /v1/hosts and the matching of a client. */
  hosts: 1024,
  hostNameBytes: 64,
  hostDescriptionBytes: 256,
  /** Addresses, users or TLS identities of one host: a cluster under one name. */
  hostIdentities: 64,
  /** Disks of one disk map: SCSI hosts of the ESS had at most 256 LUNs on a port, and few ports. */
  disksPerHost: 1024,
  /** `/dev/disk/by-path/...` fits. */
  diskNameBytes: 128,
  /** A distinguished name; OpenSSL prints at most a few hundred bytes. */
  tlsIdentityBytes: 1024,
  /** Above it nothing is limited any more: an NVMe disk does a million. */
  rateIops: 10_000_000,
  /** In MB/s; 100 Gbit/s are 12,000. */
  rateMb: 1_000_000,
  /** Below, the timer of the system is coarser than the limit. */
  minBurstSeconds: 0.01,
  burstSeconds: 60,

  // Tasks and users -------------------------------------------------------------------------------

  /** The ESS's task names were 16 characters; people want a little more. */
  taskNameBytes: 64,
  /** One or two sentences. */
  taskDescriptionBytes: 256,
  /** Far more than people keep; bounds GET /v1/tasks. */
  tasks: 10_000,
  userNameBytes: 64,
  /** scrypt's cost does not grow with it, but nobody should make us hash a megabyte. */
  passwordBytes: 1024,
  /** One working day. */
  sessionMs: 12 * 60 * 60 * 1000,
  /** Live sessions; the oldest goes when one more logs in. */
  sessions: 1024,
  /**
   * Failed logins of one user from one address within a minute before its further logins wait for
   * the rest of it. Not of the user alone: then anybody could slow the administrator down.
   */
  loginFailuresPerMinute: 10,
  /** The same of one address, whatever the user: names may be guessed; many may share a gateway. */
  loginFailuresPerAddress: 100,
  /** Then one is tried in so many ms: 30 guesses a minute, and the right password still gets in. */
  loginSpacingMs: 2_000,
  /** A login that would wait longer for its turn is refused; command lines wait 10 s or more. */
  loginWaitMs: 8_000,
  /** scrypt takes about 300 ms and 128 MiB each; more at once would only queue. */
  loginsInFlight: 2,
  /** Logins waiting for one of those places; a person or script tries again. */
  loginsWaiting: 32,
  /** Users and addresses with failed logins that are remembered; the oldest goes first. */
  loginFailuresRemembered: 1024,
  /** Schedules; all of them are looked at each time one is due. */
  schedules: 256,
  /** Five fields with lists of all their values are shorter. */
  cronChars: 512,
  /** Formatters of time zones that are remembered. */
  timeZonesKept: 64,
  /** Target sets of a rotation; the ESS had 12 targets of a source. */
  targetSets: 256,
  /** Ten years: longer than any rule about keeping. */
  maxLockSeconds: 10 * 366 * 24 * 60 * 60,
  /** The schedules are looked at so often with nothing due: clocks change, machines sleep. */
  scheduleWatchMs: 30_000,
  /** And not more often than that. */
  scheduleLookMs: 100,
  /** A time that is dealt with so much later was missed. */
  scheduleLateMs: 2 * 60_000,
  /** A clock that was put back by more than that was wrong before. */
  clockSlackMs: 60 * 60_000,
  /** Missed times are counted up to here. */
  missedRunsCounted: 1_000,
  /** Tasks of one import; 1 MiB of body holds about so many. */
  tasksPerImport: 1_000,
  /** Tasks of a group; longer ones are hard to follow. */
  tasksPerGroup: 256,
  /** Results kept per task: the last one is shown, the others answer "since when does it fail?". */
  runsPerTask: 100,
  /** Registered command line clients that may still join the status server (ess.md 5.3). */
  registeredClients: 1024,
  /** Registration strings of one request. */
  registrationLines: 64,
  /** The longest legal string: host and address of 255 characters, and some blanks. */
  registrationLineBytes: 1024,
  /** Ids that one address gets at once, and then a second; each is a transaction on disk. */
  registrationBurst: 100,
  registrationsPerSecond: 10,
  /** Addresses whose registrations are counted; the one that asked longest ago goes first. */
  registrationAddresses: 1024,
  /** Host names and addresses of a registration; DNS allows 255. */
  registrationFieldBytes: 255,

  // ESS command lines -----------------------------------------------------------------------------

  /** Words of a command line; a shell's own limit is far above. */
  essCliWords: 8192,
  /** Tasks of one rsExecuteTask; groups are for more. */
  essCliTasks: 256,
  /** Volumes of one query: those of a full array. */
  essCliVolumes: 4096,
  /** A file with the serials of all of them, with comments. */
  essCliFileBytes: 256 * KIB,

  // Background copy -------------------------------------------------------------------------------

  /** Relationships copied at the same time; the others wait, as on an ESS (ess.md 3.3). */
  activeCopies: 4,
  /** More threads than that only contend. */
  maxActiveCopies: 64,
  /** One track a second: less would look like a copy that hangs. */
  minCopyBytesPerSecond: 64 * KIB,
  /** Targets of one source on an ESS (strict; ess.md 3.1). */
  strictTargets: 12,
  /** How long a forced establish keeps what it overwrites: time to see what was done. */
  undoSeconds: 900,
  maxUndoSeconds: 7 * 86_400,
  /** Expired undo images are looked for so often. */
  undoSweepMs: 5_000,
  /** How long an establish waits for the clients of a target that it disconnected. */
  disconnectMs: 5_000,
  /** Tracks of one native call: 4 MiB, a few ms; stopping and the rate limit act between calls. */
  copyBatchTracks: 64,
  /** Failures in a row before a copy is given up until the next start; with pauses about 30 s. */
  copyAttempts: 6,
  /** First pause after a failure; it doubles each time. */
  copyRetryMs: 1_000,
  /** Worker threads end after this without work; starting one takes about 50 ms. */
  copyWorkerIdleMs: 10_000,
  /** Volumes verified at the same time; each keeps a disk busy. */
  activeScrubs: 2,
  /** Damaged tracks that a scrub names; it counts all of them. */
  scrubFindings: 100,
  /** MB/s; slower than one track a second is not a rate but a stop. */
  minCopyRateMb: 0.1,
  /** Demo volumes are thin, so a pool this small works; below it nothing useful fits. */
  minPoolCapacityBytes: 64 * MIB,

  /** Pools added later; a demo of pools needs no more. */
  minPoolBytes: 1 * MIB,
  /** How often the pools are looked at for a warning; filling one takes longer. */
  poolWatchMs: 10_000,

  /** Native kMaxPoolTracks of one track; a larger --pool-capacity means this. */
  maxPoolBytes: 256 * TIB,

  // The log ---------------------------------------------------------------------------------------

  /** Log lines that wait for a slow reader of stderr; thousands, and what comes then is dropped. */
  logQueueBytes: 1 * MIB,
  /** How long an ending server waits for the readers of its output. */
  outputFlushMs: 500,

  // HTTP ------------------------------------------------------------------------------------------

  /** 1024 pairs of an establish are about 40 KiB. */
  httpBodyBytes: 1 * MIB,
  /** A registration string names a host's disks; 256 disks of 30 characters, with room. */
  registrationBytes: 64 * KIB,
  /** A request that is not complete by then is dropped, so slow senders cannot hold sockets. */
  httpRequestMs: 10_000,
  /** The same of its headers, and of a client that connects and says nothing. */
  httpHeadersMs: 5_000,
  /** An idle connection is kept so long for the next request. */
  httpKeepAliveMs: 5_000,
  /** How often Node looks for requests over these times; its default adds up to 30 s to them. */
  httpCheckMs: 2_000,
  /** Each costs a socket and some KiB; people and scripts have a handful. */
  httpConnections: 256,
  /** How long a stopping server waits for HTTP requests in flight before it cuts them off. */
  httpCloseMs: 5_000,
} as const;
