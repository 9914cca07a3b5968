/** Which volumes there are and what they are called, without asking the engine for their state. */

export class VolumeIndex {
  readonly #ids = new Set<number>();
  readonly #byName = new Map<string, number>();

  /** `name` may be '', which is no name. */
  add(id: number, name: string): void {
    this.#ids.add(id);
    if (name !== '') this.#byName.set(name, id);
  }

  remove(id: number, name: string): void {
    this.#ids.delete(id);
    this.#byName.delete(name);
  }

  has(id: number): boolean {
    return this.#ids.has(id);
  }

  /** The volume called `name`; '' calls none. */
  idOf(name: string): number | undefined {
    return this.#byName.get(name);
  }

  /** Some volume, the one that has been there longest; undefined when there is none. */
  anyId(): number | undefined {
    const [id] = this.#ids;
    return id;
  }
}
