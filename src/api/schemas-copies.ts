/** Schemas of FlashCopy: relationships, consistency groups, undo, freeze timers of LSSs. */

import Type, { type Static } from 'typebox';
import { LIMITS } from '../base/limits.js';
import { Count, oneOf, orNull, Pair, Ref, strictObject, Time } from './schemas.js';

const Pairs = Type.Array(Pair, { minItems: 1, maxItems: LIMITS.pairsPerEstablish });
const Switch = (description: string) => Type.Optional(Type.Boolean({ description }));

export const COPY_OPTIONS = {
  noCopy: Switch('no background copy; the relationship stays until withdrawn'),
  persistent: Switch('stays when every track has been copied'),
  record: Switch('change recording: a resync or reverse copies only what changed'),
  inhibitTargetWrites: Switch('hosts may not write the target'),
  copyBytesPerSecond: Type.Optional(
    Type.Integer({ minimum: 0, description: 'of its background copy; 0: no limit of its own' }),
  ),
  priority: Type.Optional(Type.Integer({ description: '0 to 9; higher ones are copied first' })),
  targetOnline: Type.Optional(oneOf('allow', 'refuse', 'disconnect')),
};
export const CopyOptions = strictObject(COPY_OPTIONS);

export const ESTABLISH_OPTIONS = {
  ...COPY_OPTIONS,
  freeze: Switch('hold up what hosts write to the sources until an unfreeze of their LSSs'),
  freezeSeconds: Type.Optional(Type.Number({ description: "at most the LSS's timer" })),
  atomic: Switch('one point in time for all pairs; always so'),
  force: Switch('also onto a target that hosts have written since it was last established'),
  undoSeconds: Type.Optional(
    Type.Integer({ minimum: 0, description: 'keep what the targets held for so long' }),
  ),
};
const EstablishOptions = strictObject(ESTABLISH_OPTIONS);

export const NewFlashcopiesBody = strictObject({
  pairs: Pairs,
  options: Type.Optional(EstablishOptions),
});
export const ResyncBody = strictObject({ pairs: Pairs, options: Type.Optional(CopyOptions) });
/** A body that may be left out. */
function optionalBody<T extends Type.TObject>(schema: T) {
  return Type.Unsafe<Static<T> | null | undefined>({ ...schema, type: ['object', 'null'] });
}

export const AgainBody = optionalBody(strictObject({ options: Type.Optional(CopyOptions) }));
export const ReverseBody = optionalBody(
  strictObject({
    options: Type.Optional(strictObject({ ...COPY_OPTIONS, fast: Switch('also while copying') })),
  }),
);
export const ModifyBody = strictObject({
  copyBytesPerSecond: COPY_OPTIONS.copyBytesPerSecond,
  priority: COPY_OPTIONS.priority,
});

export const FlashcopyBody = Type.Object({
  id: Type.String({ examples: ['1203:1303'] }),
  source: Type.String(),
  target: Type.String(),
  sourceLss: Type.String(),
  sourceSerial: Type.String(),
  targetSerial: Type.String(),
  copyMode: oneOf('copy', 'nocopy'),
  state: oneOf('copying', 'nocopy', 'idle', 'revertible'),
  activeCopy: Type.Boolean({ description: 'false while the background copy is queued' }),
  persistent: Type.Boolean(),
  recording: Type.Boolean({ description: 'change recording' }),
  revertible: Type.Boolean(),
  targetWriteEnabled: Type.Boolean(),
  paused: Type.Boolean(),
  priority: Count,
  copyBytesPerSecond: orNull(Type.Integer({ description: 'null: no limit of its own' })),
  freeze: oneOf('none', 'frozen', 'created', 'expired'),
  frozenMs: Type.Integer({ description: 'how long the source was frozen' }),
  freezeTimeout: Type.Number({ description: "seconds, of the source's LSS" }),
  establishedAt: Time,
  totalTracks: Count,
  outOfSyncTracks: Count,
  copiedPercent: Count,
  problem: Type.Optional(Type.String({ description: 'why the background copy does not go on' })),
});
export const FlashcopiesBody = Type.Object({ flashcopies: Type.Array(FlashcopyBody) });
export const FlashcopiesQuery = strictObject({ volume: Type.Optional(Ref) });
export const PairParams = strictObject({ pair: Ref });
export const WithdrawQuery = strictObject({
  // 'true': ends by itself when all is copied.
  complete: Type.Optional(oneOf('true', 'false')),
});

export const UnfreezeBody = strictObject({
  lss: Type.Array(Ref, { minItems: 1, maxItems: 16 }),
});
export const UnfrozenBody = Type.Object({
  lss: Type.Array(
    Type.Object({
      lss: Type.String(),
      released: Type.Array(Type.String()),
      expired: Type.Array(Type.String(), { description: 'thawed before, by the time limit' }),
      frozenMs: Count,
      consistent: Type.Boolean(),
    }),
  ),
});

const UndoFields = Type.Object({
  volume: Type.String(),
  pair: Type.String({ description: 'the pair whose establish took its place' }),
  takenAt: Time,
  keptUntil: Time,
});
export const UndoneBody = UndoFields;
export const UndosBody = Type.Object({ undo: Type.Array(UndoFields) });

export const LssParams = strictObject({ lss: Ref });
export const OneLssBody = Type.Object({
  id: Type.String(),
  volumes: Count,
  freezeTimeout: Type.Number({ description: 'seconds' }),
  frozen: Type.Array(Type.String(), { description: 'sources frozen by a consistency group' }),
});
export const SetLssBody = strictObject({ freezeTimeout: Type.Number() });

export const CopySettingsBody = Type.Object({
  copyBytesPerSecond: orNull(Type.Number({ description: 'null: as fast as the disk' })),
});
export const SetCopySettingsBody = strictObject({ copyBytesPerSecond: Count });
