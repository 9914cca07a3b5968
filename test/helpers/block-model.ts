/**
 * What a volume may legally hold, block by block, known to the one who wrote it.
 *
 * Every write has a sequence number of its own, and every 4 KiB block written says which one it is,
 * in all of its bytes: a torn, lost or foreign block is recognised. A block's candidates are the
 * contents it may have now: the last acknowledged write, and the one in flight. The history also
 * keeps when each write was issued and acknowledged, which decides whether a copy shows one point
 * in time (`checkPointInTime`).
 */
export const BLOCK_BYTES = 4096;
/** The content of a block that was never written. */
export const NEVER = 0;

const HEADER = Buffer.from('FLASHLUN');
const ZEROES = Buffer.alloc(BLOCK_BYTES);

/** The 4 KiB that write `seq` puts into block `block`. */
export function blockContent(block: number, seq: number): Buffer {
  const word = Buffer.alloc(32);
  HEADER.copy(word);
  word.writeUInt32LE(block, 8);
  word.writeUInt32LE(seq, 12);
  // Spread over the word, so that no shifted or mixed content looks right by chance.
  for (let at = 16; at < 32; at += 4) {
    word.writeUInt32LE(Math.imul(seq ^ (block << 7), 2_654_435_761 + at) >>> 0, at);
  }
  return Buffer.alloc(BLOCK_BYTES, word);
}

/**
 * The sequence number a block's content says, NEVER for zeroes. Throws for anything torn or
 * foreign.
 */
export function identify(content: Buffer, block: number, where: string): number {
  if (content.equals(ZEROES)) return NEVER;
  const seq = content.readUInt32LE(12);
  if (content.equals(blockContent(block, seq))) return seq;
  const start = content.subarray(0, 32).toString('hex');
  throw new Error(`${where} block ${block} is torn or foreign; it starts with ${start}`);
}

/** All writes of a test: when they were issued and acknowledged, by one clock. */
export class History {
  readonly #issuedAt: number[] = [0];
  readonly #ackedAt: number[] = [0];
  readonly #zero: boolean[] = [true];
  #clock = 1;

  /** A new write; `zero` for one that writes zeroes. */
  issue(zero: boolean): number {
    this.#issuedAt.push(this.#clock++);
    this.#ackedAt.push(Number.POSITIVE_INFINITY);
    this.#zero.push(zero);
    return this.#issuedAt.length - 1;
  }

  ack(seq: number): void {
    this.#ackedAt[seq] = this.#clock++;
  }

  isZero(seq: number): boolean {
    return this.#zero[seq]!;
  }

  issuedAt(seq: number): number {
    return this.#issuedAt[seq]!;
  }

  /** Infinity for a write that was never acknowledged. */
  ackedAt(seq: number): number {
    return this.#ackedAt[seq]!;
  }
}

/** For each block the writes it may hold. */
export type Candidates = number[][];

export class VolumeModel {
  readonly name: string;
  readonly blocks: number;
  /**
   * Undefined: the content is not defined (the target of a nocopy relationship that was withdrawn).
   */
  candidates: Candidates | undefined;
  /** Blocks written since the volume became a target: they do not show T0. */
  readonly ownBlocks = new Set<number>();
  readonly #history: History;
  readonly #nextWrite = new Map<number, number>();
  readonly #firstWrite = new Map<number, number>();
  #recorder: Candidates | undefined;
  #alternative: Candidates | undefined;

  constructor(name: string, blocks: number, history: History) {
    this.name = name;
    this.blocks = blocks;
    this.candidates = Array.from({ length: blocks }, () => [NEVER]);
    this.#history = history;
  }

  issue(block: number, zero: boolean): number {
    const list = this.candidates![block]!;
    const seq = this.#history.issue(zero);
    if (list[0] === NEVER) this.#firstWrite.set(block, seq);
    else this.#nextWrite.set(list.at(-1)!, seq);
    list.push(seq);
    this.#recorder?.[block]!.push(seq);
    this.ownBlocks.add(block);
    return seq;
  }

  ack(block: number, seq: number): void {
    this.#history.ack(seq);
    this.candidates![block] = [seq];
  }

  /**
   * An establish is sent with this volume as the source: from now on, collects what T0 may hold.
   */
  startRecording(): void {
    this.#recorder = this.candidates!.map((list) => [...list]);
  }

  /** The establish was acknowledged: the target holds the source's T0. */
  becomeCopyOf(source: VolumeModel): void {
    this.candidates = source.#recorder;
    source.#recorder = undefined;
    this.#alternative = undefined;
    this.ownBlocks.clear();
  }

  /**
   * The answer to the establish was lost: the target holds all of the source's T0 or nothing of it.
   */
  mayBeCopyOf(source: VolumeModel): void {
    this.#alternative = source.#recorder;
    source.#recorder = undefined;
  }

  /** Compares what was read with what may be there, and takes it as the state from now on. */
  settle(observed: readonly number[]): void {
    const problem = this.#mismatch(observed, this.candidates);
    const legal =
      problem === undefined ? this.candidates : this.#checkAlternative(observed, problem);
    this.candidates = observed.map((seen, block) => [this.#choose(seen, legal?.[block]) ?? seen]);
    this.#alternative = undefined;
  }

  /**
   * A copy of this volume shows one moment: it holds no write issued after another block's newer
   * write had been acknowledged. Blocks that show nothing of T0 are undefined in `contents`.
   */
  checkPointInTime(contents: readonly (number | undefined)[]): void {
    let latest = { block: -1, at: 0 };
    let earliest = { block: -1, at: Number.POSITIVE_INFINITY };
    contents.forEach((seq, block) => {
      // Zeroes do not say which write they are of.
      if (seq === undefined || (seq !== NEVER && this.#history.isZero(seq))) return;
      const at = this.#history.issuedAt(seq);
      if (at > latest.at) latest = { block, at };
      const missing = seq === NEVER ? this.#firstWrite.get(block) : this.#nextWrite.get(seq);
      const missingAt = missing === undefined ? Infinity : this.#history.ackedAt(missing);
      if (missingAt < earliest.at) earliest = { block, at: missingAt };
    });
    if (latest.at <= earliest.at) return;
    throw new Error(
      `not one point in time: block ${latest.block} holds a write issued at ${latest.at}, ` +
        `block ${earliest.block} lacks one acknowledged at ${earliest.at}`,
    );
  }

  #checkAlternative(observed: readonly number[], problem: string): Candidates {
    if (this.#alternative === undefined) throw new Error(problem);
    const second = this.#mismatch(observed, this.#alternative);
    if (second !== undefined) {
      throw new Error(`neither the content before nor after the establish: ${problem}; ${second}`);
    }
    this.ownBlocks.clear();
    return this.#alternative;
  }

  #mismatch(observed: readonly number[], legal: Candidates | undefined): string | undefined {
    if (legal === undefined) return undefined;
    const block = observed.findIndex((seen, at) => this.#choose(seen, legal[at]) === undefined);
    if (block < 0) return undefined;
    const expected = legal[block]!.join(', ');
    return `${this.name} block ${block} holds write ${observed[block]}, legal are ${expected}`;
  }

  /**
   * The candidate that an observed content is. Zeroes can be any write of zeroes: the newest is
   * taken.
   */
  #choose(seen: number, legal: readonly number[] | undefined): number | undefined {
    return legal?.findLast((seq) => (this.#history.isZero(seq) ? seen === NEVER : seen === seq));
  }
}
