/**
 * Prometheus metrics. The numbers are kept by the engine and by Copy Services; they are read when
 * somebody asks, so counting costs nothing in between.
 *
 * Collectors give prom-client ready samples instead of calling inc() per volume: with 4096 volumes
 * that is the difference between a scrape of milliseconds and one that holds up the main thread.
 */

import { collectDefaultMetrics, type Metric, Registry } from 'prom-client';
import type { PoolView } from '../array/pools.js';
import { formatVolumeId } from '../base/ids.js';
import type { CopyServicesCounters } from '../copyservices/copy-services.js';
import type { ScrubCounters } from '../copyservices/scrubs.js';
import {
  type Engine,
  type EngineInfo,
  type RelationshipState,
  type ThrottledState,
  TRACK_BYTES,
  type VolumeState,
} from '../engine/types.js';

export interface MetricsSources {
  readonly engine: Pick<
    Engine,
    'volumes' | 'relationships' | 'info' | 'throttled' | 'connectionMemory'
  >;
  readonly pools: { list(): PoolView[] };
  readonly copyServices: { readonly counters: CopyServicesCounters };
  readonly backgroundCopy: {
    readonly copiedTracks: number;
    readonly activeCount: number;
    readonly queuedCount: number;
  };
  readonly scrubs: { readonly counters: ScrubCounters; readonly activeCount: number };
  /** Undefined until it listens. */
  readonly nbd: () => NbdFacts | undefined;
  readonly version: string;
}

/** Of the listener. */
interface NbdFacts {
  readonly negotiating: number;
  readonly placesUsed: number;
  readonly refusals: Readonly<Record<string, number>>;
}

/** One line of the exposition: labels and value. */
interface Sample {
  readonly labels: Record<string, string>;
  readonly value: number;
}

/** What the engine said when the scrape began: asked once, not once a family. */
interface Snapshot {
  readonly volumes: readonly VolumeState[];
  readonly relationships: readonly RelationshipState[];
  readonly info: EngineInfo;
  readonly pools: readonly PoolView[];
}

interface Family {
  readonly name: string;
  readonly help: string;
  readonly type: 'counter' | 'gauge';
  readonly samples: (snapshot: Snapshot) => Sample[];
}

type Numbers<T> = { [K in keyof T]: T[K] extends number ? K : never }[keyof T];

/** Name after `flashlun_volume_`, meaning, and the engine's counter. */
const VOLUME_COUNTERS: readonly (readonly [string, string, Numbers<VolumeState>])[] = [
  ['read_bytes_total', 'Bytes read by hosts', 'readBytes'],
  ['read_ops_total', 'Read requests of hosts', 'readOps'],
  ['write_bytes_total', 'Bytes written by hosts', 'writeBytes'],
  ['write_ops_total', 'Write requests of hosts', 'writeOps'],
  ['flush_ops_total', 'Flush requests of hosts', 'flushOps'],
  ['trim_ops_total', 'Trim requests of hosts', 'trimOps'],
  ['write_zeroes_ops_total', 'Write-zeroes requests of hosts', 'zeroOps'],
  [
    'errors_total',
    'Requests of hosts that failed, without those that were wrong themselves',
    'errorOps',
  ],
  [
    'redirected_tracks_total',
    'First writes to a track shared by FlashCopy, sent to a fresh track',
    'redirectedTracks',
  ],
];

/** Builds the registry over its sources. */
export function createMetrics(sources: MetricsSources): {
  readonly contentType: string;
  text(): Promise<string>;
} {
  const registry = new Registry();
  collectDefaultMetrics({ register: registry });
  let snapshot = takeSnapshot(sources);
  const families = [
    ...serverFamilies(sources.version),
    ...POOL_FAMILIES,
    ...volumeFamilies(),
    ...flashcopyFamilies(sources),
    ...verifyFamilies(sources),
    ...limitFamilies(sources),
  ];
  for (const family of families) registry.registerMetric(asMetric(family, () => snapshot));
  return {
    contentType: registry.contentType,
    text: () => {
      snapshot = takeSnapshot(sources);
      return registry.metrics();
    },
  };
}

function takeSnapshot({ engine, pools }: MetricsSources): Snapshot {
  return {
    volumes: engine.volumes(),
    relationships: engine.relationships(),
    info: engine.info(),
    pools: pools.list(),
  };
}

function serverFamilies(version: string): Family[] {
  return [
    {
      name: 'flashlun_build_info',
      help: 'Always 1; the labels say what runs',
      type: 'gauge',
      samples: () => [{ labels: { version, node: process.version }, value: 1 }],
    },
    {
      name: 'flashlun_io_info',
      help: 'Always 1; the labels say how LUN data reaches the disk',
      type: 'gauge',
      samples: ({ info }) => [
        {
          labels: { cache: info.direct ? 'none' : 'writeback', backend: info.ioBackend },
          value: 1,
        },
      ],
    },
    {
      name: 'flashlun_nbd_connections',
      help: 'NBD connections in transmission, by volume',
      type: 'gauge',
      samples: (snapshot) => perVolume(snapshot, (volume) => volume.attached),
    },
  ];
}

