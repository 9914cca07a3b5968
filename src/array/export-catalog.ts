/** What the NBD listener needs of the array: the names it serves and the volume behind each. */

export interface ExportEntry {
  readonly name: string;
  readonly description: string;
}

export interface ExportTarget extends ExportEntry {
  readonly volumeId: number;
  readonly sizeBytes: number;
  readonly readOnly: boolean;
  /** Every name that leads to the volume: rules about it hold whichever a client asks for. */
  readonly names?: readonly string[];
}

export interface ExportCatalog {
  /** One entry per volume, by serial; its other names lead to it but are not listed. */
  list(): ExportEntry[];
  /** Serial of one volume, for a message; undefined when there is none. Costs nothing. */
  example(): string | undefined;
  /** By serial, volume id or name; undefined when there is no such volume. '' is no volume. */
  resolve(name: string): ExportTarget | undefined;
}