const POOL_FAMILIES: readonly Family[] = [
  perPool('capacity_bytes', 'Most bytes the pool may use', (pool) => pool.capacityBytes),
  perPool('used_bytes', 'Tracks in use, shared ones counted once', (pool) => pool.usedBytes),
  perPool('thick_bytes', 'Reserved for thick volumes', (pool) => pool.thickBytes),
  perPool('available_bytes', 'What thin volumes may still take', (pool) => pool.availableBytes),
  perPool('allocated_bytes', 'Space allocated on the disk', (pool) => pool.allocatedBytes),
  perPool('level', 'How full it is: 0 ok, 1 warning, 2 critical', (pool) => {
    return ['ok', 'warning', 'critical'].indexOf(pool.level);
  }),
  single(
    'counter',
    'pool_write_out_waits_total',
    'Writes that waited because the page cache was 1 GiB ahead of the disk',
    ({ info }) => info.writeOutWaits,
  ),
  single('counter', 'pool_trimmed_bytes_total', 'Free space given back to the disk', ({ info }) => {
    return info.trimmedTracks * TRACK_BYTES;
  }),
  single('counter', 'pool_commits_total', 'Journal groups made durable', (s) => s.info.commits),
  single('counter', 'pool_checkpoints_total', 'Checkpoints', (s) => s.info.checkpoints),
  single('counter', 'pool_flushes_total', 'Flushes of the pool', (s) => s.info.flushes),
  single('gauge', 'pool_stopped', '1 when the pool stopped after damage or a write error', (s) => {
    return Number(s.info.poisoned !== '');
  }),
  single(
    'gauge',
    'metadata_mirror_state',
    'Second copy of the metadata: 0 none, 1 in sync, 2 degraded',
    ({ info }) => (info.mirrorPath === '' ? 0 : info.mirrorProblem === '' ? 1 : 2),
  ),
];

function volumeFamilies(): Family[] {
  const counters = VOLUME_COUNTERS.map(
    ([name, help, key]): Family => ({
      name: `flashlun_volume_${name}`,
      help,
      type: 'counter',
      samples: (snapshot) => perVolume(snapshot, (volume) => volume[key]),
    }),
  );
  return [
    ...counters,
    {
      name: 'flashlun_volume_size_bytes',
      help: 'Size hosts see',
      type: 'gauge',
      samples: (snapshot) => perVolume(snapshot, (volume) => volume.sizeBytes),
    },
    {
      name: 'flashlun_volume_used_bytes',
      help: 'Bytes of tracks with data; a shared track counts for each of its volumes',
      type: 'gauge',
      samples: (snapshot) => perVolume(snapshot, (volume) => volume.mappedTracks * TRACK_BYTES),
    },
    {
      name: 'flashlun_volume_frozen',
      help: '1 while a freeze holds up what hosts write',
      type: 'gauge',
      samples: (snapshot) => perVolume(snapshot, (each) => Number(each.frozenUntilUnixMs !== 0)),
    },
    single('counter', 'freezes_expired_total', 'Volumes thawed by the time limit', ({ info }) => {
      return info.expiredFreezes;
    }),
  ];
}

function flashcopyFamilies({ copyServices, backgroundCopy }: MetricsSources): Family[] {
  return [
    {
      name: 'flashlun_flashcopy_out_of_sync_tracks',
      help: 'Tracks of the target whose T0 data is still only shared with the source',
      type: 'gauge',
      samples: (snapshot) => perRelationship(snapshot, (state) => state.outOfSyncTracks),
    },
    {
      name: 'flashlun_flashcopy_tracks',
      help: 'Tracks of the source',
      type: 'gauge',
      samples: (snapshot) => perRelationship(snapshot, (state) => state.totalTracks),
    },
    {
      name: 'flashlun_flashcopy_relationships',
      help: 'Relationships, by copy mode',
      type: 'gauge',
      samples: relationshipsByMode,
    },
    single('counter', 'flashcopy_copied_tracks_total', 'Tracks copied by background copy', () => {
      return backgroundCopy.copiedTracks;
    }),
    single('gauge', 'flashcopy_active_copies', 'Background copies running now', () => {
      return backgroundCopy.activeCount;
    }),
    single('gauge', 'flashcopy_queued_copies', 'Background copies waiting for a place', () => {
      return backgroundCopy.queuedCount;
    }),
    single('counter', 'flashcopy_established_total', 'Relationships established', () => {
      return copyServices.counters.established;
    }),
    single('counter', 'flashcopy_resynced_total', 'Relationships copied again on request', () => {
      return copyServices.counters.resynced;
    }),
    single('counter', 'flashcopy_reversed_total', 'Relationships turned round on request', () => {
      return copyServices.counters.reversed;
    }),
    single('counter', 'flashcopy_withdrawn_total', 'Relationships withdrawn on request', () => {
      return copyServices.counters.withdrawn;
    }),
    single('counter', 'flashcopy_refused_total', 'Establishes refused by a rule', () => {
      return copyServices.counters.refused;
    }),
  ];
}

function verifyFamilies({ scrubs }: MetricsSources): Family[] {
  return [
    single('gauge', 'verify_active', 'Volumes being verified now', () => scrubs.activeCount),
    single('gauge', 'verify_sealed_tracks', 'Shared tracks that have a checksum', ({ info }) => {
      return info.sealedTracks;
    }),
    single('counter', 'verify_mismatches_total', 'Tracks that did not match theirs', (s) => {
      return s.info.verifyMismatches;
    }),
    single('counter', 'verify_verified_tracks_total', 'Tracks compared with theirs', () => {
      return scrubs.counters.verifiedTracks;
    }),
    single('counter', 'verify_read_bytes_total', 'Bytes read to verify volumes', () => {
      return scrubs.counters.readBytes;
    }),
    single('counter', 'verify_io_errors_total', 'Tracks that could not be read', () => {
      return scrubs.counters.ioErrors;
    }),
  ];
}

function limitFamilies({ engine, nbd }: MetricsSources): Family[] {
  const throttled = (value: (state: ThrottledState) => number) => (): Sample[] =>
    engine.throttled().map((state) => ({
      labels: { volume: formatVolumeId(state.volumeId) },
      value: value(state),
    }));
  return [
    single('gauge', 'nbd_negotiating', 'NBD clients in negotiation', () => nbd()?.negotiating ?? 0),
    single('gauge', 'nbd_places_used', 'NBD connections of all kinds (--nbd-connections)', () => {
      return nbd()?.placesUsed ?? 0;
    }),
    {
      name: 'flashlun_nbd_refused_total',
      help: 'NBD clients turned away, or told that there is no such export, by reason',
      type: 'counter',
      samples: () =>
        Object.entries(nbd()?.refusals ?? {}).map(([reason, value]) => ({
          labels: { reason },
          value,
        })),
    },
    {
      name: 'flashlun_volume_throttled_ops_total',
      help: 'Requests delayed by rate limits',
      type: 'counter',
      samples: throttled(({ requests }) => requests),
    },
    {
      name: 'flashlun_volume_throttled_seconds_total',
      help: 'Time by which they were delayed, summed over connections',
      type: 'counter',
      samples: throttled(({ seconds }) => seconds),
    },
    single('gauge', 'nbd_memory_used_bytes', 'Payloads in flight, beyond own memory', () => {
      return engine.connectionMemory().usedBytes;
    }),
    single('gauge', 'nbd_memory_most_bytes', 'What that may be (--nbd-memory)', () => {
      return engine.connectionMemory().mostBytes;
    }),
    single('counter', 'nbd_memory_refused_total', 'Requests that got none of it', () => {
      return engine.connectionMemory().refused;
    }),
  ];
}

/** A family of one sample without labels. */
function single(
  type: Family['type'],
  name: string,
  help: string,
  value: (snapshot: Snapshot) => number,
): Family {
  const samples = (snapshot: Snapshot): Sample[] => [{ labels: {}, value: value(snapshot) }];
  return { name: `flashlun_${name}`, help, type, samples };
}

/** A gauge of every pool. */
function perPool(name: string, help: string, value: (pool: PoolView) => number): Family {
  const samples = ({ pools }: Snapshot): Sample[] =>
    pools.map((pool) => ({ labels: { pool: pool.name }, value: value(pool) }));
  return { name: `flashlun_pool_${name}`, help, type: 'gauge', samples };
}

function perVolume({ volumes }: Snapshot, value: (volume: VolumeState) => number): Sample[] {
  return volumes.map((volume) => ({
    labels: { volume: formatVolumeId(volume.id) },
    value: value(volume),
  }));
}

function perRelationship(
  { relationships }: Snapshot,
  value: (state: RelationshipState) => number,
): Sample[] {
  return relationships.map((state) => ({
    labels: { source: formatVolumeId(state.sourceId), target: formatVolumeId(state.targetId) },
    value: value(state),
  }));
}

function relationshipsByMode({ relationships }: Snapshot): Sample[] {
  const nocopy = relationships.filter((state) => state.noCopy).length;
  return [
    { labels: { mode: 'copy' }, value: relationships.length - nocopy },
    { labels: { mode: 'nocopy' }, value: nocopy },
  ];
}

/** The shape a Registry reads; the declared type is its own classes, which would count for us. */
function asMetric({ name, help, type, samples }: Family, snapshot: () => Snapshot): Metric {
  const collector = {
    name,
    help,
    type,
    aggregator: 'sum',
    get: () =>
      Promise.resolve({ name, help, type, aggregator: 'sum', values: samples(snapshot()) }),
    reset: () => undefined,
  };
  return collector as unknown as Metric;
}
